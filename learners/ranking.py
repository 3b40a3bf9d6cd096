"""Orders of items: by a column of `item_popularity`, highest first, computed as far as somebody reads."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from learners.tables import BLOCK_ROWS, Space, Table

_FIRST_ENTRIES = 64  # of a kept ranking: a page of 20 and 30 seen items


class Entry(NamedTuple):
    row: int
    value: float
    start_ms: int
    end_ms: int


class Items(Protocol):
    """The items of a state, as the links read them: `learners.tables.Space`, or `learners.live.LiveItems`."""

    @property
    def allocated(self) -> int: ...

    def __getitem__(self, name: str) -> "ItemTable": ...

    def id_of(self, row: int) -> str: ...


class ItemTable(Protocol):
    """One of its tables; see `learners.tables.Table`."""

    @property
    def width(self) -> int: ...

    def column(self, name: str) -> np.ndarray: ...

    def cell(self, row: int, name: str) -> Any: ...

    def wide(self, row: int) -> np.ndarray: ...

    def has(self, row: int) -> bool: ...

    def chunks(self) -> Iterable[tuple[int, np.ndarray]]: ...

    def gather(self, rows: np.ndarray) -> np.ndarray: ...


class Ranking:
    """Items by one column of `item_popularity`, highest first, ties by id; computed as far as somebody reads."""

    def __init__(self) -> None:
        self._kept: tuple[list[Entry], bool] = ([], False)  # with: whether these are all

    def __iter__(self) -> Iterator[Entry]:
        at = 0
        while True:
            entries, complete = self._kept
            if at < len(entries):
                yield entries[at]
                at += 1
            elif complete:
                return
            else:
                self._kept = self.best(max(_FIRST_ENTRIES, 2 * at))

    def best(self, count: int) -> tuple[list[Entry], bool]:
        """The first `count` entries, and whether there are no more."""
        raise NotImplementedError


class BlockRanking(Ranking):
    """Over blocks that know their highest value: a pass over blocks and a sort of the rows in the best of them."""

    def __init__(self, table: Table, items: Space, column: str, floor_ms: int) -> None:
        """Rooms that ended at `floor_ms` or before are left out."""
        super().__init__()
        self._table, self._items, self._column, self._floor_ms = table, items, column, floor_ms

    def best(self, count: int) -> tuple[list[Entry], bool]:
        peaks = np.array([block.peak(self._column) for block in self._table.blocks], dtype=np.float64)
        rows, values = self._candidates(peaks, count)
        if rows.size > count:
            within = values >= np.partition(values, values.size - count)[values.size - count]
            rows, values = rows[within], values[within]
        return entries(self._items, ordered(self._items, rows, values, count)), rows.size < count

    def _candidates(self, peaks: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows above some value, at least `count` of them unless those are all there are."""
        blocks = count
        while blocks < peaks.size:
            found = self._above(np.partition(peaks, peaks.size - blocks)[peaks.size - blocks], peaks)
            if found[0].size >= count:
                return found
            blocks *= 4
        return self._above(-np.inf, peaks)

    def _above(self, threshold: float, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, values = [np.empty(0, dtype=np.int64)], [np.empty(0)]
        absent = self._table.empty.records[self._column][0]
        for index in np.flatnonzero(peaks >= threshold).tolist():
            held = self._table.blocks[index].records
            column = held[self._column]
            listed = held["present"] & (held["end_ms"] > self._floor_ms) & (column > absent)
            slots = np.flatnonzero(listed & (column >= threshold))
            rows.append(slots + index * BLOCK_ROWS)
            values.append(column[slots].astype(np.float64))
        return np.concatenate(rows), np.concatenate(values)


def entries(items: Items, ranked: Sequence[tuple[float, int]]) -> list[Entry]:
    """(value, row) with the times at which a room is open."""
    table = items["item_popularity"]
    return [Entry(row, value, int(table.cell(row, "start_ms")), int(table.cell(row, "end_ms"))) for value, row in ranked]


def ordered(items: Items, rows: np.ndarray, values: np.ndarray, count: int) -> list[tuple[float, int]]:
    """(value, row) of the `count` highest values, ties by id."""
    keyed = zip((-values).tolist(), map(items.id_of, rows.tolist()), rows.tolist(), strict=True)
    return [(-negated, row) for negated, _, row in heapq.nsmallest(count, keyed)]
