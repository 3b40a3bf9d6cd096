"""Orders of items: by a column of `item_popularity`, highest first, computed as far as somebody reads."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from learners.search import Part, highest
from learners.tables import MIN_MS

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

    def parts(self, blocks: np.ndarray) -> Iterable[Part]: ...

    def peaks(self, name: str) -> np.ndarray: ...


class Ranking:
    """Items by one column of `item_popularity`, highest first, ties by id; computed as far as somebody reads."""

    def __init__(self, items: Items, column: str, floor_ms: int) -> None:
        """Rooms that ended at `floor_ms` or before are left out."""
        self._items, self._column, self._floor_ms = items, column, floor_ms
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
                self._kept = self._best(max(_FIRST_ENTRIES, 2 * at))

    def _best(self, count: int) -> tuple[list[Entry], bool]:
        """The first `count` entries, and whether there are no more."""
        table = self._items["item_popularity"]
        values = table.column(self._column)
        absent = float(MIN_MS) if values.dtype.kind == "i" else -np.inf
        listed = (table.column("present"), table.column("end_ms"), self._floor_ms)
        rows = highest(values, absent, *listed, table.peaks(self._column), count)
        return entries(self._items, ordered(self._items, rows, values[rows].astype(np.float64), count)), rows.size < count


def entries(items: Items, ranked: Sequence[tuple[float, int]]) -> list[Entry]:
    """(value, row) with the times at which a room is open."""
    table, rows = items["item_popularity"], [row for _, row in ranked]
    starts, ends = (table.column(name)[rows].tolist() for name in ("start_ms", "end_ms"))
    return [Entry(row, value, start, end) for (value, row), start, end in zip(ranked, starts, ends, strict=True)]


def ordered(items: Items, rows: np.ndarray, values: np.ndarray, count: int) -> list[tuple[float, int]]:
    """(value, row) of the `count` highest values, ties by id."""
    keyed = sorted(zip((-values).tolist(), map(items.id_of, rows.tolist()), rows.tolist(), strict=True))
    return [(-negated, row) for negated, _, row in keyed[:count]]
