"""A user's last events by behaviour, newest first by event time, in a fixed number of words.

Entry: fingerprint of the item (two words), event time ms << TYPE_BITS | type code, ordinal (32 bits) with the value (float32).
Ordinals say in which order events of one time came, and so keep the order over behaviours.
"""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled
from core.hashing import FINGERPRINT_BYTES

ENTRY_WORDS = 4
TYPE_BITS = 8
CODES = 1 << TYPE_BITS
ORDINALS = 1 << 32


class Entry(NamedTuple):
    """One event of a sequence."""

    item: bytes  # fingerprint
    code: int
    ts_ms: int
    value: float  # NaN: none
    ordinal: int  # modulo ORDINALS


@compiled
def append(sequence: np.ndarray, floats: np.ndarray, item: np.ndarray, ts_ms: int, code: int, value: float, ordinal: int) -> None:
    """Put an event at its place in time; of equal times the later row comes first. The oldest goes.

    Args:
        sequence, floats: int64 [entries x ENTRY_WORDS] and float32 [2 x that], the same memory. Updated.
        item: int64 [2], fingerprint.
    """
    at, size = 0, sequence.shape[0]
    while at < size and sequence[at + 2] >> TYPE_BITS > ts_ms:
        at += ENTRY_WORDS
    if at >= size:
        return
    for word in range(size - 1, at + ENTRY_WORDS - 1, -1):
        sequence[word] = sequence[word - ENTRY_WORDS]
    sequence[at], sequence[at + 1] = item[0], item[1]
    sequence[at + 2] = ts_ms << TYPE_BITS | code
    sequence[at + 3] = ordinal % ORDINALS
    floats[2 * (at + 3) + 1] = value


def entries(sequence: np.ndarray) -> list[Entry]:
    """The events of one sequence, int64 [entries x ENTRY_WORDS], newest first."""
    rows = np.ascontiguousarray(sequence).reshape(-1, ENTRY_WORDS)
    rows = rows[rows[:, 2] != 0]
    items, values = rows[:, :2].tobytes(), np.ascontiguousarray(rows[:, 3]).view(np.float32)[1::2].tolist()
    each = enumerate(zip(rows[:, 2].tolist(), rows[:, 3].tolist(), values, strict=True))
    return [Entry(_item(items, at), word % CODES, word >> TYPE_BITS, value, low % ORDINALS) for at, (word, low, value) in each]


def _item(items: bytes, at: int) -> bytes:
    return items[at * FINGERPRINT_BYTES : (at + 1) * FINGERPRINT_BYTES]


def merged(sequences: list[list[Entry]]) -> list[Entry]:
    """The events of several behaviours in one order, newest first. Ordinals may have come round once."""
    every = [entry for sequence in sequences for entry in sequence]
    middle = max(every, key=lambda entry: entry.ts_ms).ordinal + ORDINALS // 2 if every else 0  # farthest from the newest one's
    return sorted(every, key=lambda entry: (entry.ts_ms, (entry.ordinal - middle) % ORDINALS), reverse=True)
