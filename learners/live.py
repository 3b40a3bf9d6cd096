"""A serving state that is changed in place: for one thread that learns and asks in turn, as an evaluation does.

It answers through the code that a server runs (`learners.recommend.fill`), and gives the lists that a `ParameterCache` would give which
had taken a publication just before each question. What a cache pays for its readers (immutable versions, blocks copied at each
publication) is left out: a refresh costs microseconds, so that lists may be asked for between any two events.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from learners.ranking import Ranking
from learners.recommend import Vectors, vectors_of
from learners.search import norms, update_peaks
from learners.tables import BLOCK_BITS, BLOCK_ROWS, ITEM_TABLES, WIDE_COLUMN, Field, records


class LiveTable:
    """One table of the items: an array per column, grown by doubling. Reads as `learners.tables.Table`."""

    def __init__(self, fields: list[Field]) -> None:
        self._fields = fields
        self._columns = {name: records(fields, 0)[name] for name, _, _ in fields}
        self._columns[WIDE_COLUMN] = np.zeros((0, 0), dtype=np.float32)
        self._held = self._columns  # views of the rows in use
        self._peaks: dict[str, tuple[np.ndarray, set[int]]] = {}  # column -> of each block; blocks written since

    @property
    def width(self) -> int:
        return int(self._columns[WIDE_COLUMN].shape[1])

    def grow(self, rows: int) -> None:
        """Have `rows` rows in use, new ones as of a row that is not there."""
        held = self._columns["present"].size
        if rows > held:
            more = records(self._fields, max(rows, 2 * held) - held)
            for name, _, _ in self._fields:
                self._columns[name] = np.concatenate([self._columns[name], more[name]])
            wide = self._columns[WIDE_COLUMN]
            self._columns[WIDE_COLUMN] = np.concatenate([wide, np.zeros((more.size, self.width), dtype=wide.dtype)])
        self._touched(np.arange(self._held["present"].size, rows))
        self._held = {name: column[:rows] for name, column in self._columns.items()}

    def put(self, rows: np.ndarray, columns: Mapping[str, np.ndarray], wide: np.ndarray | None = None) -> None:
        """Write rows in use: int64 [n], columns [n] each, `wide` [n, width]."""
        if wide is not None and self.width != wide.shape[1]:
            count = self._columns["present"].size
            self._columns[WIDE_COLUMN] = np.zeros((count, wide.shape[1]), dtype=wide.dtype)
            self.grow(self._held["present"].size)
        for name, values in columns.items():
            self._held[name][rows] = values
        if wide is not None:
            self._held[WIDE_COLUMN][rows] = wide
        self._held["present"][rows], self._held["removed"][rows] = True, False
        self._touched(rows)

    def drop(self, rows: np.ndarray) -> None:
        """Remove rows in use: int64 [n]. They read as not there, but for `removed`."""
        for name, _, absent in self._fields:
            self._held[name][rows] = absent
        self._held["removed"][rows] = True
        self._touched(rows)

    def column(self, name: str) -> np.ndarray:
        return self._held[name]

    def cell(self, row: int, name: str) -> object:
        return self._held[name][row]

    def wide(self, row: int) -> np.ndarray:
        wide: np.ndarray = self._held[WIDE_COLUMN][row]
        return wide

    def has(self, row: int) -> bool:
        return bool(self._held["present"][row])

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, self._held[WIDE_COLUMN]

    def parts(self, blocks: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        yield 0, self._held[WIDE_COLUMN], blocks

    def peaks(self, name: str) -> np.ndarray:
        """float64 [blocks]: the largest value of a column in each. Computed anew where rows were written since it was last asked for."""
        column, blocks = self._held[name], -(-self._held[name].size // BLOCK_ROWS)
        peaks, stale = self._peaks.get(name, (np.empty(0), set()))
        stale.update(range(peaks.size, blocks))
        if peaks.size < blocks:
            peaks = np.append(peaks, np.zeros(blocks - peaks.size))
        if stale:
            update_peaks(column, np.array(sorted(stale), dtype=np.int64), peaks)
        self._peaks[name] = peaks, set()
        return peaks

    def _touched(self, rows: np.ndarray) -> None:
        blocks = set((rows >> BLOCK_BITS).tolist())
        for _, stale in self._peaks.values():
            stale.update(blocks)


class LiveItems:
    """The items, by number. Reads as `learners.tables.Space`."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._tables = {name: LiveTable(fields) for name, fields in ITEM_TABLES.items()}

    @property
    def allocated(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> LiveTable:
        return self._tables[name]

    def id_of(self, row: int) -> str:
        return self.ids[row]

    def name(self, ids: Sequence[str]) -> None:
        """Give the next numbers to these items."""
        self.ids.extend(ids)
        for table in self._tables.values():
            table.grow(len(self.ids))


class LiveState:
    """What lists are made of, between two changes: see `learners.recommend.Served`."""

    def __init__(self) -> None:
        self.items = LiveItems()
        self.clock_ms = 0
        self._rankings: dict[tuple[str, int], Ranking] = {}
        self._vectors: Vectors | None = None

    def changed(self, clock_ms: int) -> None:
        """Something was put or dropped, or time went on."""
        self.clock_ms = clock_ms
        self._rankings.clear()
        self._vectors = None

    @property
    def vectors(self) -> Vectors:
        """The items, to be searched for the best for a user."""
        if self._vectors is None:
            self._vectors = vectors_of(self.items)
        return self._vectors

    def ranking(self, column: str, now_ms: int) -> Ranking:
        """Items by a column of `item_popularity`, without rooms that ended before `now_ms` and the clock."""
        floor_ms = min(now_ms, self.clock_ms)
        if (column, floor_ms) not in self._rankings:
            self._rankings[column, floor_ms] = Ranking(self.items, column, floor_ms)
        return self._rankings[column, floor_ms]

    def put_vectors(self, rows: np.ndarray, vectors: np.ndarray, bias: np.ndarray) -> None:
        """`item_vectors` of rows [n]: float32 [n, w] and [n]. Rows that are not finite are left as they were, as a cache does."""
        finite = np.isfinite(vectors).all(axis=1) & np.isfinite(bias)
        if not finite.all():
            rows, vectors, bias = rows[finite], vectors[finite], bias[finite]
        norm, inverse_norm = norms(vectors)
        self.items["item_vectors"].put(rows, {"bias": bias, "norm": norm, "inverse_norm": inverse_norm}, vectors)
