"""Events seen before: an event id of a user counts once within a horizon of event time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from core.compiled import compiled
from core.fingerprint_map import Index, empty_index, insert_rows, put_key, row_of
from core.frames import present
from core.hashing import FINGERPRINT_BYTES
from features.store import ExpiringRows, StateStore

FAMILY = "seen"
RECENT_IDS = 1 << 16  # in memory, then written at once and in order, at a third of what one by one costs
_NEVER = bytes(8)


class Seen(NamedTuple):
    """When ids were last accepted."""

    ids: Index  # a row per id, in the order in which they came
    ms: np.ndarray  # int64 [rows]
    held: np.ndarray  # int64 [1], how many


def room_for(ids: int) -> Seen:
    """Without an id."""
    return Seen(empty_index(ids), np.empty(ids, dtype=np.int64), np.zeros(1, dtype=np.int64))


@compiled
def find(seen: Seen, keys: np.ndarray, ms: np.ndarray) -> None:
    """Fill `ms`, int64 [n], for int64 [n, 2] keys; 0 of one that is not there."""
    for i in range(keys.shape[0]):
        row = row_of(seen.ids, keys[i, 0], keys[i, 1])
        ms[i] = seen.ms[row] if row >= 0 else 0


@compiled
def mark_repeats(seen: Seen, keys: np.ndarray, known_ms: np.ndarray, now_ms: np.ndarray, horizon_ms: int, repeats: np.ndarray) -> None:
    """Row by row: repeated when its id was seen less than `horizon_ms` before, else seen now.

    Args:
        seen: with room for n ids. Updated.
        keys: int64 [n, 2], of each row's id.
        known_ms: int64 [n], when an id that is not in `seen` was last accepted, 0 for never.
        now_ms: int64 [n], time at each row, never falling, above 0.
        repeats: bool [n]. Filled.
    """
    for i in range(keys.shape[0]):
        row = row_of(seen.ids, keys[i, 0], keys[i, 1])
        seen_ms = seen.ms[row] if row >= 0 else known_ms[i]
        repeats[i] = seen_ms > 0 and now_ms[i] - seen_ms < horizon_ms
        if not repeats[i]:
            if row < 0:
                row = seen.held[0]
                put_key(seen.ids, row, keys[i, 0], keys[i, 1])
                seen.held[0] += 1
            seen.ms[row] = now_ms[i]


class Duplicates:
    """The event ids of the last `horizon_ms` of event time.

    In: rows in log order. Out: which of them repeat an id of the same user. State: fingerprint of (user, event id) -> int64 ms of the
    row that was accepted. The user is part of the key, or the answer would depend on which users share a partition. What was accepted
    since the last `flush` is in memory alone.
    """

    def __init__(self, store: StateStore, horizon_ms: int) -> None:
        self.rows = ExpiringRows(store, FAMILY, horizon_ms)
        self._horizon_ms = horizon_ms
        self._seen = room_for(RECENT_IDS)

    def mark(self, users: Sequence[str], event_ids: Sequence[str | None], now_ms: np.ndarray, before_ms: int) -> np.ndarray:
        """bool [n]: the rows to drop.

        Args:
            users: n user ids.
            event_ids: n event ids; None is never a duplicate.
            now_ms: int64 [n], time at each row.
            before_ms: the time at the last row before these.
        """
        repeats = np.zeros(len(users), dtype=np.bool_)
        named = present(event_ids)
        ids = _keys(users, event_ids)
        keys = np.frombuffer(bytearray().join(ids), dtype="<i8").reshape(-1, 2)
        self._make_room(len(ids))
        known_ms, found = self._known_ms(ids, keys, before_ms), np.empty(len(ids), dtype=np.bool_)
        mark_repeats(self._seen, keys, known_ms, now_ms[named], self._horizon_ms, found)
        repeats[named] = found
        return repeats

    def _make_room(self, ids: int) -> None:
        """For so many more."""
        held = int(self._seen.held[0])
        if held + ids > self._seen.ms.size:
            full, self._seen = self._seen, room_for(held + ids)
            insert_rows(self._seen.ids, full.ids.keys[:held], np.arange(held))
            self._seen.ms[:held], self._seen.held[0] = full.ms[:held], held

    def _known_ms(self, ids: list[bytes], keys: np.ndarray, before_ms: int) -> np.ndarray:
        """int64 [n]: when each id was last accepted, 0 for never."""
        known_ms = np.empty(len(ids), dtype=np.int64)
        find(self._seen, keys, known_ms)
        others = np.flatnonzero(known_ms == 0)
        stored = self.rows.load([ids[at] for at in others.tolist()], before_ms)
        known_ms[others] = np.frombuffer(b"".join([value or _NEVER for value in stored]), dtype="<i8")
        return known_ms

    def trim(self) -> None:
        """Write what is in memory to the store if it is much."""
        if self._seen.held[0] >= RECENT_IDS:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory to the store, in order. What that has of the same ids is a horizon old: it may stay."""
        held = int(self._seen.held[0])
        at = np.argsort(self._seen.ids.keys[:held, 0].byteswap().view(np.uint64))
        ms, keys = self._seen.ms[at], self._seen.ids.keys[at]
        batch = self.rows.store.batch()
        self.rows.save(batch, _each(keys, FINGERPRINT_BYTES), _each(ms, len(_NEVER)), ms, np.zeros_like(ms))
        self.rows.store.write(batch)
        self._seen = room_for(RECENT_IDS)


def _keys(users: Sequence[str], event_ids: Sequence[str | None]) -> list[bytes]:
    """The key of each row that has an event id, 16 bytes. The length keeps ("a", "bc") apart from ("ab", "c")."""
    texts = [f"{len(user)} {user}{event_id}" for user, event_id in zip(users, event_ids, strict=True) if event_id is not None]
    return list(map(xxhash.xxh3_128_digest, map(str.encode, texts)))


def _each(rows: np.ndarray, size: int) -> list[bytes]:
    """The bytes of each row, of that size."""
    raw = rows.tobytes()
    return [raw[start : start + size] for start in range(0, len(raw), size)]
