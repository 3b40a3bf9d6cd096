"""Rows as they were: what is learned on trial can be taken back, at the cost of the rows that it touched."""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from learners.supa.neighbours import Slots
from learners.supa.table import Table, stamp


class Undo(NamedTuple):
    """Copies of the rows changed since `begin`, made just before their first change. `epoch` 0: nothing is kept."""

    epoch: np.ndarray  # int64 [1]
    last_epoch: np.ndarray  # int64 [1], the last one begun
    copies: np.ndarray  # int64 [1], how many are held
    kept: np.ndarray  # int64 [rows], epoch of the last copy of each row
    row: np.ndarray  # int32 [capacity], -1 of one that was freed meanwhile
    long: np.ndarray  # float32 [capacity, d]; these as in `Table`
    short: np.ndarray
    context: np.ndarray
    bias: np.ndarray
    long_sum: np.ndarray
    short_sum: np.ndarray
    context_sum: np.ndarray
    bias_sum: np.ndarray
    faded_ms: np.ndarray
    alpha: np.ndarray  # float64 [T], at `begin`
    alpha_sum: np.ndarray


COPIED = ("long", "short", "context", "bias", "long_sum", "short_sum", "context_sum", "bias_sum", "faded_ms")


def new_undo(table: Table, rows: int) -> Undo:
    """That keeps nothing yet, of a table that may have no more than `rows` rows undone."""
    copies = {name: np.empty((0, *getattr(table, name).shape[1:]), getattr(table, name).dtype) for name in COPIED}
    one = {name: np.zeros(1, np.int64) for name in ("epoch", "last_epoch", "copies")}
    alphas = {"alpha": table.alpha.copy(), "alpha_sum": table.alpha_sum.copy()}
    return Undo(**one, kept=np.zeros(rows, np.int64), row=np.empty(0, np.int32), **copies, **alphas)


def with_room(undo: Undo, rows: int) -> Undo:
    """The same with room for `rows` more copies."""
    held, wanted = int(undo.copies[0]), int(undo.copies[0]) + rows
    if wanted <= undo.row.size:
        return undo
    grown = {}
    for name in ("row", *COPIED):
        old = getattr(undo, name)
        grown[name] = np.empty((max(wanted, 2 * old.shape[0]), *old.shape[1:]), old.dtype)
        grown[name][:held] = old[:held]
    return undo._replace(**grown)


@compiled
def begin(undo: Undo, table: Table) -> None:
    """From here on."""
    undo.last_epoch[0] += 1
    undo.epoch[0], undo.copies[0] = undo.last_epoch[0], 0
    undo.alpha[:], undo.alpha_sum[:] = table.alpha, table.alpha_sum


@compiled
def end(undo: Undo) -> None:
    """What was learned stays."""
    undo.epoch[0] = undo.copies[0] = 0


@compiled
def _copy(undo: Undo, table: Table, row: int) -> None:
    at = undo.copies[0]
    undo.row[at], undo.kept[row] = row, undo.epoch[0]
    undo.long[at], undo.short[at], undo.context[at], undo.bias[at] = table.long[row], table.short[row], table.context[row], table.bias[row]
    undo.long_sum[at], undo.short_sum[at] = table.long_sum[row], table.short_sum[row]
    undo.context_sum[at], undo.bias_sum[at] = table.context_sum[row], table.bias_sum[row]
    undo.faded_ms[at] = table.faded_ms[row]
    undo.copies[0] += 1


@inlined
def keep(undo: Undo, table: Table, row: int) -> None:
    """Called before a row changes."""
    if undo.epoch[0] and undo.kept[row] != undo.epoch[0]:
        _copy(undo, table, row)


@compiled
def keep_slots(undo: Undo, table: Table, slots: Slots, count: int) -> None:
    """`keep` of every row in the slots."""
    if undo.epoch[0]:
        for k in range(count):
            keep(undo, table, slots.row[k])


@compiled
def drop(undo: Undo, row: int) -> None:
    """The row was freed: what it held is nobody's."""
    if undo.epoch[0] and undo.kept[row] == undo.epoch[0]:
        undo.kept[row] = 0
        for at in range(undo.copies[0]):
            if undo.row[at] == row:
                undo.row[at] = -1


@compiled
def roll_back(undo: Undo, table: Table, ordinal: int, ts_ms: int) -> None:
    """All rows as at `begin`, which then holds no longer."""
    for at in range(undo.copies[0]):
        row = undo.row[at]
        if row >= 0:
            table.long[row], table.short[row], table.context[row], table.bias[row] = (
                undo.long[at],
                undo.short[at],
                undo.context[at],
                undo.bias[at],
            )
            table.long_sum[row], table.short_sum[row] = undo.long_sum[at], undo.short_sum[at]
            table.context_sum[row], table.bias_sum[row] = undo.context_sum[at], undo.bias_sum[at]
            table.faded_ms[row] = undo.faded_ms[at]
            stamp(table, row, ordinal, ts_ms)
    table.alpha[:], table.alpha_sum[:] = undo.alpha, undo.alpha_sum
    end(undo)
