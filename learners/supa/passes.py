"""Edges learned again, and scored before they are: the compiled part of InsLearn."""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from core.randomness import fill
from learners.supa.kernel import Rule, Scratch, relearn
from learners.supa.neighbours import below
from learners.supa.sampling import Edge, node_at
from learners.supa.table import Table, dot, serve

_RIVALS = np.uint64(0x53500020)  # random stream


class Pending(NamedTuple):
    """Edges that are learned again, oldest first."""

    ends: np.ndarray  # int32 [n, 2]
    generation: np.ndarray  # int32 [n, 2], of the ends' rows when the edge came
    relation: np.ndarray  # int64 [n]
    ts_ms: np.ndarray  # int64 [n]
    ordinal: np.ndarray  # int64 [n]
    ages_ms: np.ndarray  # int64 [n, 2]


@inlined
def still_there(table: Table, of: Pending, i: int) -> bool:
    """Neither end was freed since."""
    generation = table.neighbours.generation
    return bool(generation[of.ends[i, 0]] == of.generation[i, 0] and generation[of.ends[i, 1]] == of.generation[i, 1])


@compiled
def relearn_many(table: Table, of: Pending, start: int, stop: int, rule: Rule, scratch: Scratch, ordinal: int, ts_ms: int) -> int:
    """Learn pending edges [start, stop) again; walks see what was before each. Returns the updates refused.

    Args:
        ordinal, ts_ms: of the edge that brings this about, which is behind every change.
    """
    refused = 0
    for i in range(start, stop):
        if still_there(table, of, i):
            ends, ages_ms = (of.ends[i, 0], of.ends[i, 1]), (of.ages_ms[i, 0], of.ages_ms[i, 1])
            edge = Edge(ends, of.relation[i], of.ts_ms[i], of.ordinal[i], ages_ms, of.ts_ms[i] - 1, (ordinal, ts_ms))
            refused += relearn(table, edge, rule, scratch)
    return refused


@inlined
def _score(table: Table, row: int, relation: int, published: bool, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of a query's vector with a node; `theirs` is room for the node's."""
    serve(table.long[row], table.short[row], table.context[row, relation], published, True, theirs)
    return float(dot(ours, theirs) + table.bias[row, relation])


@compiled
def _rank(table: Table, query: int, true: int, relation: int, published: bool, bits: np.ndarray, rivals: int) -> float:
    """Of the true node among as many drawn ones, ties at their mean rank."""
    ours, theirs = np.empty(2 * table.long.shape[1], np.float32), np.empty(2 * table.long.shape[1], np.float32)
    serve(table.long[query], table.short[query], table.context[query, relation], published, False, ours)
    score, above, ties, nodes = _score(table, true, relation, published, ours, theirs), 0, 0, np.sum(table.extent)
    for k in range(rivals):
        rival = node_at(table, below(bits, k, nodes))
        if table.alive[rival] and rival != true:
            other = _score(table, rival, relation, published, ours, theirs)
            above += other > score
            ties += other == score
    return 1.0 + above + 0.5 * ties


@compiled
def validate(table: Table, of: Pending, start: int, rule: Rule, rivals: int) -> float:
    """MRR of the pending edges from `start` on: either end among `rivals` nodes of any type, the same for all."""
    total, asked, bits = 0.0, 0, np.empty(rivals // 2 + 1, np.uint64)
    fill(rule.sample.seed, _RIVALS, np.uint64(of.ordinal[start]), bits)
    for i in range(start, of.relation.shape[0]):
        if still_there(table, of, i):
            one, other, relation = of.ends[i, 0], of.ends[i, 1], of.relation[i]
            total += 1.0 / _rank(table, one, other, relation, rule.published, bits, rivals)
            total += 1.0 / _rank(table, other, one, relation, rule.published, bits, rivals)
            asked += 2
    return total / max(asked, 1)
