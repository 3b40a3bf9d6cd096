"""Strings outside, dense rows inside: an exact map with a bounded number of rows."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from core.errors import SettingsError
from core.snapshot import Snapshot

Key = TypeVar("Key", str, bytes)

Credit = Callable[[], np.ndarray]  # int64 [size]: uses by which each row counts as used later than it was

SEGMENT_ROWS = 256  # the learner stage cuts its log here, whatever the batches were; maintenance happens at the cuts
_FILE = "ids.msgpack"
_RESERVE = 2 * SEGMENT_ROWS  # new ids that one segment of the log can bring: a user and an item a row


class RowTable:
    """Rows given out, in order of last use. They are evicted between segments only, so that a batch never loses one half-way.

    Budget: a use is a number per row; the order is made where it is asked for.

    State: the free rows, and the order of the others.

    Attributes:
        size: rows ever given out.
        admitted, evicted: how many were given out, and taken back to make room, since the process started.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 4 * _RESERVE:
            raise SettingsError(f"a table needs at least {4 * _RESERVE} rows, got {capacity}")
        self.capacity = capacity
        self.size = self.admitted = self.evicted = 0
        self._free: list[int] = []
        self._used = np.zeros(capacity, dtype=np.int64)  # of each row: uses of all rows up to its last, 0 where it is free
        self._uses = 0

    def __len__(self) -> int:
        return self.size - len(self._free)

    def _take(self) -> int:
        """A free row."""
        if not self._free and self.size == self.capacity:
            raise SettingsError(f"all {self.capacity} rows are taken inside one segment; raise the table's capacity")
        self.admitted += 1
        if self._free:
            return self._free.pop()
        self.size += 1
        return self.size - 1

    def _use(self, rows: np.ndarray) -> None:
        """These, [n], become the last used, in order; of one that comes twice, the later use stands."""
        self._used[rows] = np.arange(self._uses + 1, self._uses + rows.size + 1)
        self._uses += rows.size

    def _take_back(self, row: int) -> None:
        """It is free again."""
        self._used[row] = 0
        self._free.append(row)

    def _surplus(self, credit: Credit | None = None) -> list[int]:
        """Between segments: the rows longest unused, oldest first, without which a segment's worth is free. They count as evicted."""
        room = self.capacity - len(self)
        if room >= _RESERVE:
            return []
        oldest = self._by_use(max(_RESERVE, self.capacity // 64) - room, credit() if credit else None)
        self.evicted += len(oldest)
        return oldest

    def _by_use(self, count: int, credit: np.ndarray | None = None) -> list[int]:
        """The `count` rows longest unused, oldest first; of rows that count the same, the one used first."""
        live = np.flatnonzero(self._used)
        live = live[np.argsort(self._used[live])] if credit is not None else live
        counted = self._used[live] if credit is None else self._used[live] + credit[live]
        if credit is None and count < live.size:
            nearest = np.argpartition(counted, count)[:count]
            live, counted = live[nearest], counted[nearest]
        rows: list[int] = live[np.argsort(counted, kind="stable")][:count].tolist()
        return rows

    def _order(self) -> dict[str, Any]:
        """The state, for MessagePack."""
        return {"size": self.size, "free": self._free, "used": self._used[: self.size].tobytes()}

    def _restore_order(self, state: dict[str, Any]) -> None:
        self.size, self._free = state["size"], state["free"]
        self._used = np.zeros(max(self.capacity, self.size), dtype=np.int64)
        self._used[: self.size] = np.frombuffer(state["used"], dtype="<i8")
        self._uses = int(self._used.max(initial=0))

    def _digested(self) -> list[Any]:
        """What makes two states the same."""
        return [self._by_use(len(self)), self._free]


class IdMap(RowTable):
    """Id -> row, with the order of last use. Rows are freed only by `remove` and `evict`.

    Budget: 0.1 us an id that has a row.

    State: the ids with their rows, and what `RowTable` has.

    Attributes:
        ids: of every row ever given out; None where it is free.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._rows: dict[str, int] = {}
        self.ids: list[str | None] = []

    def lookup(self, ids: Iterable[str]) -> np.ndarray:
        """int32 [n], -1 where the id has no row. Changes nothing."""
        return np.array(list(map(self._rows.get, ids, repeat(-1))), dtype=np.int32)

    def admit(self, ids: Iterable[str]) -> np.ndarray:
        """int32 [n]: the row of each id, given one where it has none; all become the last used, in order."""
        told = list(ids)
        rows = self.lookup(told)
        for at in np.flatnonzero(rows < 0).tolist():
            rows[at] = self._row_of(told[at])
        self._use(rows)
        return rows

    def _row_of(self, id_: str) -> int:
        if id_ not in self._rows:
            row = self._take()
            self.ids[row : row + 1] = [id_]
            self._rows[id_] = row
        return self._rows[id_]

    def remove(self, id_: str) -> int:
        """Free the row of `id_`; -1 where it has none."""
        row = self._rows.pop(id_, -1)
        if row >= 0:
            self.ids[row] = None
            self._take_back(row)
        return row

    def evict(self, credit: Credit | None = None) -> list[tuple[str, int]]:
        """Between segments: free the rows longest unused until a segment's worth is free. Returns what went.

        Args:
            credit: asked only where rows must go.
        """
        gone = [str(self.ids[row]) for row in self._surplus(credit)]
        return [(id_, self.remove(id_)) for id_ in gone]

    def snapshot(self, into: Snapshot) -> None:
        into.write(_FILE, msgspec.msgpack.encode({"ids": self.ids, **self._order()}))

    def restore(self, directory: Path) -> None:
        state = msgspec.msgpack.decode((directory / _FILE).read_bytes())
        self._restore_order(state)
        self.ids = state["ids"]
        self._rows = {id_: row for row, id_ in enumerate(self.ids) if id_ is not None}

    def digest(self) -> str:
        return hashlib.sha256(msgspec.msgpack.encode([self.ids, self._digested()])).hexdigest()


def dense(keys: Sequence[Key]) -> tuple[list[Key], np.ndarray]:
    """The distinct keys in order of first appearance, and int64 [n]: the index of each key among them."""
    distinct = list(dict.fromkeys(keys))
    if len(distinct) == len(keys):
        return distinct, np.arange(len(keys))
    index_of = dict(zip(distinct, range(len(distinct)), strict=True))
    return distinct, np.fromiter(map(index_of.__getitem__, keys), dtype=np.int64, count=len(keys))
