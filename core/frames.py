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


def from_matrix(names: Sequence[str], matrix: np.ndarray) -> pl.DataFrame:
    """A frame of the columns of `matrix`, [n, len(names)]: slices of one buffer."""
    n, whole = matrix.shape[0], pl.Series(np.ascontiguousarray(matrix.T).ravel())
    return pl.DataFrame([whole.slice(at * n, n).alias(name) for at, name in enumerate(names)])
