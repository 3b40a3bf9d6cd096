"""Row storage behind the serving cache: immutable blocks, replaced whole (read-copy-update).

A `Table` is a tuple of blocks of 128 rows. The one writer copies the blocks it touches and puts the new tuples into a new `Space`; a
reader keeps the `Space` it took, so nothing it sees ever changes. Id -> row is one dict shared by all versions of a space: a reader
believes it only where the row carries the same key in its own version.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from learners.places import Places

BLOCK_BITS = 7
BLOCK_ROWS = 1 << BLOCK_BITS  # one touched row copies a block: 32 KiB at 64 floats
NOBODY = -1  # writer of a row that was never written
MIN_MS, MAX_MS = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
RECLAIM_ROWS = 65_536  # freed in one publication at most: bounds the pause after a rebuild

Key = str | bytes
Field = tuple[str, str, object]  # name, numpy dtype, value of a row that is not there

IDS: list[Field] = [("id", "O", None), ("key", "O", None)]
BASE: list[Field] = [("present", "?", False), ("removed", "?", False), ("event_ms", "<i8", MIN_MS)]
HISTORY: list[Field] = [*BASE, ("recent", "O", None)]
USER_VECTORS: list[Field] = [*BASE, ("vector", "O", None)]
POPULARITY: list[Field] = [
    *BASE,
    ("log2_popularity", "<f8", -np.inf),  # -inf: no event yet
    ("first_ms", "<i8", MIN_MS),
    ("start_ms", "<i8", MIN_MS),
    ("end_ms", "<i8", MAX_MS),
]
ITEM_VECTORS: list[Field] = [*BASE, ("bias", "<f4", 0.0), ("norm", "<f4", 0.0), ("inverse_norm", "<f4", 0.0)]
TOKENS: list[Field] = [*BASE, ("codebook_version", "<i8", -1)]
MEMORY: list[Field] = [*BASE, ("node", "<i4", 0)]
WEIGHTS: list[Field] = [*BASE, ("weights", "O", None), ("asked_ms", "<i8", MIN_MS)]
CODEBOOK: list[Field] = [*BASE, ("codebook_version", "<i8", -1), ("level", "<i4", -1), ("centroids", "O", None)]

USER_TABLES = {"user_history": HISTORY, "user_vectors": USER_VECTORS, "user_memory": MEMORY}
ITEM_TABLES = {"item_popularity": POPULARITY, "item_vectors": ITEM_VECTORS, "item_tokens": TOKENS, "item_memory": MEMORY}
DENSE_TABLES = {"codebook": CODEBOOK, "memory_weights": WEIGHTS}
WIDE_COLUMN = "*"
WIDE = {
    "item_vectors": "vector", "item_tokens": "tokens", "user_memory": "memory", "item_memory": "memory",
}  # fmt: skip  # the column that a table keeps apart, one value per dimension, level or byte


def records(fields: list[Field], rows: int) -> np.ndarray:
    """Structured [rows], every field as of a row that is not there."""
    out = np.empty(rows, dtype=[(name, dtype) for name, dtype, _ in fields])
    for name, _, fill in fields:
        out[name] = fill
    return out


class Block:
    """128 rows: one record each, and the wide column. Never written once published."""

    __slots__ = ("_bytes", "_peaks", "records", "wide")

    def __init__(self, records: np.ndarray, wide: np.ndarray) -> None:
        self.records = records  # structured [128]
        self.wide = wide  # [128, width]; width 0 where the table has none
        self._bytes = 0
        self._peaks: dict[str, float] = {}

    def copy(self) -> "Block":
        return Block(self.records.copy(), self.wide.copy() if self.wide.size else self.wide)

    def __getitem__(self, name: str) -> np.ndarray:
        """A column: [128], or the wide one [128, width]."""
        return self.wide if name == WIDE_COLUMN else self.records[name]

    def peak(self, name: str) -> float:
        """The largest value of a column, computed once."""
        if name not in self._peaks:
            self._peaks[name] = float(self.records[name].max())
        return self._peaks[name]

    @property
    def nbytes(self) -> int:
        """Of the arrays and the byte strings they refer to, computed once."""
        if not self._bytes:
            dtype = self.records.dtype
            cells = [self.records[name].tolist() for name in dtype.names or () if dtype[name].kind == "O"]
            referred = sum(len(cell) for column in cells for cell in column if cell is not None)
            self._bytes = self.records.nbytes + self.wide.nbytes + referred
        return self._bytes


@dataclass(frozen=True)
class Table:
    """One version of a table. Rows not written share the block `empty`."""

    empty: Block
    blocks: tuple[Block, ...]
    rows: int  # present
    _older: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False, repr=False)
    _columns: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    _peaks: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def cell(self, row: int, name: str) -> Any:
        """One value of a column."""
        return self.blocks[row >> BLOCK_BITS].records[name][row & (BLOCK_ROWS - 1)]

    def wide(self, row: int) -> np.ndarray:
        """[width]: one row of the wide column."""
        wide: np.ndarray = self.blocks[row >> BLOCK_BITS].wide[row & (BLOCK_ROWS - 1)]
        return wide

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """[n, ...]: a column's values in rows int64 [n], in any order."""
        sample, order = self.empty[name], np.argsort(rows, kind="stable")
        out = np.empty((rows.size, *sample.shape[1:]), dtype=sample.dtype)
        for index, slots, run in _runs(rows[order]):
            out[order[run]] = self.blocks[index][name][slots]
        return out

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, [128, width]) of the wide column, over all rows."""
        for index, block in enumerate(self.blocks):
            yield index << BLOCK_BITS, block.wide

    def parts(self, blocks: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(first row, [128, width] of the wide column, which block that is) of each of the blocks, int64 [n]."""
        for at, index in enumerate(blocks.tolist()):
            yield index << BLOCK_BITS, self.blocks[index].wide, blocks[at : at + 1]

    def peaks(self, name: str) -> np.ndarray:
        """float64 [blocks]: the largest value of a column in each, made once per version."""
        peaks = self._peaks.get(name)
        if peaks is None:
            peaks = self._peaks[name] = np.array([block.peak(name) for block in self.blocks], dtype=np.float64)
        return peaks

    def has(self, row: int) -> bool:
        return bool(self.cell(row, "present"))

    def column(self, name: str) -> np.ndarray:
        """[allocated rows, ...]: a column in one piece, made once per version. For columns of a few bytes a row."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._whole(name)
        return column

    def _whole(self, name: str) -> np.ndarray:
        """Out of an older version's column and the blocks changed since, where there is one."""
        sample = self.empty[name]
        column = np.empty((len(self.blocks) * BLOCK_ROWS, *sample.shape[1:]), dtype=sample.dtype)
        changed = np.ones(len(self.blocks), dtype=np.bool_)
        if name in self._older:
            older, changed = self._older[name]
            column[: older.shape[0]] = older
        for index in np.flatnonzero(changed).tolist():
            column[index * BLOCK_ROWS : (index + 1) * BLOCK_ROWS] = self.blocks[index][name]
        return column

    def columns_before(self, changed: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The columns that were made of this version or an older one, each with the blocks changed since: bool [blocks]."""
        made = {name: (column, changed) for name, column in dict(self._columns).items()}
        for name, (column, earlier) in self._older.items():
            if name not in made:
                since = changed.copy()
                since[: earlier.size] |= earlier
                made[name] = column, since
        return made

    @property
    def width(self) -> int:
        """Of the wide column: dimensions of a vector, tokens of an item; 0 before the first row."""
        return int(self.empty.wide.shape[1])

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks if block is not self.empty)


@dataclass(frozen=True)
class Space:
    """One version of the tables that share an id space."""

    ids: Table
    tables: Mapping[str, Table]
    places: Places
    _index: dict[Key, int]  # shared by all versions
    _key: Callable[[str], Key]

    def __getitem__(self, name: str) -> Table:
        return self.tables[name]

    @property
    def allocated(self) -> int:
        """Rows of every column, those not in use included."""
        return len(self.ids.blocks) << BLOCK_BITS

    def row(self, id_: str) -> int:
        """The row of an id, -1 where this version has none."""
        return self.row_of_key(self._key(id_))

    def row_of_key(self, key: Key) -> int:
        row = self._index.get(key, -1)
        return row if 0 <= row < self.allocated and self.ids.cell(row, "key") == key else -1

    def id_of(self, row: int) -> str:
        return str(self.ids.cell(row, "id"))

    def known(self, row: int) -> bool:
        """Whether any table has the row."""
        return any(table.has(row) for table in self.tables.values())


@dataclass
class Delta:
    """Rows of one table to be written: n of them."""

    ids: list[str]
    version: np.ndarray  # int64 [n]
    records: np.ndarray  # structured [n]
    wide: np.ndarray  # [n, width]

    def taken(self, picks: np.ndarray) -> "Delta":
        """The rows at `picks`."""
        return Delta([self.ids[at] for at in picks.tolist()], self.version[picks], self.records[picks], self.wide[picks])


class _TableWriter:
    """The writing side of a table: the versions of its rows, and the blocks of the publication that is being applied."""

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self.version = np.empty(0, dtype=np.int64)  # [allocated rows], as the next two
        self.writer = np.empty(0, dtype=np.int16)
        self.present = np.empty(0, dtype=np.bool_)
        self.published = Table(_empty(fields), (), 0)
        self.begin()

    def begin(self) -> None:
        self._empty, self._blocks = self.published.empty, list(self.published.blocks)
        self._owned: set[int] = set()

    def seal(self) -> Table:
        old = self.published
        if self._owned or len(self._blocks) > len(old.blocks) or self._empty is not old.empty:
            changed = np.zeros(len(self._blocks), dtype=np.bool_)
            changed[sorted(self._owned)], changed[len(old.blocks) :] = True, True
            older = old.columns_before(changed) if self._empty is old.empty else {}
            self.published = Table(self._empty, tuple(self._blocks), int(np.count_nonzero(self.present)), older)
        return self.published

    def grow(self) -> None:
        """One more block, shared until it is written."""
        self._blocks.append(self._empty)
        rows = len(self._blocks) << BLOCK_BITS
        if rows > self.version.size:
            more = max(rows, 2 * self.version.size) - self.version.size
            self.version = np.append(self.version, np.zeros(more, dtype=np.int64))
            self.writer = np.append(self.writer, np.full(more, NOBODY, dtype=np.int16))
            self.present = np.append(self.present, np.zeros(more, dtype=np.bool_))

    def own(self, index: int) -> Block:
        """A block that may be written: a copy, made once per publication."""
        if index not in self._owned:
            self._owned.add(index)
            self._blocks[index] = self._blocks[index].copy()
        return self._blocks[index]

    def refit(self, wide: np.ndarray) -> bool:
        """Start anew where the width changed: rows of different widths cannot be compared. Returns whether rows went."""
        if self._empty.wide.shape[1] == wide.shape[1]:
            return False
        had_rows = bool(self.present.any())
        self._empty = _empty(self.fields, wide.shape[1], wide.dtype)
        self._blocks = [self._empty] * len(self._blocks)
        self._owned.clear()
        self.writer[:], self.present[:] = NOBODY, False
        return had_rows

    def fresh(self, rows: np.ndarray, version: np.ndarray, writer: int) -> np.ndarray:
        """bool [n]: not older than the row that is there, or another writer's, whose versions cannot be compared."""
        return np.asarray((version >= self.version[rows]) | (self.writer[rows] != writer))

    def write(self, rows: np.ndarray, delta: Delta, writer: int) -> None:
        """Write `delta`, one row of it to each of the ascending `rows`."""
        self.version[rows], self.writer[rows], self.present[rows] = delta.version, writer, delta.records["present"]
        wide = delta.wide.shape[1] > 0
        for index, slots, run in _runs(rows):
            block = self.own(index)
            block.records[slots] = delta.records[run]
            if wide:
                block.wide[slots] = delta.wide[run]

    def clear(self, rows: np.ndarray) -> None:
        """Make the ascending `rows` as if never written."""
        self.version[rows], self.writer[rows], self.present[rows] = 0, NOBODY, False
        for index, slots, _ in _runs(rows):
            if self._blocks[index] is not self._empty:
                block = self.own(index)
                block.records[slots], block.wide[slots] = self._empty.records[slots], self._empty.wide[slots]


def _empty(fields: list[Field], width: int = 0, dtype: "np.dtype[Any] | None" = None) -> Block:
    return Block(records(fields, BLOCK_ROWS), np.zeros((BLOCK_ROWS, width), dtype=dtype))


def _runs(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, slice]]:
    """(block, slots in it, which of `rows` they are) of each block that the ascending `rows` touch."""
    blocks, slots = rows >> BLOCK_BITS, rows & (BLOCK_ROWS - 1)
    starts = np.flatnonzero(np.diff(blocks, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, rows.size]):
        yield int(blocks[start]), slots[start:stop], slice(start, stop)


class SpaceWriter:
    """The writing side of a space: `begin`, any number of `drop` and `write`, then `seal`.

    A removed row stays as a tombstone, so that its older versions are refused; beyond `tombstones` of them the oldest are freed for
    reuse. They are freed by a later publication than the one that removed them.
    """

    def __init__(self, tables: dict[str, list[Field]], key: Callable[[str], Key], tombstones: int) -> None:
        self._key, self._tombstones = key, tombstones
        self._index: dict[Key, int] = {}
        self._places = Places()
        self._free: list[int] = []
        self._dead: dict[int, None] = {}  # rows that no table has, oldest first
        self._used = 0
        self._ids = _TableWriter(IDS)
        self._tables = {name: _TableWriter(fields) for name, fields in tables.items()}
        self.published = self.seal()

    def begin(self) -> None:
        for table in (self._ids, *self._tables.values()):
            table.begin()
        self._reclaim()

    def seal(self) -> Space:
        tables = {name: table.seal() for name, table in self._tables.items()}
        self.published = Space(self._ids.seal(), tables, self._places, self._index, self._key)
        return self.published

    def write(self, name: str, delta: Delta, writer: int) -> int:
        """Apply one table; of rows with one id the highest version stands. Returns how many rows were stale."""
        table = self._tables[name]
        if table.refit(delta.wide):
            self._note_dead(np.array(sorted(self._index.values()), dtype=np.int64))
        rows = np.fromiter(map(self._admit, delta.ids), dtype=np.int64, count=len(delta.ids))
        order = np.lexsort((delta.version, rows))
        picks = order[np.diff(rows[order], append=-1) != 0]  # the last of each row
        picks = picks[table.fresh(rows[picks], delta.version[picks], writer)]
        table.write(rows[picks], delta.taken(picks), writer)
        if table.fields is MEMORY:
            self._places.put(delta.records["node"][picks], rows[picks])
        self._note_dead(rows[picks])
        return int(rows.size - picks.size)

    def drop(self, writer: int) -> None:
        """Forget every row of a writer, its versions included."""
        for table in self._tables.values():
            rows = np.flatnonzero(table.writer == writer)
            table.clear(rows)
            self._note_dead(rows)

    def _admit(self, id_: str) -> int:
        key = self._key(id_)
        row = self._index.get(key, -1)
        if row < 0:
            row = self._index[key] = self._take()
            self._ids.own(row >> BLOCK_BITS).records[row & (BLOCK_ROWS - 1)] = (id_, key)
        return row

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        if not self._used % BLOCK_ROWS:
            for table in (self._ids, *self._tables.values()):
                table.grow()
        self._used += 1
        return self._used - 1

    def _note_dead(self, rows: np.ndarray) -> None:
        """Keep `_dead` true for rows that were just written or cleared."""
        alive = np.logical_or.reduce([table.present[rows] for table in self._tables.values()])
        for row in rows[~alive].tolist():
            self._dead.setdefault(row)
        if self._dead:
            for row in rows[alive].tolist():
                self._dead.pop(row, None)

    def _reclaim(self) -> None:
        excess = min(max(0, len(self._dead) - self._tombstones), RECLAIM_ROWS)
        rows = sorted(row for row, _ in zip(self._dead, range(excess), strict=False))
        ids = self._ids.published
        for row in rows:
            del self._index[ids.cell(row, "key")]
            del self._dead[row]
        for table in (self._ids, *self._tables.values()):
            table.clear(np.array(rows, dtype=np.int64))
        self._free.extend(rows)
