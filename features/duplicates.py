"""Events seen before: an event id of a user counts once within a horizon of event time."""

from collections.abc import Sequence

import numpy as np
import xxhash

from core.compiled import compiled
from core.ids import dense
from features.store import Batch, ExpiringRows, StateStore

FAMILY = "seen"
NEVER = bytes(8)


@compiled
def mark_repeats(slots: np.ndarray, now_ms: np.ndarray, horizon_ms: int, seen_ms: np.ndarray, repeats: np.ndarray) -> None:
    """Row by row: repeated when its id was seen less than `horizon_ms` before, else seen now.

    Args:
        slots: int64 [n], index of each row's id in `seen_ms`, -1 where it has none.
        now_ms: int64 [n], time at each row, never falling.
        seen_ms: int64 [ids], when each id was last accepted, 0 for never. Updated.
        repeats: bool [n]. Filled.
    """
    for i in range(slots.shape[0]):
        slot = slots[i]
        repeats[i] = slot >= 0 and seen_ms[slot] > 0 and now_ms[i] - seen_ms[slot] < horizon_ms
        if slot >= 0 and not repeats[i]:
            seen_ms[slot] = now_ms[i]


class Duplicates:
    """The event ids of the last `horizon_ms` of event time.

    In: rows in log order. Out: which of them repeat an id of the same user. State: fingerprint of (user, event id) -> int64 ms of the
    row that was accepted. The user is part of the key, or the answer would depend on which users share a partition.
    """

    def __init__(self, store: StateStore, horizon_ms: int) -> None:
        self.rows = ExpiringRows(store, FAMILY, horizon_ms)
        self._horizon_ms = horizon_ms

    def mark(self, users: Sequence[str], event_ids: Sequence[str | None], now_ms: np.ndarray, before_ms: int, batch: Batch) -> np.ndarray:
        """bool [n]: the rows to drop. What is seen first goes into `batch`.

        Args:
            users: n user ids.
            event_ids: n event ids; None is never a duplicate.
            now_ms: int64 [n], time at each row.
            before_ms: the time at the last row before these.
            batch: of the store.
        """
        keys, slots = _keys(users, event_ids)
        loaded_ms = np.frombuffer(b"".join([value or NEVER for value in self.rows.load(keys, before_ms)]), dtype="<i8")
        seen_ms, repeats = loaded_ms.copy(), np.empty(slots.size, dtype=np.bool_)
        mark_repeats(slots, now_ms, self._horizon_ms, seen_ms, repeats)
        self._save(keys, seen_ms, loaded_ms, batch)
        return repeats

    def _save(self, keys: list[bytes], seen_ms: np.ndarray, loaded_ms: np.ndarray, batch: Batch) -> None:
        new = np.flatnonzero(seen_ms != loaded_ms)
        raw = seen_ms[new].tobytes()
        values = [raw[at : at + 8] for at in range(0, len(raw), 8)]
        self.rows.save(batch, [keys[at] for at in new.tolist()], values, seen_ms[new], loaded_ms[new])


def _keys(users: Sequence[str], event_ids: Sequence[str | None]) -> tuple[list[bytes], np.ndarray]:
    """The distinct keys, 16 bytes each, and the index of each row's key (-1 without an event id).

    The length keeps ("a", "bc") apart from ("ab", "c").
    """
    texts = [f"{len(user)} {user}{event_id}" for user, event_id in zip(users, event_ids, strict=True) if event_id is not None]
    keys, slots = dense(list(map(xxhash.xxh3_128_digest, map(str.encode, texts))))
    if len(texts) == len(users):
        return keys, slots
    sparse = np.full(len(users), -1, dtype=np.int64)
    sparse[[event_id is not None for event_id in event_ids]] = slots
    return keys, sparse
