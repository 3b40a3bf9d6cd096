"""Strings outside, dense rows inside: an exact map with a bounded number of rows."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from core.errors import SettingsError
from core.snapshot import Snapshot

Key = TypeVar("Key", str, bytes)

SEGMENT_ROWS = 256  # the learner stage cuts its log here, whatever the batches were; maintenance happens at the cuts
_FILE = "ids.msgpack"
_RESERVE = 2 * SEGMENT_ROWS  # new ids that one segment of the log can bring: a user and an item a row


class IdMap:
    """Id -> row, with the order of last use. Rows are freed only by `evict`, so that a batch never loses one half-way.

    Budget: 0.1 us an id that has a row. So the order is kept as a number per row and made only where it is asked for.

    State: the ids with their rows, in which order they were last used, and the free rows.

    Attributes:
        admitted, evicted: ids that were given a row, and that lost it to make room, since the process started.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 4 * _RESERVE:
            raise SettingsError(f"a table needs at least {4 * _RESERVE} rows, got {capacity}")
        self.capacity = capacity
        self.admitted = self.evicted = 0
        self._rows: dict[str, int] = {}
        self.ids: list[str | None] = []
        self._free: list[int] = []
        self._used = np.zeros(capacity, dtype=np.int64)  # of each row: uses of all ids up to its last, 0 where it is free
        self._uses = 0

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, ids: Iterable[str]) -> np.ndarray:
        """int32 [n], -1 where the id has no row. Changes nothing."""
        return np.array(list(map(self._rows.get, ids, repeat(-1))), dtype=np.int32)

    def admit(self, ids: Iterable[str]) -> np.ndarray:
        """int32 [n]: the row of each id, given one where it has none; all become the last used, in order."""
        told = list(ids)
        rows = self.lookup(told)
        for at in np.flatnonzero(rows < 0).tolist():
            rows[at] = self._row_of(told[at])
        self._used[rows] = np.arange(self._uses + 1, self._uses + rows.size + 1)  # of an id that comes twice, the later use stands
        self._uses += rows.size
        return rows

    def _row_of(self, id_: str) -> int:
        if id_ not in self._rows:
            self._rows[id_] = self._take(id_)
        return self._rows[id_]

    def _take(self, id_: str) -> int:
        self.admitted += 1
        if self._free:
            row = self._free.pop()
            self.ids[row] = id_
            return row
        if len(self.ids) == self.capacity:
            raise SettingsError(f"all {self.capacity} rows are taken inside one segment; raise the table's capacity")
        self.ids.append(id_)
        return len(self.ids) - 1

    def remove(self, id_: str) -> int:
        """Free the row of `id_`; -1 where it has none."""
        row = self._rows.pop(id_, -1)
        if row >= 0:
            self.ids[row], self._used[row] = None, 0
            self._free.append(row)
        return row

    def evict(self) -> list[tuple[str, int]]:
        """Between segments: free the rows longest unused until a segment's worth is free. Returns what went."""
        room = self.capacity - len(self._rows)
        if room >= _RESERVE:
            return []
        oldest = self._by_use(max(_RESERVE, self.capacity // 64) - room)
        self.evicted += len(oldest)
        return [(id_, self.remove(id_)) for id_ in oldest]

    def _by_use(self, count: int) -> list[str]:
        """The `count` ids longest unused, oldest first."""
        live = np.flatnonzero(self._used)
        if count < live.size:
            live = live[np.argpartition(self._used[live], count)[:count]]
        return [str(self.ids[row]) for row in live[np.argsort(self._used[live])].tolist()]

    def snapshot(self, into: Snapshot) -> None:
        rows = list(self._rows.values())
        state = {"ids": list(self._rows), "rows": rows, "used": self._used[rows].tolist(), "free": self._free, "size": len(self.ids)}
        into.write(_FILE, msgspec.msgpack.encode(state))

    def restore(self, directory: Path) -> None:
        state = msgspec.msgpack.decode((directory / _FILE).read_bytes())
        self._rows = dict(zip(state["ids"], state["rows"], strict=True))
        self._free, self.ids = state["free"], [None] * state["size"]
        for id_, row in self._rows.items():
            self.ids[row] = id_
        self._used = np.zeros(max(self.capacity, state["size"]), dtype=np.int64)
        self._used[state["rows"]] = state["used"]
        self._uses = int(self._used.max(initial=0))

    def digest(self) -> str:
        told = [(id_, self._rows[id_]) for id_ in self._by_use(len(self))]
        return hashlib.sha256(msgspec.msgpack.encode([told, self._free])).hexdigest()


def dense(keys: Sequence[Key]) -> tuple[list[Key], np.ndarray]:
    """The distinct keys in order of first appearance, and int64 [n]: the index of each key among them."""
    distinct = list(dict.fromkeys(keys))
    if len(distinct) == len(keys):
        return distinct, np.arange(len(keys))
    index_of = dict(zip(distinct, range(len(distinct)), strict=True))
    return distinct, np.fromiter(map(index_of.__getitem__, keys), dtype=np.int64, count=len(keys))
