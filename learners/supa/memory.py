"""The memory-aware score: what was learned of a pair, what it remembers of itself, and what all did, by weights learned online.

    P(v | q, t) = softmax over v of w[type of q, whether q remembers v] . x(q, v, t)

The weights learn from every few edges, their ends asked, before the edge is learned: the true node, all that q remembers, and samples of
the nodes in reach and of all others, each standing for those that were not drawn (log of the inverse of its chance is added), so that the
estimated loss is that of the softmax over all nodes.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined, summed
from core.randomness import fill
from learners.supa.history import History, note
from learners.supa.neighbours import below, entry_of
from learners.supa.pairs import FEATURES, OF_THE_MOMENT, Query, describe
from learners.supa.reach import Reach, explore, leave, new_reach
from learners.supa.sampling import node_at
from learners.supa.table import Table

STRANGERS = 40  # drawn of those in reach, and of all
RATE = 0.1
EPSILON = 1e-8
CHUNK_ROWS = 256  # scored at a time
UNTAUGHT = -1
FIRST = 1e6  # above any score: what is remembered comes first
_CANDIDATES = np.uint64(0x53500030)  # random stream, + end


class Memory(NamedTuple):
    """What the score is made of, and room for one query."""

    history: History
    weights: np.ndarray  # float64 [T, 2, features + 1]: by the query's type, of strangers and of remembered nodes; the last one constant
    sums: np.ndarray  # float64, AdaGrad's, the same shape
    reach: Reach
    taught: np.ndarray  # int64 [1], the example by which the weights changed last
    every: int  # edges of which one teaches the weights; 0: there is no such score
    asks: np.ndarray  # bool [T], node types that are asked for
    used: np.ndarray  # bool [features + 1]; the weights of the others stay 0
    x: np.ndarray  # float64 [candidates, features]
    row: np.ndarray  # int32 [candidates]
    remembered: np.ndarray  # int64 [candidates], 1 where it is
    logit: np.ndarray  # float64 [candidates]
    gradient: np.ndarray  # float64 [2, features + 1]
    bits: np.ndarray  # uint64


def new_memory(history: History, rows: int, asks: np.ndarray, later: bool, ring: int, relations: int, every: int) -> Memory:
    """With weights of 0, of a table of so many rows; with room for nothing if `every` is 0."""
    features, candidates = len(FEATURES) + relations, max(CHUNK_ROWS, 1 + ring + 2 * STRANGERS + 1)
    weights, sums = np.zeros((asks.size, 2, features + 1)), np.zeros((asks.size, 2, features + 1))
    reach, x = new_reach(rows if every else 0, ring if every else 0), np.zeros((candidates, features))
    row, remembered, logit = np.zeros(candidates, np.int32), np.zeros(candidates, np.int64), np.zeros(candidates)
    bits, used = np.zeros(STRANGERS // 2 + 1, np.uint64), np.ones(features + 1, np.bool_)
    used[list(OF_THE_MOMENT)] = not later
    taught, gradient = np.full(1, UNTAUGHT), np.zeros((2, features + 1))
    return Memory(history, weights, sums, reach, taught, every, asks, used, x, row, remembered, logit, gradient, bits)


@summed
def _weigh(weights: np.ndarray, x: np.ndarray) -> float:
    total = float(weights[x.shape[0]])
    for k in range(x.shape[0]):
        total += weights[k] * x[k]
    return total


@compiled
def score_rows(table: Table, memory: Memory, q: int, rows: np.ndarray, ts_ms: int, remembered_first: bool, out: np.ndarray) -> None:
    """The score of `q` with each of rows int32 [n], none below 0, at a time into `out`, float64 [n]. Changes no state.

    Args:
        remembered_first: where one end remembers the other, it stands above all where neither does.
    """
    query = Query(q, ts_ms, explore(table.neighbours, q, memory.reach), memory.reach)
    weights, x, remembered = memory.weights[table.type[q]], memory.x, memory.remembered
    for start in range(0, rows.shape[0], x.shape[0]):
        part = rows[start : start + x.shape[0]]
        describe(table, memory.history, query, part, x, remembered)
        for k in range(part.shape[0]):
            first = FIRST if remembered[k] and remembered_first else 0.0
            out[start + k] = _weigh(weights[remembered[k]], x[k]) + first
    leave(table.neighbours, q, query.neighbours, memory.reach)


@compiled
def near_rows(table: Table, memory: Memory, q: int) -> np.ndarray:
    """int32 [n]: the rows that `q` remembers, met last first, then those in reach that it does not. Changes no state."""
    reach, count = memory.reach, explore(table.neighbours, q, memory.reach)
    out = np.empty(count + reach.size[0], np.int32)
    for place in range(count):
        out[place] = table.neighbours.row[q, reach.order[place]]
    size = count
    for k in range(reach.size[0]):
        if reach.entry[reach.found[k]] == 0:
            out[size] = reach.found[k]
            size += 1
    leave(table.neighbours, q, count, reach)
    return out[:size]


@inlined
def _add(memory: Memory, count: int, row: int, stands_for: float) -> int:
    memory.row[count], memory.logit[count] = row, math.log(stands_for)
    return count + 1


@compiled
def _choose(table: Table, memory: Memory, query: Query, true: int, ordinal: int, side: int, seed: np.uint64) -> int:
    """Candidates into `row`, and log of how many nodes each stands for into `logit`; returns how many. The first is the true one."""
    of, reach, count = table.neighbours, memory.reach, _add(memory, 0, true, 1.0)
    for place in range(query.neighbours):
        met = of.row[query.row, reach.order[place]]
        count = _add(memory, count, met, 1.0) if met != true else count
    fill(seed, _CANDIDATES + np.uint64(side), np.uint64(ordinal), memory.bits)
    nodes, found = np.sum(table.extent), reach.size[0]
    for k in range(STRANGERS):
        row = node_at(table, below(memory.bits, k, nodes))
        if table.alive[row] and row != true and reach.entry[row] == 0 and reach.ways[row] == 0.0:
            count = _add(memory, count, row, nodes / STRANGERS)
    step = -(-found // STRANGERS) if found else 1
    for k in range(below(memory.bits, STRANGERS, step), found, step):
        row = reach.found[k]
        if row != true and reach.entry[row] == 0:
            count = _add(memory, count, row, float(step))
    return count


@compiled
def _descend(table: Table, memory: Memory, query: Query, count: int) -> bool:
    """One step of the weights by - log P of the first candidate; False, and nothing changed, where a number would not be finite."""
    weights, x, sums = memory.weights[table.type[query.row]], memory.x, memory.sums[table.type[query.row]]
    top, total, constant = -np.inf, 0.0, x.shape[1]
    describe(table, memory.history, query, memory.row[:count], x, memory.remembered)
    for k in range(count):
        memory.logit[k] += _weigh(weights[memory.remembered[k]], x[k])
        top = max(top, memory.logit[k])
    for k in range(count):
        memory.logit[k] = math.exp(memory.logit[k] - top)
        total += memory.logit[k]
    memory.gradient[:] = 0.0
    for k in range(count):
        slope, of = memory.logit[k] / total - (1.0 if k == 0 else 0.0), memory.gradient[memory.remembered[k]]
        of[constant] += slope
        for j in range(constant):
            of[j] += slope * x[k, j]
    if not math.isfinite(np.sum(memory.gradient)):
        return False
    for regime in range(2):
        for j in range(constant + 1):
            slope = memory.gradient[regime, j]
            if memory.used[j] and slope != 0.0:
                sums[regime, j] += slope * slope
                weights[regime, j] -= RATE * slope / math.sqrt(sums[regime, j] + EPSILON)
    return True


@compiled
def teach(table: Table, memory: Memory, ends: tuple[int, int], ts_ms: int, ordinal: int, seed: np.uint64) -> int:
    """Teach the weights from an edge that is not learned yet, its ends asked; returns the steps refused.

    A node without an edge teaches nothing: that it was never seen would be a perfect clue.
    """
    refused = 0
    for side in range(2):
        q, true = ends[side], ends[1 - side]
        if memory.asks[table.type[q]] and table.alive[q] and table.alive[true]:
            query = Query(q, ts_ms, explore(table.neighbours, q, memory.reach), memory.reach)
            count = _choose(table, memory, query, true, ordinal, side, seed)
            if count > 1 and _descend(table, memory, query, count):
                memory.taught[0] = ordinal
            elif count > 1:
                refused += 1
            leave(table.neighbours, q, query.neighbours, memory.reach)
    return refused


@compiled
def remember_edge(table: Table, history: History, ends: tuple[int, int], ts_ms: int) -> None:
    """Note an edge in both ends' histories, before it is noted among their neighbours."""
    for side in range(2):
        row = ends[side]
        new = entry_of(table.neighbours, row, ends[1 - side]) < 0
        loop = side if ends[0] == ends[1] else 0
        note(history, row, table.edges[row] + loop, new, ts_ms)
