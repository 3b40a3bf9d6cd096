"""One edge of SUPA: sample, update, propagate. Compiled; a torch twin of every loss stands in the tests.

Source: "Instant Representation Learning for Recommendation over Large Dynamic Graphs", ICDE 2023, sections on the sample, update
and propagate steps. Every part can be chosen (see `SupaConfig`); instead of Adam over all rows there is row-wise AdaGrad over those of
the edge, after every edge.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, contiguous, inlined
from core.randomness import fill, unit
from learners.supa.ahead import EDGES, ask_end
from learners.supa.descent import Rates, descend, step_size, update_biases, update_contexts, update_long
from learners.supa.losses import differentiate, lose
from learners.supa.neighbours import Slots, WalkRule, decay, decay_slope, remember
from learners.supa.sampling import Draws, Edge, SampleRule, fade_slots, new_draws, new_slots, sample
from learners.supa.table import SERVED, Marks, Table, arrive, dot, fade, serve, stamp, stamp_slots
from learners.supa.undo import Undo, keep, keep_slots

MOST_EDGES = np.iinfo(np.int32).max
NEVER_MS = np.iinfo(np.int64).max
_START = np.uint64(0x53510000)  # random stream of first vectors, + node type


class Rule(NamedTuple):
    """What stays the same from edge to edge: see `SupaConfig` for each field."""

    sample: SampleRule
    rates: Rates
    sigmoid: bool
    interaction: bool
    forget_per_ms: float
    published: bool  # vectors served


class Scratch(NamedTuple):
    """Room for one edge."""

    slots: Slots
    draws: Draws
    slope: np.ndarray  # float64 [slots], the loss by each slot's product of h* and context, and by its bias
    h: np.ndarray  # float32 [2, d], h* of the ends
    gradient: np.ndarray  # float32 [2, d], the loss by h*
    loss: np.ndarray  # float64 [2]: moving average of what the ends lost before they learned, times its weight; the weight
    undo: Undo


@compiled
def new_scratch(rule: Rule, dimensions: int, loss: np.ndarray, undo: Undo) -> Scratch:
    """Room for the targets, negatives and gradients of an edge; `loss` and `undo` go on."""
    slots = new_slots(rule.sample)
    h, gradient = np.empty((2, dimensions), np.float32), np.empty((2, dimensions), np.float32)
    return Scratch(slots, new_draws(rule.sample), np.empty(slots.row.shape[0], np.float64), h, gradient, loss, undo)


@compiled
def update_short(table: Table, row: int, age_ms: int, gradient: np.ndarray, rule: Rule) -> None:
    """One AdaGrad step of an end's short vector, and of the alpha of its type, by the loss by h*."""
    type_, age, walk = table.type[row], max(0, age_ms) / rule.sample.walk.unit_ms, rule.sample.walk
    share, most = 1.0 / (1.0 + math.exp(-table.alpha[type_])), rule.rates.max_gradient_norm
    g = decay(share * age, walk.decay)
    slope = float(dot(gradient, table.short[row])) * decay_slope(share * age, walk.decay) * age * share * (1.0 - share)
    step = step_size(table.short_sum, (row,), g * g * float(dot(gradient, gradient)), gradient.shape[0], rule.rates.vectors, most)
    descend(table.short[row], g * step, gradient)
    table.alpha[type_] -= slope * step_size(table.alpha_sum, (type_,), slope * slope, 1, rule.rates.vectors, most)


@compiled
def short_fade(table: Table, row: int, age_ms: int, walk: WalkRule) -> float:
    """g(sigmoid(alpha) * age): what is left of the short vector at the next edge."""
    share = 1.0 / (1.0 + math.exp(-table.alpha[table.type[row]]))
    return decay(share * max(0, age_ms) / walk.unit_ms, walk.decay)


@inlined
def effective(table: Table, row: int, age_ms: int, rule: Rule, h: np.ndarray) -> None:
    """h* = long + g(sigmoid(alpha) * age) * short, into `h`."""
    h[:] = contiguous(table.long[row])
    if table.short.shape[1]:
        descend(h, -short_fade(table, row, age_ms, rule.sample.walk), table.short[row])


@compiled
def interaction_gradients(table: Table, edge: Edge, rule: Rule, scratch: Scratch) -> bool:
    """L = - log sigmoid(z_u . z_v), z = (h* + c^r) / 2. Fill `h` with both h*, `gradient` with the loss by each h*, which is the loss by
    its c^r too; False where a number is not finite. Changes no table."""
    h, gradient = scratch.h, scratch.gradient
    for side in range(2):
        effective(table, edge.ends[side], edge.ages_ms[side], rule, h[side])
    ours, theirs = (contiguous(table.context[edge.ends[0], edge.relation]), contiguous(table.context[edge.ends[1], edge.relation]))
    for i in range(h.shape[1]):
        gradient[1, i], gradient[0, i] = 0.5 * (h[0, i] + ours[i]), 0.5 * (h[1, i] + theirs[i])
    product = float(dot(gradient[0], gradient[1]))
    slope = np.float32(-0.5 / (1.0 + math.exp(product)))
    for i in range(h.shape[1]):
        gradient[0, i] *= slope
        gradient[1, i] *= slope
    return math.isfinite(product)


@compiled
def learn_interaction(table: Table, edge: Edge, rule: Rule, scratch: Scratch) -> bool:
    """One step by the interaction loss; False, and nothing changed, where a number would not be finite."""
    if not interaction_gradients(table, edge, rule, scratch):
        return False
    for side in range(2):
        row, gradient = edge.ends[side], scratch.gradient[side]
        at, squares = (row, edge.relation), float(dot(gradient, gradient))
        keep(scratch.undo, table, row)
        step = step_size(table.context_sum, at, squares, gradient.shape[0], rule.rates.vectors, rule.rates.max_gradient_norm)
        descend(table.context[at], step, gradient)
        if table.short.shape[1]:
            update_short(table, row, edge.ages_ms[side], gradient, rule)
        update_long(table.long, table.long_sum, row, gradient, rule.rates)
        stamp(table, row, edge.behind[0], edge.behind[1])
    return True


@compiled
def learn_end(table: Table, side: int, edge: Edge, rule: Rule, scratch: Scratch) -> bool:
    """Sample and learn from one end; False, and nothing changed, where a number would not be finite."""
    row, slots, slope, h, gradient = edge.ends[side], scratch.slots, scratch.slope, scratch.h[side], scratch.gradient[side]
    count = sample(table, side, edge, rule.sample, slots, scratch.draws)
    if slots.weight[count - 1] > 0.0:
        return True  # no negative yet: nothing to tell it from
    if scratch.undo.epoch[0]:
        keep_slots(scratch.undo, table, slots, count)
    if rule.forget_per_ms > 0.0:
        fade_slots(table, slots, count, edge, rule.forget_per_ms)
    effective(table, row, edge.ages_ms[side], rule, h)
    if not differentiate(table.context, table.bias, slots, count, rule.sigmoid, h, slope, gradient):
        return False
    lose(slope[0], scratch.loss)
    update_contexts(table.context, table.context_sum, slots, count, slope, h, rule.rates)
    if rule.rates.biases > 0.0:
        update_biases(table.bias, table.bias_sum, slots, count, slope, rule.rates)
    if table.short.shape[1]:
        update_short(table, row, edge.ages_ms[side], gradient, rule)
    update_long(table.long, table.long_sum, row, gradient, rule.rates)
    stamp(table, row, edge.behind[0], edge.behind[1])
    marks = Marks(table.version, table.event_ms, table.touched, table.dirty)
    stamp_slots(marks, slots, count, edge.behind[0], edge.behind[1])
    return True


@compiled
def relearn(table: Table, edge: Edge, rule: Rule, scratch: Scratch) -> int:
    """Learn an edge that is remembered already, or is about to be; returns the updates refused."""
    refused = 0
    for side in range(2):
        if scratch.undo.epoch[0]:
            keep(scratch.undo, table, edge.ends[side])
        if rule.forget_per_ms > 0.0 and fade(table, edge.ends[side], edge.ts_ms, rule.forget_per_ms):
            stamp(table, edge.ends[side], edge.behind[0], edge.behind[1])
    if rule.interaction:
        refused += not learn_interaction(table, edge, rule, scratch)
    for side in range(2):
        refused += not learn_end(table, side, edge, rule, scratch)
    return refused


@compiled
def meet(table: Table, ends: tuple[int, int], relation: int, ts_ms: int) -> None:
    """Remember an edge."""
    for side in range(2):
        row = ends[side]
        remember(table.neighbours, row, ends[1 - side], relation, ts_ms)
        table.last_ms[row] = max(table.last_ms[row], ts_ms)
        table.edges[row] = min(table.edges[row] + 1, MOST_EDGES)


@compiled
def learn_edge(
    table: Table, ends: tuple[int, int], relation: int, ts_ms: int, ordinal: int, rule: Rule, scratch: Scratch
) -> tuple[tuple[int, int], int]:
    """Learn one new edge and remember it; returns the ages of its ends, and the updates refused."""
    for side in range(2):
        arrive(table, ends[side], ordinal, ts_ms)
    ages_ms = (ts_ms - table.last_ms[ends[0]], ts_ms - table.last_ms[ends[1]])
    refused = relearn(table, Edge(ends, relation, ts_ms, ordinal, ages_ms, NEVER_MS, (ordinal, ts_ms)), rule, scratch)
    meet(table, ends, relation, ts_ms)
    return ages_ms, refused


class Run(NamedTuple):
    """n rows of a log, and room for what is asked of each."""

    ends: np.ndarray  # int32 [n, 2], rows; of a row that is no edge the second may be one whose vector is asked for, else -1
    relation: np.ndarray  # int64 [n], -1 where the row is no edge
    ts_ms: np.ndarray  # int64 [n]
    first_ordinal: int
    ages_ms: np.ndarray  # int64 [n, 2] or [0, 2]: of an edge's ends, time since their edges before
    after: np.ndarray  # float32 [n, 2 d] or [0, 2 d], zeros: mirrored vector of the second end after each row, where it is alive


def part_of(run: Run, start: int, stop: int) -> Run:
    """Rows [start, stop)."""
    rows = slice(start, stop)
    return Run(
        run.ends[rows], run.relation[rows], run.ts_ms[rows], run.first_ordinal + start, run.ages_ms[rows], run.after[rows]
    )  # fmt: skip


@inlined
def learn_row(table: Table, run: Run, i: int, rule: Rule, scratch: Scratch) -> int:
    """Row i of a run; returns the updates refused."""
    second, refused, soon = run.ends[i, 1], 0, i + EDGES
    if soon < run.relation.shape[0] and run.relation[soon] >= 0:
        ask_end(table, table.neighbours, run.ends[soon, 0], run.relation[soon])
        ask_end(table, table.neighbours, run.ends[soon, 1], run.relation[soon])
    if run.relation[i] >= 0:
        ends, ordinal = (run.ends[i, 0], second), run.first_ordinal + i
        ages_ms, refused = learn_edge(table, ends, run.relation[i], run.ts_ms[i], ordinal, rule, scratch)
        if run.ages_ms.shape[0]:
            run.ages_ms[i, 0], run.ages_ms[i, 1] = ages_ms
    if run.after.shape[0] and second >= 0 and table.alive[second]:
        serve(table.long[second], table.short[second], table.context[second, SERVED], rule.published, True, run.after[i])
    return refused


@compiled
def learn_run(table: Table, run: Run, rule: Rule, scratch: Scratch) -> int:
    """Learn the edges of a run in order; returns the updates refused."""
    refused = 0
    for i in range(run.relation.shape[0]):
        refused += learn_row(table, run, i, rule, scratch)
    return refused


@compiled
def initialise(table: Table, rows: np.ndarray, keys: np.ndarray, seed: np.uint64, scale: float) -> None:
    """First vectors of `rows`: uniform in (-scale, scale), a function of the seed, the node type and the id alone.

    Args:
        keys: uint64 [len(rows), 2], fingerprints of the ids.
    """
    d, relations, short = table.long.shape[1], table.context.shape[1], table.short.shape[1]
    bits = np.empty(d * (1 + relations) + short, np.uint64)
    for k in range(rows.shape[0]):
        row = rows[k]
        fill(seed ^ keys[k, 0], (_START + np.uint64(table.type[row])) ^ keys[k, 1], np.uint64(0), bits)
        for i in range(d):
            table.long[row, i] = scale * (2.0 * unit(bits[i]) - 1.0)
            for r in range(relations):
                table.context[row, r, i] = scale * (2.0 * unit(bits[(1 + r) * d + i]) - 1.0)
        for i in range(short):
            table.short[row, i] = scale * (2.0 * unit(bits[(1 + relations) * d + i]) - 1.0)
