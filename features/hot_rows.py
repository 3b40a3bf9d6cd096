"""Rows in use as one array above the store: read once, packed and written back when they go cold or at a checkpoint."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from features.sparse_rows import pack, unpack
from features.store import Batch, ExpiringRows

SPARE_ROWS = 4_096  # beside those kept, for the new ids of a batch
USED = 0  # word of a row that holds the time of its last use, ms


class HotRows:
    """A write-back cache of rows of `width` int64 words over `ExpiringRows`. What is cached never shows in an answer.

    `words` holds the rows; callers write to those that `admit` gave them. Slots are kept in order of last use.
    """

    def __init__(self, table: ExpiringRows, width: int, capacity: int) -> None:
        """`capacity`: rows kept between batches; a batch with more ids than fit beside them makes the array larger."""
        self.table = table
        size = capacity + SPARE_ROWS
        self.words = np.zeros((size, width), dtype="<i8")
        self._capacity = capacity
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
        unpack(self.table.load([id_.encode() for id_ in ids], now_ms), self.words, slots)
        self._stored_ms[slots] = self.words[slots, USED]

    def _stored(self, ids: Sequence[str], now_ms: int) -> np.ndarray:
        """int64 [n, width], zeros where there is no row."""
        rows = np.empty((len(ids), self.words.shape[1]), dtype="<i8")
        unpack(self.table.load([id_.encode() for id_ in ids], now_ms), rows, np.arange(len(ids)))
        return rows

    def read(self, ids: Sequence[str], now_ms: int, words: int | None = None) -> np.ndarray:
        """int64 [n, words]: copies of the rows of distinct ids, or of their first `words`; zeros where there is none."""
        slots = np.array([self._slot_of.get(id_, -1) for id_ in ids], dtype=np.int64)
        rows, missing = self.words[:, :words][slots], np.flatnonzero(slots < 0)
        rows[missing] = self._stored([ids[at] for at in missing.tolist()], now_ms)[:, :words]
        return rows

    def trim(self, batch: Batch) -> None:
        """Let the rows longest unused go, down to the capacity; those that changed go into `batch`."""
        cold = list(islice(self._slot_of, max(0, len(self._slot_of) - self._capacity)))
        if not cold:
            return
        slots = self._write(cold, batch)
        for id_ in cold:
            del self._slot_of[id_]
        self._free.extend(slots)

    def flush(self, batch: Batch) -> None:
        """Put every changed row into `batch`."""
        self._write(list(self._slot_of), batch)

    def _write(self, ids: list[str], batch: Batch) -> list[int]:
        slots = [self._slot_of[id_] for id_ in ids]
        changed = np.flatnonzero(self._dirty[slots])
        at = np.array(slots, dtype=np.int64)[changed]
        used_ms = self.words[at, USED]
        self.table.save(batch, [ids[k].encode() for k in changed.tolist()], pack(self.words[at]), used_ms, self._stored_ms[at])
        self._dirty[at], self._stored_ms[at] = False, used_ms
        return slots
