"""Rows in use as one array above the store; those that went cold lie packed between the two. Written at a checkpoint, or to make room."""

from collections.abc import Mapping, Sequence
from itertools import compress, islice

import numpy as np

from features.packed_rows import Packed, PackedRows, used_ms
from features.sparse_rows import pack, unpack
from features.store import Batch, ExpiringRows

SPARE_ROWS = 4_096  # beside those kept, for the new ids of a batch
USED = 0  # word of a row that holds the time of its last use, ms


class HotRows:
    """A write-back cache of rows of `width` int64 words over `ExpiringRows`. What is cached never shows in an answer.

    `words` holds the rows; callers write to those that `admit` gave them. Slots are kept in order of last use.
    """

    def __init__(self, table: ExpiringRows, width: int, capacity: int, packed_bytes: int) -> None:
        """`capacity`: rows kept between batches, beside which `packed_bytes` of packed ones are; a batch with more new ids than fit
        makes the array larger."""
        self.table = table
        size = capacity + SPARE_ROWS
        self.words = np.zeros((size, width), dtype="<i8")
        self._capacity, self._packed = capacity, PackedRows(packed_bytes)
        self._slot_of: dict[str, int] = {}
        self._free = list(range(size - 1, -1, -1))
        self._dirty = np.zeros(size, dtype=np.bool_)
        self._stored_ms = np.zeros(size, dtype=np.int64)  # time in the stored value of each slot's row, 0 where there is none

    def admit(self, ids: Sequence[str], now_ms: int) -> np.ndarray:
        """int64 [n]: slot of each of n distinct ids, whose rows will be written; zeros where nothing was stored."""
        pop = self._slot_of.pop
        slots = np.array([pop(id_, -1) for id_ in ids], dtype=np.int64)
        missing = np.flatnonzero(slots < 0)
        slots[missing] = self._take(missing.size)
        self._load(slots[missing], [ids[at] for at in missing.tolist()], now_ms)
        self._slot_of.update(zip(ids, slots.tolist(), strict=True))
        self._dirty[slots] = True
        return slots

    def _take(self, count: int) -> list[int]:
        while len(self._free) < count:
            self._grow()
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return taken

    def _grow(self) -> None:
        size = self.words.shape[0]
        self.words = np.concatenate([self.words, np.zeros_like(self.words)])
        self._dirty = np.concatenate([self._dirty, np.zeros_like(self._dirty)])
        self._stored_ms = np.concatenate([self._stored_ms, np.zeros_like(self._stored_ms)])
        self._free.extend(range(size, 2 * size))

    def _load(self, slots: np.ndarray, ids: list[str], now_ms: int) -> None:
        values, stored_ms = self._found(ids, self._packed.pop(ids), now_ms)
        unpack(values, self.words, slots)
        self._stored_ms[slots] = np.where(stored_ms < 0, self.words[slots, USED], stored_ms)

    def _found(self, ids: list[str], held: list[Packed | None], now_ms: int) -> tuple[list[bytes | None], np.ndarray]:
        """The packed row of each id, None where there is none; int64 [n], time in the store's value, -1: that which the value has."""
        values = [row[0] if row else None for row in held]
        missing = [at for at, row in enumerate(held) if row is None]
        for at, value in zip(missing, self.table.load([ids[at].encode() for at in missing], now_ms), strict=True):
            values[at] = value
        return values, np.fromiter((row[1] if row else -1 for row in held), np.int64, len(held))

    def read(self, ids: Sequence[str], now_ms: int, words: int | None = None) -> np.ndarray:
        """int64 [n, words]: copies of the rows of distinct ids, or of their first `words`; zeros where there is none."""
        slots = np.array([self._slot_of.get(id_, -1) for id_ in ids], dtype=np.int64)
        rows, missing = self.words[:, :words][slots], np.flatnonzero(slots < 0)
        cold_ids, cold = [ids[at] for at in missing.tolist()], np.empty((missing.size, self.words.shape[1]), dtype="<i8")
        unpack(self._found(cold_ids, self._packed.get(cold_ids), now_ms)[0], cold, np.arange(missing.size))
        rows[missing] = cold[:, :words]
        return rows

    def trim(self, batch: Batch) -> None:
        """Pack the rows longest unused, down to the capacity; those for which there is no room then, and that changed, go into `batch`."""
        cold = list(islice(self._slot_of, max(0, len(self._slot_of) - self._capacity)))
        if not cold:
            return
        slots = [self._slot_of.pop(id_) for id_ in cold]
        self._packed.put(cold, self._packed_rows(np.array(slots)))
        self._free.extend(slots)
        self._save(batch, self._packed.trim())

    def _packed_rows(self, slots: np.ndarray) -> list[Packed]:
        return list(zip(pack(self.words[slots]), self._stored_ms[slots].tolist(), self._dirty[slots].tolist(), strict=True))

    def flush(self, batch: Batch) -> None:
        """Put every changed row into `batch`."""
        slots = np.array(list(self._slot_of.values()), dtype=np.int64)
        changed = self._dirty[slots]
        ids = compress(self._slot_of, changed.tolist())
        self._save(batch, {**dict(zip(ids, self._packed_rows(slots[changed]), strict=True)), **self._packed.changed()})
        self._dirty[slots], self._stored_ms[slots] = False, self.words[slots, USED]
        self._packed.keep_stored()

    def _save(self, batch: Batch, rows: Mapping[str, Packed]) -> None:
        values = [value for value, _, _ in rows.values()]
        times = np.array([(used_ms(value), stored_ms) for value, stored_ms, _ in rows.values()], dtype=np.int64).reshape(-1, 2)
        self.table.save(batch, [id_.encode() for id_ in rows], values, times[:, 0], times[:, 1])
