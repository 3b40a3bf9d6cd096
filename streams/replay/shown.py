"""What a serving cache shows, as the publications that make it anew.

The stages behind it are not enough: they tell of a removal once and then forget it, and of an expired user they forget without a word,
while the cache goes on with what it was told.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.hashing import partition_of
from core.schemas import decode, encode
from core.snapshot import Snapshot
from core.stage import Publication
from learners.cache import ParameterCache
from learners.tables import WIDE, Space, Table
from streams import pipeline

HISTORY = "user_history"  # the one table of the feature stages; all others are the learner's
_WRITERS = "writers.json"
_DERIVED = ("present", "norm", "inverse_norm")  # the cache works these out itself


def snapshot(cache: ParameterCache, into: Snapshot) -> None:
    """Every row that the cache has, those removed included."""
    state = cache.state
    into.write(_WRITERS, msgspec.json.encode(state.writers))
    for space in (state.users, state.items, state.dense):
        for name, table in space.tables.items():
            written = np.flatnonzero(table.column("present") | table.column("removed"))
            if written.size:
                into.write(f"{name}.arrow", encode(_published(space, name, table, written)))


def restore(cache: ParameterCache, directory: Path, partitions: int) -> None:
    """Fill an empty cache. `partitions`: of `batches`; those that have published nothing are no writers yet."""
    writers = msgspec.json.decode((directory / _WRITERS).read_bytes())
    tables: dict[str, dict[str, pl.DataFrame]] = {writer: {} for writer in writers}
    for path in sorted(directory.glob("*.arrow")):
        for writer, rows in _by_writer(path.stem, decode(path.read_bytes()), partitions):
            tables[writer][path.stem] = rows
    for writer, (lineage, version, clock_ms, learned) in writers.items():
        cache.apply(writer, Publication(tables[writer], version, clock_ms, np.empty(0, dtype=np.int64), learned), lineage)


def _by_writer(table: str, rows: pl.DataFrame, partitions: int) -> Iterator[tuple[str, pl.DataFrame]]:
    if table != HISTORY:
        yield pipeline.LEARNER, rows
        return
    of = pl.Series([partition_of(id_, partitions) for id_ in rows["id"].to_list()], dtype=pl.Int64)
    for partition in sorted(of.unique().to_list()):
        yield f"{pipeline.FEATURES}-{partition}", rows.filter(of == partition)


def _published(space: Space, name: str, table: Table, written: np.ndarray) -> pl.DataFrame:
    """These rows, int64 [n], as they were published; but version 0, so that whatever comes next stands above it."""
    columns = {"id": pl.Series(space.ids.column("id")[written].tolist(), dtype=pl.String), "version": np.zeros(written.size, np.int64)}
    for field in table.empty.records.dtype.names or ():
        if field not in _DERIVED:
            columns[field] = _column(field, table.column(field)[written])
    if name in WIDE:
        columns[WIDE[name]] = np.concatenate([table.empty.wide[:0], *(wide for _, wide in table.chunks())])[written]
    return pl.DataFrame(columns)


def _column(field: str, values: np.ndarray) -> pl.Series | np.ndarray:
    if values.dtype.kind != "O":
        return values
    if field != "vector":
        return pl.Series(values.tolist(), dtype=pl.Binary)
    width = max((len(vector) for vector in values if vector is not None), default=4)
    return np.frombuffer(b"".join(vector or bytes(width) for vector in values), dtype="<f4").reshape(values.size, -1)
