"""A user's last items: distinct, newest first by event time, in a fixed number of words."""

import numpy as np

from core.compiled import compiled
from core.hashing import FINGERPRINT_BYTES

ENTRY_WORDS = 3  # fingerprint (two words), event time ms << TYPE_BITS | type code
TYPE_BITS = 8


@compiled
def remember(recent: np.ndarray, held: int, item: np.ndarray, ts_ms: int, code: int) -> int:
    """Put one sight of an item at its place in time; returns how many items are held then.

    An item held already moves to its newer sight; an older sight of it changes nothing. Of equal times the later row comes first.

    Args:
        recent: int64 [items x ENTRY_WORDS]. Updated.
        held: entries in use.
        item: int64 [2], fingerprint.
        ts_ms: time of the sight.
        code: type code, 0 to 255.
    """
    room, at, same = recent.shape[0] // ENTRY_WORDS, 0, -1
    while at < held and recent[at * ENTRY_WORDS + 2] >> TYPE_BITS > ts_ms:
        at += 1
    for k in range(held):
        if recent[k * ENTRY_WORDS] == item[0] and recent[k * ENTRY_WORDS + 1] == item[1]:
            same = k
    if at == room or 0 <= same < at:
        return held
    last = same if same >= 0 else min(held, room - 1)
    for word in range((last + 1) * ENTRY_WORDS - 1, (at + 1) * ENTRY_WORDS - 1, -1):
        recent[word] = recent[word - ENTRY_WORDS]
    recent[at * ENTRY_WORDS], recent[at * ENTRY_WORDS + 1] = item[0], item[1]
    recent[at * ENTRY_WORDS + 2] = ts_ms << TYPE_BITS | code
    return held if same >= 0 else min(held + 1, room)


def recent_fingerprints(recent: np.ndarray, held: np.ndarray) -> list[bytes]:
    """The items of each user as bytes: FINGERPRINT_BYTES an item, newest first.

    Args:
        recent: int64 [users, items x ENTRY_WORDS].
        held: int64 [users].
    """
    users = recent.shape[0]
    items = recent.reshape(users, -1, ENTRY_WORDS)[:, :, :2]
    raw, span = items.tobytes(), items.shape[1] * FINGERPRINT_BYTES
    return [raw[at * span : at * span + count * FINGERPRINT_BYTES] for at, count in enumerate(held.tolist())]
