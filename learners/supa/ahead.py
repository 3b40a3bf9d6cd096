"""What the next edges need, asked of memory before they do: a cold row is dozens of lines, which come side by side."""

import numpy as np

from core.compiled import ask, inlined
from learners.supa.neighbours import ENTRY_BYTES, Neighbours
from learners.supa.table import Table

EDGES = 3  # before its turn, the ends of an edge are asked for


@inlined
def _ask_row(array: np.ndarray, row: int, size: int) -> None:
    ask(array.ctypes.data + row * array.strides[0], size)


@inlined
def ask_context(context: np.ndarray, bias: np.ndarray, touched: np.ndarray, row: int, relation: int) -> None:
    """What an end is trained against, and its mark; arrays of `Table`. The bias brings the small numbers beside it."""
    ask(context.ctypes.data + row * context.strides[0] + relation * context.strides[1], context.shape[2] * context.itemsize)
    _ask_row(bias, row, 1)
    _ask_row(touched, row, 1)


@inlined
def ask_end(table: Table, of: Neighbours, row: int, relation: int) -> None:
    """What is learned and remembered of an end. `of`: that of the table."""
    ask_context(table.context, table.bias, table.touched, row, relation)
    _ask_row(table.type, row, 1)
    _ask_row(table.long, row, table.long.shape[1] * table.long.itemsize)
    _ask_row(of.ts_ms, row, of.ts_ms.shape[1] * ENTRY_BYTES)
