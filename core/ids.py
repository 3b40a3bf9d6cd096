"""Strings outside, dense rows inside: an exact map with a bounded number of rows."""

import hashlib
from collections.abc import Iterable, Sequence
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
    """Id -> row, in order of last use. Rows are freed only by `evict`, so that a batch never loses one half-way.

    State: the ids in order of last use (oldest first) with their rows, and the free rows.

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

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, ids: Iterable[str]) -> np.ndarray:
        """int32 [n], -1 where the id has no row. Changes nothing."""
        get = self._rows.get
        return np.array([get(id_, -1) for id_ in ids], dtype=np.int32)

    def admit(self, ids: Iterable[str]) -> np.ndarray:
        """int32 [n]: the row of each id, given one where it has none; all become the last used, in order."""
        told, rows = list(ids), self._rows
        distinct = dict.fromkeys(told)
        for id_ in [id_ for id_ in distinct if id_ not in rows]:
            rows[id_] = self._take(id_)
        last = told if len(distinct) == len(told) else list(dict.fromkeys(reversed(told)))[::-1]
        rows.update(zip(last, list(map(rows.pop, last)), strict=True))
        return np.array(list(map(rows.__getitem__, told)), dtype=np.int32)

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
            self.ids[row] = None
            self._free.append(row)
        return row

    def evict(self) -> list[tuple[str, int]]:
        """Between segments: free the rows longest unused until a segment's worth is free. Returns what went."""
        room = self.capacity - len(self._rows)
        wanted = max(_RESERVE, self.capacity // 64) - room if room < _RESERVE else 0
        oldest = [id_ for id_, _ in zip(self._rows, range(wanted), strict=False)]
        self.evicted += len(oldest)
        return [(id_, self.remove(id_)) for id_ in oldest]

    def snapshot(self, into: Snapshot) -> None:
        state = {"ids": list(self._rows), "rows": list(self._rows.values()), "free": self._free, "size": len(self.ids)}
        into.write(_FILE, msgspec.msgpack.encode(state))

    def restore(self, directory: Path) -> None:
        state = msgspec.msgpack.decode((directory / _FILE).read_bytes())
        self._rows = dict(zip(state["ids"], state["rows"], strict=True))
        self._free, self.ids = state["free"], [None] * state["size"]
        for id_, row in self._rows.items():
            self.ids[row] = id_

    def digest(self) -> str:
        return hashlib.sha256(msgspec.msgpack.encode([list(self._rows.items()), self._free])).hexdigest()


def dense(keys: Sequence[Key]) -> tuple[list[Key], np.ndarray]:
    """The distinct keys in order of first appearance, and int64 [n]: the index of each key among them."""
    distinct = list(dict.fromkeys(keys))
    if len(distinct) == len(keys):
        return distinct, np.arange(len(keys))
    index_of = dict(zip(distinct, range(len(distinct)), strict=True))
    return distinct, np.fromiter(map(index_of.__getitem__, keys), dtype=np.int64, count=len(keys))
