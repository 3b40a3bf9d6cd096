"""Rows in use as one array above the store; those that went cold lie packed between the two. Written at a checkpoint, or to make room."""

from collections.abc import Iterable, Sequence
from itertools import chain, compress, repeat

import numpy as np

from features.packed_kernel import Packed
from features.packed_rows import PackedRows, keys_of
from features.sparse_rows import flat, nexts, pack, unpack
from features.store import ExpiringRows

MADE_FREE = 8  # one in so many rows, where one is needed: each search for the longest unused looks at all
FLUSHED_ROWS = 16_384
SOON = 2  # a row that is used again within so many capacities of others' uses is worth a place
NEVER = -(1 << 60)
_NOBODY = np.empty(0, dtype=np.int64)
USED = 0  # word of a row that holds the time of its last use, ms


class HotRows:
    """A write-back cache of rows of `width` int64 words over `ExpiringRows`. What is cached never shows in an answer.

    `words` holds the rows; callers write to those that `admit` gave them. A row that was not used for long is a visitor: unless the next
    batch uses it too, it is packed then, while the processor still has it at hand. So the many users who come once in a while do not
    push out those who come often; nor is a row as wide as all others fetched from far away for each of them, and one pushed out.
    """

    def __init__(self, table: ExpiringRows, width: int, capacity: int, packed_bytes: int, parts: Iterable[tuple[int, int]] = ()) -> None:
        """Of rows of `width` words.

        Args:
            capacity: rows kept as they are; a batch with more distinct ids makes the array larger, for good.
            packed_bytes: of packed rows, beside them.
            parts: of a row, see `features.sparse_rows.nexts`.
        """
        self.table = table
        self.words = np.zeros((capacity, width), dtype="<i8")  # a free row is zeros
        self._packed, self._following = PackedRows(packed_bytes), nexts(width, parts)
        self._slot_of: dict[str, int] = {}
        self._ids = np.empty(capacity, dtype=object)  # of each slot in use
        self._free = list(range(capacity - 1, -1, -1))
        self._used = np.zeros(capacity, dtype=np.int64)  # uses of all ids up to the last one of each slot, 0 where it is free
        self._uses = self._visited = 0  # now, and when the visitors came
        self._visitors = self._arrived = _NOBODY  # slots, of the batch before this one, and of this one
        self._dirty = np.zeros(capacity, dtype=np.bool_)
        self._stored_ms = np.zeros(capacity, dtype=np.int64)  # time in the stored value of each slot's row, 0 where there is none

    def admit(self, ids: Sequence[str], now_ms: int) -> np.ndarray:
        """int64 [n]: slot of each of n distinct ids, whose rows will be written; zeros where nothing was stored."""
        slots, before = self._lookup(ids), self._uses
        self._uses += len(ids)
        self._used[slots[slots >= 0]] = self._uses
        missing = np.flatnonzero(slots < 0).tolist()
        if missing:
            self._make_room(len(missing))
            slots[missing] = self._load([ids[at] for at in missing], now_ms, before)
        self._used[slots], self._dirty[slots] = self._uses, True
        return slots

    def _lookup(self, ids: Sequence[str]) -> np.ndarray:
        return np.fromiter(map(self._slot_of.get, ids, repeat(-1)), np.int64, len(ids))

    def _make_room(self, count: int) -> None:
        """Have as many slots free, of rows that this batch does not use; of new ones where these are not enough."""
        more = count - len(self._free)
        if more > 0:
            others = np.flatnonzero((self._used > 0) & (self._used < self._uses))
            oldest = others[np.argsort(self._used[others], kind="stable")]
            self._pack(oldest[: max(more, self._used.size // MADE_FREE)])
        while len(self._free) < count:
            self._grow()

    def _load(self, ids: list[str], now_ms: int, uses: int) -> np.ndarray:
        """int64 [n]: slots for ids that have none, with their rows. `uses`: of all ids, before this batch."""
        slots = [self._free.pop() for _ in ids]
        self._slot_of.update(zip(ids, slots, strict=True))
        at = np.array(slots, dtype=np.int64)
        self._ids[at] = ids
        used, self._stored_ms[at] = self._unpack(ids, now_ms, self.words, at, leave=False)
        self._arrived = at[uses - used > SOON * self.words.shape[0]]
        return at

    def _grow(self) -> None:
        size = self.words.shape[0]
        for name in ("words", "_ids", "_used", "_dirty", "_stored_ms"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
        self._free.extend(range(size, 2 * size))

    def _unpack(self, ids: list[str], now_ms: int, into: np.ndarray, at: np.ndarray, leave: bool) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n], last use of each of the packed rows, NEVER of others; int64 [n], time in the store's value, 0 where there is none.

        Args:
            into: zeros; gets the rows at these places, `at`.
            leave: the packed ones where they are.
        """
        keys, used, stored_ms = list(map(str.encode, ids)), np.full(len(ids), NEVER), np.empty(len(ids), dtype=np.int64)
        found = self._packed.get(keys_of(keys), leave)
        used[found.there], stored_ms[found.there] = found.used, found.stored_ms
        unpack(found.values, into, at[found.there])
        others = np.flatnonzero(~found.there)
        if others.size:
            loaded = self.table.load([keys[i] for i in others.tolist()], now_ms)
            unpack(flat([value or b"" for value in loaded]), into, at[others])
            stored_ms[others] = into[at[others], USED]
        return used, stored_ms

    def read(self, ids: Sequence[str], now_ms: int, words: int | None = None) -> np.ndarray:
        """int64 [n, words]: copies of the rows of distinct ids, or of their first `words`; zeros where there is none."""
        slots = self._lookup(ids)
        rows: np.ndarray = self.words[:, :words][slots]
        missing = np.flatnonzero(slots < 0)
        if missing.size:
            cold = np.zeros((missing.size, self.words.shape[1]), dtype="<i8")
            self._unpack([ids[at] for at in missing.tolist()], now_ms, cold, np.arange(missing.size), leave=True)
            rows[missing] = cold[:, :words]
        return rows

    def trim(self) -> None:
        """After a batch: pack the visitors that only the one before used."""
        visitors = self._visitors[self._used[self._visitors] == self._visited]
        self._visitors, self._visited, self._arrived = self._arrived, self._uses, _NOBODY
        self._pack(visitors)

    def _pack(self, slots: np.ndarray) -> None:
        """Free these slots. What changed among the packed rows that theirs push out goes to the store."""
        if not slots.size:
            return
        self._save(self._packed.put(self._packed_rows(slots, clear=True)))
        for id_ in self._ids[slots].tolist():
            del self._slot_of[id_]
        self._used[slots], self._ids[slots] = 0, None
        self._free.extend(slots.tolist())

    def _packed_rows(self, slots: np.ndarray, clear: bool = False) -> Packed:
        keys = keys_of(list(map(str.encode, self._ids[slots].tolist())))
        return Packed(keys, pack(self.words, slots, self._following, clear), self._used[slots], self._stored_ms[slots], self._dirty[slots])

    def flush(self) -> None:
        """Write every changed row to the store, some at a time: a million would take as much memory again on their way."""
        slots = np.flatnonzero((self._used > 0) & self._dirty)
        hot = (self._packed_rows(slots[start : start + FLUSHED_ROWS]) for start in range(0, slots.size, FLUSHED_ROWS))
        for rows in chain(hot, self._packed.flush(FLUSHED_ROWS)):
            self._save([rows])
        self._dirty[slots], self._stored_ms[slots] = False, self.words[slots, USED]

    def _save(self, several: list[Packed]) -> None:
        """Write those of the rows that changed."""
        for rows in several:
            batch, changed = self.table.store.batch(), rows.changed
            keys, values = (list(compress(part, changed.tolist())) for part in (rows.keys.split(), rows.values.split()))
            self.table.save(batch, keys, values, rows.used_ms[changed], rows.stored_ms[changed])
            self.table.store.write(batch)
