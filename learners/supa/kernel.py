"""One edge of SUPA: sample, update, propagate. Compiled; a torch twin of the loss stands in the tests.

Source: "Instant Representation Learning for Recommendation over Large Dynamic Graphs", ICDE 2023, sections on the sample, update
and propagate steps. Changed on purpose, because it measured better: no interaction loss between the ends' own vectors, one sampled
softmax per target instead of sigmoids, a bias per node, row-wise AdaGrad after every edge, and the score served is the one trained.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from core.randomness import fill, unit
from core.rows import CHUNK_BITS
from learners.supa.neighbours import Rings, Slots, WalkRule, add_target, below, decay, remember, walk

USER, ITEM = 0, 1  # tables
SERVED = 0  # the relation whose contexts are served
LANES = 8  # independent sums of a dot product: one fixed order that the compiler may still vectorise
TRIES = 3  # draws per negative before the edge goes with fewer
EPSILON = 1e-10
LOSS_SHARE = 1 / 4096  # of one end's loss in the moving average: the last few thousand edges
TINY = 1e-300  # keeps a softmax defined where every term but one is 0
_NEGATIVES, _WALKS, _START = np.uint64(0x53500000), np.uint64(0x53500010), np.uint64(0x53500020)  # random streams, + table


class Table(NamedTuple):
    """The nodes of one type. d dimensions, R relations; `short` has width 0 where it is switched off."""

    long: np.ndarray  # float32 [rows, d]
    short: np.ndarray  # float32 [rows, d or 0]
    context: np.ndarray  # float32 [rows, R, d]
    bias: np.ndarray  # float32 [rows, R]
    long_sum: np.ndarray  # float32 [rows], AdaGrad's sum of mean squared gradients; so the next three
    short_sum: np.ndarray  # float32 [rows]
    context_sum: np.ndarray  # float32 [rows, R]
    bias_sum: np.ndarray  # float32 [rows, R]
    last_ms: np.ndarray  # int64 [rows], t_v
    alive: np.ndarray  # bool [rows], seen in the log and not freed since
    version: np.ndarray  # int64 [rows], ordinal of the last example that changed what is served of the row
    event_ms: np.ndarray  # int64 [rows], newest event behind that
    rings: Rings
    extent: np.ndarray  # int64 [1], rows at or above this were never alive
    touched: np.ndarray  # bool [rows], changed since the last publication
    dirty: np.ndarray  # bool [chunks], changed since the last snapshot


class Rule(NamedTuple):
    """What stays the same from edge to edge: see `SupaConfig` for each field."""

    seed: np.uint64
    negatives: int
    block_rows: int
    rate: float
    max_gradient_norm: float
    walk: WalkRule


class Scratch(NamedTuple):
    """Room for one end of an edge."""

    slots: Slots
    slope: np.ndarray  # float64 [slots], the loss by each slot's logit
    h: np.ndarray  # float32 [d], h* of the end
    gradient: np.ndarray  # float32 [d], the loss by h*
    loss: np.ndarray  # float64 [2]: moving average of what the ends lost before they learned, times its weight; the weight


@compiled
def new_scratch(rule: Rule, dimensions: int, loss: np.ndarray) -> Scratch:
    """Room for the targets, negatives and gradients of one end; `loss` goes on."""
    hops = rule.walk.walks * rule.walk.length
    capacity, words = 1 + hops + rule.negatives, max(TRIES * rule.negatives, hops) // 2 + 1
    rows, relations, weights = np.empty(capacity, np.int32), np.empty(capacity, np.int64), np.empty(capacity, np.float64)
    slots = Slots(rows, relations, weights, np.empty(words, np.uint64))
    h, gradient = np.empty(dimensions, np.float32), np.empty(dimensions, np.float32)
    return Scratch(slots, np.empty(capacity, np.float64), h, gradient, loss)


@inlined
def dot(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of products of two float32 vectors whose length is a multiple of LANES, in one fixed order."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0.0)
    for i in range(0, a.shape[0], 8):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
        s4 += a[i + 4] * b[i + 4]
        s5 += a[i + 5] * b[i + 5]
        s6 += a[i + 6] * b[i + 6]
        s7 += a[i + 7] * b[i + 7]
    return float(((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)))


@compiled
def served_vectors(long: np.ndarray, short: np.ndarray, context: np.ndarray, rows: np.ndarray, side: int) -> np.ndarray:
    """float32 [n, 2 d]: [h, c] of users, [c, h] of items, of rows int64 [n]; the arrays are those of `Table`, h is long + short."""
    d = long.shape[1]
    out = np.empty((rows.size, 2 * d), dtype=np.float32)
    of_h, of_c = (0, d) if side == USER else (d, 0)
    for k in range(rows.size):
        row = rows[k]
        for i in range(d):
            out[k, of_h + i] = long[row, i] + short[row, i] if short.shape[1] else long[row, i]
            out[k, of_c + i] = context[row, SERVED, i]
    return out


@inlined
def add_negatives(table: Table, slots: Slots, targets: int, relation: int, rule: Rule) -> int:
    """Distinct nodes seen so far, uniform, no targets; returns the slots taken. Few nodes or bad luck give fewer.

    Draws lie below a power of two and those at or above `extent` are refused, so that a block keeps its negatives while nodes arrive.
    """
    count, bound = targets, 1
    while bound < table.extent[0]:
        bound *= 2
    for k in range(TRIES * rule.negatives):
        row = below(slots.draws, k, bound)
        if row < table.extent[0] and table.alive[row] and not np.any(slots.row[:count] == row):
            slots.row[count], slots.relation[count], slots.weight[count] = row, relation, 0.0
            count += 1
        if count == targets + rule.negatives:
            break
    return count


@compiled
def sample(
    tables: tuple[Table, Table], side: int, row: int, met: int, relation: int, ts_ms: int, ordinal: int, rule: Rule, slots: Slots
) -> int:
    """What `row` of table `side`, which meets `met`, is trained against; returns the slots taken: targets, then negatives.

    Target 0 is `met` (weight 1), the others come from walks over the past. A pure function of the tables, the edge and its ordinal.
    """
    count = add_target(slots, 0, met, relation, 1.0)
    rings = (tables[0].rings, tables[1].rings)
    fill(rule.seed, _WALKS + np.uint64(side), np.uint64(ordinal), slots.draws)
    for k in range(rule.walk.walks):
        count = walk(rings, side, row, ts_ms, rule.walk, slots, k * rule.walk.length, count)
    fill(rule.seed, _NEGATIVES + np.uint64(side), np.uint64(ordinal // rule.block_rows), slots.draws)
    return add_negatives(tables[1 - side], slots, count, relation, rule)


@inlined
def effective(table: Table, row: int, fade: float, h: np.ndarray) -> None:
    """h* = long + fade * short, into `h`."""
    for i in range(h.shape[0]):
        h[i] = table.long[row, i]
    for i in range(table.short.shape[1]):
        h[i] += np.float32(fade) * table.short[row, i]


@inlined
def slopes(slots: Slots, count: int, slope: np.ndarray) -> None:
    """From logits to the loss by logit, in place. L = - sum over targets j of w_j log(e^x_j / (e^x_j + sum over negatives e^x))."""
    top, rivals, pull = np.max(slope[:count]), 0.0, 0.0
    for k in range(count):
        slope[k] = math.exp(slope[k] - top)
        rivals += slope[k] if slots.weight[k] == 0.0 else 0.0
    for k in range(count):
        if slots.weight[k] > 0.0:
            total = rivals + slope[k] + TINY
            pull += slots.weight[k] / total
            slope[k] = -slots.weight[k] * rivals / total
        else:
            slope[k] *= pull


@inlined
def lose(slope: float, loss: np.ndarray) -> None:
    """Add what an end lost on the node that it met: - log of its softmax, which is 1 + the slope of its logit."""
    loss[0] += LOSS_SHARE * (-math.log(max(1.0 + slope, EPSILON)) - loss[0])
    loss[1] += LOSS_SHARE * (1.0 - loss[1])


@compiled
def differentiate(own: Table, other: Table, row: int, fade: float, count: int, scratch: Scratch) -> bool:
    """Fill `h`, `slope` and `gradient` of the scratch from its slots; False where a number is not finite. Changes no table."""
    slots, slope, h, gradient = scratch.slots, scratch.slope, scratch.h, scratch.gradient
    effective(own, row, fade, h)
    for k in range(count):
        slope[k] = dot(h, other.context[slots.row[k], slots.relation[k]]) + other.bias[slots.row[k], slots.relation[k]]
    slopes(slots, count, slope)
    gradient[:] = np.float32(0.0)
    for k in range(count):
        context, weight = other.context[slots.row[k], slots.relation[k]], np.float32(slope[k])
        for i in range(h.shape[0]):
            gradient[i] += weight * context[i]
    return math.isfinite(dot(h, h)) and math.isfinite(dot(gradient, gradient))


@inlined
def step_size(sums: np.ndarray, at: tuple[int, ...], squares: float, dimensions: int, rule: Rule) -> float:
    """AdaGrad's step along a gradient with this sum of squares, clipped; adds it to the row's sum (row-wise AdaGrad)."""
    shrink = min(1.0, rule.max_gradient_norm / max(math.sqrt(squares), EPSILON))
    sums[at] += shrink * shrink * squares / dimensions
    return rule.rate * shrink / math.sqrt(sums[at] + EPSILON)


@inlined
def descend(values: np.ndarray, step: float, gradient: np.ndarray) -> None:
    """values -= step * gradient."""
    scale = np.float32(step)
    for i in range(values.shape[0]):
        values[i] -= scale * gradient[i]


@compiled
def update(own: Table, other: Table, row: int, fade: float, count: int, rule: Rule, scratch: Scratch) -> None:
    """One AdaGrad step of the end's own vectors, and of the contexts and biases in the slots."""
    slots, h, gradient, d = scratch.slots, scratch.h, scratch.gradient, scratch.h.shape[0]
    h_squares, squares = float(dot(h, h)), float(dot(gradient, gradient))
    for k in range(count):
        at, slope = (slots.row[k], slots.relation[k]), scratch.slope[k]
        step = step_size(other.context_sum, at, slope * slope * h_squares, d, rule)
        descend(other.context[at], step * slope, h)
        other.bias[at] -= np.float32(slope * step_size(other.bias_sum, at, slope * slope, 1, rule))
    descend(own.long[row], step_size(own.long_sum, (row,), squares, d, rule), gradient)
    if own.short.shape[1]:
        descend(own.short[row], fade * step_size(own.short_sum, (row,), fade * fade * squares, d, rule), gradient)


@inlined
def stamp(table: Table, row: int, ordinal: int, ts_ms: int) -> None:
    """Say that what is served of the row changed."""
    table.version[row] = ordinal
    table.event_ms[row] = max(table.event_ms[row], ts_ms)
    table.touched[row] = True


@inlined
def arrive(table: Table, row: int, ordinal: int, ts_ms: int) -> None:
    """A node comes to life with its first edge."""
    table.dirty[row >> CHUNK_BITS] = True
    if not table.alive[row]:
        table.alive[row], table.last_ms[row] = True, ts_ms
        table.extent[0] = max(table.extent[0], row + 1)
        stamp(table, row, ordinal, ts_ms)


@compiled
def learn_end(
    tables: tuple[Table, Table], side: int, row: int, met: int, relation: int, ts_ms: int, ordinal: int, rule: Rule, scratch: Scratch
) -> bool:
    """Sample and learn from one end; False, and nothing changed, where a number would not be finite."""
    own, other, slots = tables[side], tables[1 - side], scratch.slots
    count = sample(tables, side, row, met, relation, ts_ms, ordinal, rule, slots)
    if slots.weight[count - 1] > 0.0:
        return True  # no negative yet: the loss is 0
    fade = decay(float(ts_ms - own.last_ms[row]), rule.walk.unit_ms)
    if not differentiate(own, other, row, fade, count, scratch):
        return False
    lose(scratch.slope[0], scratch.loss)
    update(own, other, row, fade, count, rule, scratch)
    stamp(own, row, ordinal, ts_ms)
    for k in range(count):
        other.dirty[slots.row[k] >> CHUNK_BITS] = True
        if slots.relation[k] == SERVED:
            stamp(other, slots.row[k], ordinal, ts_ms)
    return True


@compiled
def learn_edge(
    tables: tuple[Table, Table], ends: tuple[int, int], relation: int, ts_ms: int, ordinal: int, rule: Rule, scratch: Scratch
) -> int:
    """Learn one edge and remember it; returns the ends (0 to 2) whose update was refused."""
    refused = 0
    for side in range(2):
        arrive(tables[side], ends[side], ordinal, ts_ms)
    for side in range(2):
        refused += not learn_end(tables, side, ends[side], ends[1 - side], relation, ts_ms, ordinal, rule, scratch)
    for side in range(2):
        table, row, met = tables[side], ends[side], ends[1 - side]
        remember(table.rings, row, met, tables[1 - side].rings.generation[met], relation, ts_ms)
        table.last_ms[row] = max(table.last_ms[row], ts_ms)
    return refused


@compiled
def learn_run(
    tables: tuple[Table, Table],
    relation: np.ndarray,
    user_row: np.ndarray,
    item_row: np.ndarray,
    ts_ms: np.ndarray,
    first_ordinal: int,
    rule: Rule,
    item_vector: np.ndarray,
    loss: np.ndarray,
) -> int:
    """Learn the edges of a run of examples in order; returns the updates refused.

    Args:
        tables: users, items. Updated.
        relation: int64 [n], -1 where the example is no edge.
        user_row, item_row: int32 [n]; of an example that is no edge the item's row if it has one, else -1.
        ts_ms: int64 [n].
        item_vector: float32 [n, 2 d], zeros; filled with the item's [c, h] after each example, where it is known.
        loss: float64 [2], as in `Scratch`. Updated.
    """
    items, d, refused = tables[ITEM], item_vector.shape[1] // 2, 0
    scratch = new_scratch(rule, d, loss)
    for i in range(relation.shape[0]):
        if relation[i] >= 0:
            refused += learn_edge(tables, (user_row[i], item_row[i]), relation[i], ts_ms[i], first_ordinal + i, rule, scratch)
        if item_row[i] >= 0 and items.alive[item_row[i]]:
            item_vector[i, :d] = items.context[item_row[i], SERVED]
            effective(items, item_row[i], 1.0, item_vector[i, d:])
    return refused


@compiled
def initialise(table: Table, rows: np.ndarray, keys: np.ndarray, seed: np.uint64, side: int, scale: float) -> None:
    """First vectors of `rows`: uniform in (-scale, scale), a function of the seed, the table and the id alone.

    Args:
        keys: uint64 [len(rows), 2], fingerprints of the ids.
    """
    d, relations = table.long.shape[1], table.context.shape[1]
    bits = np.empty(d * (1 + relations), np.uint64)
    for k in range(rows.shape[0]):
        fill(seed ^ keys[k, 0], (_START + np.uint64(side)) ^ keys[k, 1], np.uint64(0), bits)
        for i in range(d):
            table.long[rows[k], i] = scale * (2.0 * unit(bits[i]) - 1.0)
            for r in range(relations):
                table.context[rows[k], r, i] = scale * (2.0 * unit(bits[(1 + r) * d + i]) - 1.0)


@compiled
def score_items(users: Table, items: Table, user_row: int, item_rows: np.ndarray, out: np.ndarray) -> None:
    """float32 `out` [n]: h_u . c_v + c_u . h_v + bias_v as served; NaN where an item has no row. No BLAS: its sums depend on n."""
    d = users.long.shape[1]
    h_user, h_item = np.empty(d, np.float32), np.empty(d, np.float32)
    effective(users, user_row, 1.0, h_user)
    for k in range(item_rows.shape[0]):
        row = item_rows[k]
        out[k] = np.nan
        if row >= 0:
            effective(items, row, 1.0, h_item)
            across = dot(h_user, items.context[row, SERVED]) + dot(users.context[user_row, SERVED], h_item)
            out[k] = across + items.bias[row, SERVED]
