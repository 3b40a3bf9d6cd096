"""Frame operations of the data path that stay on the calling thread.

polars hands filters, selections and concatenations to its pool. Beside two busy cores such a hand-over takes 4 ms at p99, where the
work on the few rows of a micro-batch takes 25 us; each row passes about twenty of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl


def pick(rows: pl.DataFrame, kept: np.ndarray) -> pl.DataFrame:
    """The rows where `kept`, bool [n], is true; `rows` itself where it is all true."""
    if kept.all():
        return rows
    mask = pl.Series(kept, dtype=pl.Boolean)
    return pl.DataFrame([column.filter(mask) for column in rows.get_columns()])


def stack(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All rows of one or more frames of one schema, in order."""
    if len(frames) == 1:
        return frames[0]
    out = frames[0].clone()
    for frame in frames[1:]:
        out.extend(frame)
    return out


def with_source(rows: pl.DataFrame, source: int) -> pl.DataFrame:
    """The same rows with `source`, an index into their record's ranges, in every one."""
    column = pl.Series("source", [source], pl.UInt16).new_from_index(0, rows.height)
    return rows.clone().replace_column(rows.get_column_index("source"), column)


def from_columns(schema: pl.Schema, columns: Mapping[str, Any]) -> pl.DataFrame:
    """A frame of arrays or lists by name, in the order and types of `schema`."""
    return pl.DataFrame([pl.Series(name, columns[name], dtype) for name, dtype in schema.items()])


def constant(name: str, value: Any, dtype: pl.DataType, rows: int) -> pl.Series:
    """A column of one value."""
    return pl.Series(name, [value], dtype).new_from_index(0, rows)


def places(at: np.ndarray) -> pl.Series:
    """Row numbers, int64 [n], as columns are indexed by: `column[places(at)]`. Below 0: null."""
    told = pl.Series(np.maximum(at, 0).astype(np.uint32))
    return told if not at.size or at.min() >= 0 else told.set(pl.Series(at < 0), None)


def present(values: Sequence[Any]) -> np.ndarray:
    """bool [n]: which are not None. Of a list: a column asked for its nulls asks the pool."""
    if None not in values:
        return np.ones(len(values), dtype=np.bool_)
    return np.fromiter((value is not None for value in values), np.bool_, len(values))


def from_matrix(name: str, matrix: np.ndarray, there: np.ndarray) -> pl.Series:
    """A column of arrays: the rows of `matrix`, [k, width], where `there`, bool [n], is true k times; null elsewhere."""
    column = pl.Series(name, matrix, pl.Array(pl.Float32, matrix.shape[1]))
    if there.all():
        return column
    return column[places(np.where(there, np.cumsum(there) - 1, -1))]


def reorder(rows: pl.DataFrame, order: np.ndarray) -> pl.DataFrame:
    """The rows at these places, int64 [n]."""
    at = places(order)
    return pl.DataFrame([column[at] for column in rows.get_columns()])
