"""What SUPA knows of its nodes: one table for all types, the rows of a type side by side."""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, contiguous, inlined, summed
from core.rows import CHUNK_BITS
from learners.supa.neighbours import Neighbours, Slots

LANES = 8  # vectors are whole numbers of these, so that sums of products are as fast as they can be
SERVED = 0  # the relation whose contexts are served
FORGET_STEPS = 64.0  # a row is faded when this part of a half-life has passed since it last was


class Table(NamedTuple):
    """d dimensions, R relations, T node types; `short` has width 0 where it is switched off."""

    long: np.ndarray  # float32 [rows, d]
    short: np.ndarray  # float32 [rows, d or 0]
    context: np.ndarray  # float32 [rows, R, d]
    bias: np.ndarray  # float32 [rows, R]
    long_sum: np.ndarray  # float32 [rows], AdaGrad's sum of mean squared gradients; so the next three
    short_sum: np.ndarray  # float32 [rows]
    context_sum: np.ndarray  # float32 [rows, R]
    bias_sum: np.ndarray  # float32 [rows, R]
    faded_ms: np.ndarray  # int64 [rows], event time to which forgetting was applied
    last_ms: np.ndarray  # int64 [rows], t_v
    edges: np.ndarray  # int32 [rows], so far, 2^31 - 1 at most
    alive: np.ndarray  # bool [rows], seen in the log and not freed since
    version: np.ndarray  # int64 [rows], ordinal of the last example that changed what is served of the row
    event_ms: np.ndarray  # int64 [rows], newest event behind that
    neighbours: Neighbours
    type: np.ndarray  # uint8 [rows]
    touched: np.ndarray  # bool [rows], changed since the last publication
    dirty: np.ndarray  # bool [chunks], changed since the last snapshot
    first: np.ndarray  # int64 [T], first row of each type
    extent: np.ndarray  # int64 [T], rows of each type below which all that are alive lie
    alpha: np.ndarray  # float64 [T], alpha_phi
    alpha_sum: np.ndarray  # float64 [T]


@summed
def dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Sum of products of two float32 vectors."""
    a, b, total = contiguous(a), contiguous(b), np.float32(0.0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@compiled
def _shrink(table: Table, row: int, part: float) -> None:
    scale = np.float32(part)
    for i in range(table.long.shape[1]):
        table.long[row, i] *= scale
    for i in range(table.short.shape[1]):
        table.short[row, i] *= scale
    for relation in range(table.context.shape[1]):
        table.bias[row, relation] *= scale
        for i in range(table.context.shape[2]):
            table.context[row, relation, i] *= scale


@inlined
def due(passed_ms: int, forget_per_ms: float) -> bool:
    """Whether a row that was faded so long ago is to be faded again."""
    return passed_ms * forget_per_ms * FORGET_STEPS >= math.log(2.0)


@compiled
def fade(table: Table, row: int, ts_ms: int, forget_per_ms: float) -> bool:
    """Forgetting, put off until the row is next read by the learning: everything learned of it halves in a half-life of event time.
    Returns whether it changed."""
    passed_ms = ts_ms - table.faded_ms[row]
    if not due(passed_ms, forget_per_ms):
        return False
    _shrink(table, row, math.exp(-passed_ms * forget_per_ms))
    table.faded_ms[row] = ts_ms
    return True


@inlined
def stamp(table: Table, row: int, ordinal: int, ts_ms: int) -> None:
    """Say that what is served of the row changed."""
    table.version[row] = max(table.version[row], ordinal)
    table.event_ms[row] = max(table.event_ms[row], ts_ms)
    table.touched[row] = True
    table.dirty[row >> CHUNK_BITS] = True


class Marks(NamedTuple):
    """What tells of changes: arrays of `Table`."""

    version: np.ndarray
    event_ms: np.ndarray
    touched: np.ndarray
    dirty: np.ndarray


@compiled
def stamp_slots(marks: Marks, slots: Slots, count: int, ordinal: int, ts_ms: int) -> None:
    """Say that what is served of the rows in the slots changed: of those of the served relation."""
    for k in range(count):
        row = slots.row[k]
        marks.dirty[row >> CHUNK_BITS] = True
        if slots.relation[k] == SERVED:
            marks.version[row] = max(marks.version[row], ordinal)
            marks.event_ms[row] = max(marks.event_ms[row], ts_ms)
            marks.touched[row] = True


@compiled
def arrive(table: Table, row: int, ordinal: int, ts_ms: int) -> None:
    """A node comes to life with its first edge."""
    table.dirty[row >> CHUNK_BITS] = True
    if not table.alive[row]:
        table.alive[row], table.last_ms[row], table.faded_ms[row] = True, ts_ms, ts_ms
        type_ = table.type[row]
        table.extent[type_] = max(table.extent[type_], row - table.first[type_] + 1)
        stamp(table, row, ordinal, ts_ms)


@inlined
def serve(long: np.ndarray, short: np.ndarray, context: np.ndarray, published: bool, mirrored: bool, out: np.ndarray) -> None:
    """[h, c] of one node, mirrored [c, h], into `out` [2 d], so that the product of one with the other is h . c + c . h.

    Published: [h + c, 0] both, as SUPA serves. h is long + short without decay.
    """
    long, short, context, d = contiguous(long), contiguous(short), contiguous(context), long.shape[0]
    of_h, of_c = (d, 0) if mirrored else (0, d)
    for i in range(d):
        h = long[i] + short[i] if short.shape[0] else long[i]
        out[of_h + i], out[of_c + i] = h, context[i]
    if published:
        for i in range(d):
            out[i] += out[d + i]
            out[d + i] = 0.0


@compiled
def served_vectors(long: np.ndarray, short: np.ndarray, context: np.ndarray, relation: int, published: bool, mirrored: bool) -> np.ndarray:
    """float32 [n, 2 d] of n rows; see `serve`. The arrays are rows of those of `Table`."""
    out = np.empty((long.shape[0], 2 * long.shape[1]), dtype=np.float32)
    for k in range(long.shape[0]):
        serve(long[k], short[k], context[k, relation], published, mirrored, out[k])
    return out


@compiled
def products(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """float32 [n]: of a vector [w] with many [n, w]."""
    out = np.empty(many.shape[0], np.float32)
    for k in range(many.shape[0]):
        out[k] = dot(one, many[k])
    return out
