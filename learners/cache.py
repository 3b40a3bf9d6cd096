"""The serving cache: touched rows in, recommendations out, in one process; a read never blocks and never sees half a publication."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from core.errors import FreshetError
from core.hashing import FINGERPRINT_BYTES, fingerprint
from core.schemas import DELTA_BASE
from core.stage import Publication
from learners import recommend, remembering
from learners.recommend import CacheConfig, Recommendations, State, Writer
from learners.search import dots, norms, warm_up
from learners.supa.excerpt import record_of, weights_of
from learners.tables import DENSE_TABLES, ITEM_TABLES, MAX_MS, MIN_MS, USER_TABLES, WIDE, Delta, Space, SpaceWriter, Table, records

MOST_NODES = 1 << 26  # of a learner: bounds what one odd record can take of memory


@dataclass(frozen=True)
class Applied:
    """What became of a publication."""

    rows: int  # visible now
    stale: int  # rows older than what the cache has
    nonfinite: int  # rows refused: a number in them is NaN, infinite or missing
    unknown_tables: int  # tables this version does not serve


class Size(NamedTuple):
    rows: int
    bytes: int


class Neighbour(NamedTuple):
    item_id: str
    similarity: float


@dataclass(frozen=True)
class Item:
    """What the cache knows of an item; None where no table says."""

    item_id: str
    tokens: tuple[int, ...] | None
    codebook_version: int | None
    log2_popularity: float | None
    first_ms: int | None
    start_ms: int | None
    end_ms: int | None
    event_ms: int
    neighbours: tuple[Neighbour, ...]


class ParameterCache:
    """Parameters of the newest publications, and the answers they give.

    In: publications, per writer in order. Out: lists, scores, items. `state` is one immutable version of everything: whoever reads takes
    it once. `apply` copies the blocks that hold touched rows and swaps `state`, so its cost follows the rows it is given.
    """

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.config = config or CacheConfig()
        self._spaces = (
            SpaceWriter(USER_TABLES, str, self.config.tombstones),
            SpaceWriter(ITEM_TABLES, fingerprint, self.config.tombstones),
            SpaceWriter(DENSE_TABLES, str, self.config.tombstones),
        )
        self._space_of = {name: space for space in self._spaces for name in space.published.tables}
        self._numbers: dict[str, int] = {}  # writer -> number in the column `writer`
        self._remembers = False  # what scores by memory is compiled
        self._writing = threading.Lock()  # between writers; readers never take it
        self.state = self._seal({})
        warm_up()  # compiled now, or the first request would wait for it

    def apply(self, writer: str, publication: Publication, lineage: str = "") -> Applied:
        """Make a publication visible, all its tables at once. The first one with a memory may wait for compilation.

        Args:
            lineage: id of the topic that the writer reads. Another one than before drops the writer's rows: versions start anew.

        Raises:
            FreshetError: a table lacks a column or has another width than before. Nothing of the publication is visible then.
        """
        with self._writing:
            deltas = {name: _delta(name, rows, self.config) for name, rows in publication.tables.items() if name in self._space_of}
            held = self.state.writers.get(writer, Writer(lineage, 0, 0))
            anew = held.lineage != lineage
            self._check_widths(deltas, anew)
            if "memory_weights" in deltas and not self._remembers:
                remembering.warm_up()
                self._remembers = True
            stale = self._write(writer, deltas, anew)
            self.state = self._seal({**self.state.writers, writer: _advanced(held, publication, lineage)})
        total = sum(publication.tables[name].height for name in deltas)
        taken = sum(len(delta.ids) for delta in deltas.values())
        return Applied(taken - stale, stale, total - taken, len(publication.tables) - len(deltas))

    def _write(self, writer: str, deltas: Mapping[str, Delta], anew: bool) -> int:
        number = self._numbers.setdefault(writer, len(self._numbers))
        for space in self._spaces:
            space.begin()
            if anew:
                space.drop(number)
        return sum(self._space_of[name].write(name, delta, number) for name, delta in deltas.items() if delta.ids)

    def _seal(self, writers: dict[str, Writer]) -> State:
        users, items, dense = (space.seal() for space in self._spaces)
        return State(users, items, dense, writers, max((w.clock_ms for w in writers.values()), default=0))

    def _check_widths(self, deltas: Mapping[str, Delta], anew: bool) -> None:
        for name, wide in WIDE.items():
            table = self._space_of[name].published[name]
            if name in deltas and table.rows and not anew and deltas[name].wide.shape[1] != table.width:
                raise FreshetError(f"{name}.{wide} is {deltas[name].wide.shape[1]} wide, {table.width} before; rebuild its writer")

    def recommend(self, user_id: str, k: int, links: Sequence[str] | None = None, now_ms: int | None = None) -> Recommendations:
        """At most `k` items for a user, known or not, and what answered; see `learners.recommend.recommend`."""
        return recommend.recommend(self.state, self.config, user_id, k, links, now_ms)

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float64 [len(item_ids)]: the personal score of each item, NaN where user or item has no vector."""
        state = self.state
        asker, rows = state.asker(user_id), np.array([state.items.row(id_) for id_ in item_ids], dtype=np.int64)
        if asker.memory is not None:
            out, known = np.full(rows.size, np.nan), rows >= 0
            out[known] = asker.memory.scores(rows[known])
            return out
        if asker.vector is None:
            return np.full(rows.size, np.nan)
        return np.array([_score(state.items, self.config, asker.vector, row) for row in rows.tolist()], dtype=np.float64)

    def item(self, item_id: str, neighbours: int = 10) -> Item | None:
        """What is known of an item and its nearest items, None where it is unknown or removed.

        Raises:
            RequestError: `neighbours` is out of range.
        """
        state = self.state
        near = recommend.nearest(state, self.config, item_id, neighbours)
        return _item(state.items, item_id, tuple(Neighbour(*pair) for pair in near))

    def known_until_ms(self, user_id: str) -> int:
        """Event time of the newest event behind what is known of a user; MIN_MS where nothing is."""
        users = self.state.users
        row = users.row(user_id)
        known = [int(table.cell(row, "event_ms")) for table in users.tables.values() if row >= 0 and table.has(row)]
        return max(known, default=MIN_MS)

    def codebook(self, codebook_version: int) -> dict[int, bytes]:
        """Level -> centroids as published (float32, little endian); empty where the version is unknown."""
        table = self.state.dense["codebook"]
        found = np.flatnonzero(table.column("present") & (table.column("codebook_version") == codebook_version)).tolist()
        return {int(table.cell(row, "level")): table.cell(row, "centroids") for row in found}

    @property
    def versions(self) -> dict[str, int]:
        """Writer -> rows of its input behind what is visible."""
        return {name: writer.version for name, writer in self.state.writers.items()}

    @property
    def learned(self) -> dict[str, int]:
        """Writer -> events and catalogue entries behind what is visible; of a feature stage 0, it does not say."""
        return {name: writer.learned for name, writer in self.state.writers.items()}

    @property
    def clock_ms(self) -> int:
        return self.state.clock_ms

    @property
    def sizes(self) -> dict[str, Size]:
        """Rows and bytes of each table."""
        state = self.state
        tables: dict[str, Table] = {**state.users.tables, **state.items.tables, **state.dense.tables}
        return {name: Size(table.rows, table.nbytes) for name, table in tables.items()}


def _score(items: Space, config: CacheConfig, vector: np.ndarray, row: int) -> float:
    """The personal score of one row, to the bit what a list says; NaN where it has no vector of the user's width."""
    table = items["item_vectors"]
    if row < 0 or not table.has(row) or table.width != vector.size:
        return np.nan
    score = float(dots(vector, table.wide(row)[np.newaxis])[0]) + float(table.cell(row, "bias"))
    if config.popularity_weight:
        score += float(recommend.popularity_term(config, items["item_popularity"].cell(row, "log2_popularity")))
    return score


def _item(items: Space, item_id: str, near: tuple[Neighbour, ...]) -> Item | None:
    row = items.row(item_id)
    if row < 0 or not items.known(row) or items["item_popularity"].cell(row, "removed"):
        return None
    tokens, popularity = items["item_tokens"], items["item_popularity"]
    return Item(
        item_id=item_id,
        tokens=tuple(tokens.wide(row).tolist()) if tokens.has(row) else None,
        codebook_version=int(tokens.cell(row, "codebook_version")) if tokens.has(row) else None,
        log2_popularity=_unless(-np.inf, popularity.cell(row, "log2_popularity")),
        first_ms=_unless(MIN_MS, popularity.cell(row, "first_ms")),
        start_ms=_unless(MIN_MS, popularity.cell(row, "start_ms")),
        end_ms=_unless(MAX_MS, popularity.cell(row, "end_ms")),
        event_ms=max(int(table.cell(row, "event_ms")) for table in items.tables.values() if table.has(row)),
        neighbours=near,
    )


def _unless(absent: float, value: Any) -> Any:
    return None if value == absent else value.item()


def _advanced(held: Writer, publication: Publication, lineage: str) -> Writer:
    if held.lineage != lineage:
        return Writer(lineage, publication.version, publication.clock_ms, publication.learned)
    newest = (max(held.version, publication.version), max(held.clock_ms, publication.clock_ms), max(held.learned, publication.learned))
    return Writer(lineage, *newest)


def _delta(name: str, rows: pl.DataFrame, config: CacheConfig) -> Delta:
    """The rows of one table as records, without those that are not finite."""
    base = {column: _column(name, rows, column, dtype) for column, dtype in DELTA_BASE.items()}
    for column, series in base.items():
        if series.null_count():
            raise FreshetError(f"{name}.{column} must not be null")
    out, removed = records(FIELDS[name], rows.height), base["removed"].to_numpy()
    wide, finite = PARSERS[name](rows, out, config)
    out[removed] = records(FIELDS[name], int(np.count_nonzero(removed)))  # a removed row carries nothing
    out["present"], out["removed"], out["event_ms"] = ~removed, removed, base["event_ms"].to_numpy()
    delta, kept = Delta(base["id"].to_list(), base["version"].to_numpy(), out, wide), finite | removed
    return delta if kept.all() else delta.taken(np.flatnonzero(kept))


def _column(table: str, rows: pl.DataFrame, name: str, dtype: pl.DataType | type[pl.DataType]) -> pl.Series:
    if name not in rows.columns:
        raise FreshetError(f"table {table} of a publication has no column {name!r}")
    try:
        return rows[name].cast(dtype)
    except pl.exceptions.PolarsError as error:
        raise FreshetError(f"{table}.{name} cannot be read as {dtype}: {error}") from error


def _filled(column: pl.Series, null: float) -> np.ndarray:
    """[n], with `null` where there is none. Not by polars: handing so few rows to its pool takes longer."""
    dtype = column.clear().to_numpy().dtype
    return np.array([null if value is None else value for value in column.to_list()], dtype) if column.null_count() else column.to_numpy()


def _times(rows: pl.DataFrame, name: str, null: int) -> np.ndarray:
    """int64 [n]; a column that is not there is null."""
    if name not in rows.columns:
        return np.full(rows.height, null, dtype=np.int64)
    return _filled(_column("item_popularity", rows, name, pl.Int64()), null)


def _matrix(table: str, rows: pl.DataFrame, name: str, inner: pl.DataType) -> np.ndarray:
    """[n, width] of the float type `inner`, NaN where null. May be a view of the publication: not to be written."""
    return _fixed(table, rows, name, inner).to_numpy()


def _fixed(table: str, rows: pl.DataFrame, name: str, inner: pl.DataType) -> pl.Series:
    given = rows.schema.get(name)
    if not isinstance(given, pl.Array):
        raise FreshetError(f"{table}.{name} must be a column of fixed-width arrays, got {given}")
    return _column(table, rows, name, pl.Array(inner, given.size))


def _filled_rows(column: pl.Series) -> np.ndarray:
    """[n, width] of whole numbers, zeros where null."""
    if not column.null_count():
        return np.ascontiguousarray(column.to_numpy())
    there = column.is_not_null().to_numpy()
    told = column.drop_nulls().to_numpy()
    out = np.zeros((len(column), told.shape[1]), told.dtype)
    out[there] = told
    return out


def _fill_cells(column: np.ndarray, cells: Sequence[bytes]) -> None:
    for at, cell in enumerate(cells):
        column[at] = cell


Parsed = tuple[np.ndarray, np.ndarray]  # the wide column [n, width], and bool [n]: whether the row is finite


def _history(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    recent = [raw or b"" for raw in _column("user_history", rows, "recent", pl.Binary()).to_list()]
    if any(len(raw) % FINGERPRINT_BYTES for raw in recent):
        raise FreshetError(f"user_history.recent must be fingerprints of {FINGERPRINT_BYTES} bytes, one after another")
    _fill_cells(out["recent"], [raw[: config.seen_items * FINGERPRINT_BYTES] for raw in recent])
    return _narrow(rows), np.ones(rows.height, dtype=bool)


def _narrow(rows: pl.DataFrame) -> np.ndarray:
    return np.empty((rows.height, 0), dtype=np.float32)


def _user_vectors(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    matrix = _matrix("user_vectors", rows, "vector", pl.Float32())  # [n, w]
    _fill_cells(out["vector"], [vector.tobytes() for vector in matrix])
    return _narrow(rows), np.isfinite(matrix).all(axis=1)


def _popularity(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    out["log2_popularity"] = _filled(_column("item_popularity", rows, "log2_popularity", pl.Float64()), -np.inf)
    out["first_ms"] = _filled(_column("item_popularity", rows, "first_ms", pl.Int64()), MIN_MS)
    out["start_ms"], out["end_ms"] = _times(rows, "start_ms", MIN_MS), _times(rows, "end_ms", MAX_MS)
    finite: np.ndarray = out["log2_popularity"] < np.inf
    return _narrow(rows), finite


def _item_vectors(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    vectors = _matrix("item_vectors", rows, "vector", pl.Float32())  # [n, w]
    out["bias"] = _filled(_column("item_vectors", rows, "bias", pl.Float32()), np.nan)
    finite = np.isfinite(vectors).all(axis=1) & np.isfinite(out["bias"])
    vectors = np.where(finite[:, np.newaxis], vectors, np.float32(0))
    out["norm"], out["inverse_norm"] = norms(vectors)
    return vectors, finite


def _tokens(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    tokens = _matrix("item_tokens", rows, "tokens", pl.Float64())  # [n, levels], NaN where null
    out["codebook_version"] = _filled(_column("item_tokens", rows, "codebook_version", pl.Int64()), -1)
    return np.nan_to_num(tokens, nan=-1.0).astype(np.int32), np.isfinite(tokens).all(axis=1)


def _codebook(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    out["codebook_version"] = _filled(_column("codebook", rows, "codebook_version", pl.Int64()), -1)
    out["level"] = _filled(_column("codebook", rows, "level", pl.Int32()), -1)
    cells = [raw or b"" for raw in _column("codebook", rows, "centroids", pl.Binary()).to_list()]
    _fill_cells(out["centroids"], cells)
    finite = [len(raw) % 4 == 0 and bool(np.isfinite(np.frombuffer(raw, dtype="<f4")).all()) for raw in cells]
    return _narrow(rows), np.array(finite, dtype=bool)


def _memory(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    raw = _filled_rows(_fixed("*_memory", rows, "memory", pl.UInt8()))  # [n, bytes]
    told = raw.view(record_of(raw.shape[1]))[:, 0]
    out["node"] = told["node"]
    finite = np.isfinite(told["heat"]).all(axis=1) & np.isfinite(told["new_heat"]).all(axis=1)
    finite &= (told["edges"] >= 0) & (told["partners"] >= 0)
    finite &= (told["node"] > 0) & (told["node"] <= MOST_NODES) & (told["held"] >= 0) & (told["held"] <= told.dtype["row"].shape[0])
    finite &= (told["row"] >= 0).all(axis=1) & (told["neighbour_generation"] >= 0).all(axis=1)
    return raw, finite


def _weights(rows: pl.DataFrame, out: np.ndarray, config: CacheConfig) -> Parsed:
    cells = [raw or b"" for raw in _column("memory_weights", rows, "weights", pl.Binary()).to_list()]
    _fill_cells(out["weights"], cells)
    out["asked_ms"] = _filled(_column("memory_weights", rows, "asked_ms", pl.Int64()), MIN_MS)
    return _narrow(rows), np.array([bool(raw) and bool(np.isfinite(weights_of(raw)).all()) for raw in cells], bool)


FIELDS = {**USER_TABLES, **ITEM_TABLES, **DENSE_TABLES}
PARSERS: dict[str, Callable[[pl.DataFrame, np.ndarray, CacheConfig], Parsed]] = {
    "user_history": _history,
    "user_vectors": _user_vectors,
    "item_popularity": _popularity,
    "item_vectors": _item_vectors,
    "item_tokens": _tokens,
    "codebook": _codebook,
    "user_memory": _memory,
    "item_memory": _memory,
    "memory_weights": _weights,
}
