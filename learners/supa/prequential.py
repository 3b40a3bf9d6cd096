"""Runs of edges that teach the memory-aware score, too; and that are judged by it before they are learned."""

import numpy as np

from core.compiled import compiled, inlined
from core.ranks import mean_rank
from learners.supa.kernel import Rule, Run, Scratch, learn_row
from learners.supa.memory import Memory, remember_edge, score_rows, teach
from learners.supa.table import Table


@inlined
def _teach_and_learn(table: Table, run: Run, i: int, rule: Rule, scratch: Scratch, memory: Memory) -> int:
    """Row i; returns the updates and steps refused."""
    refused = 0
    if run.relation[i] >= 0:
        ends, ordinal = (run.ends[i, 0], run.ends[i, 1]), run.first_ordinal + i
        if ordinal % memory.every == 0:
            refused += teach(table, memory, ends, run.ts_ms[i], ordinal, rule.sample.seed)
        remember_edge(table, memory.history, ends, run.ts_ms[i])
    return refused + learn_row(table, run, i, rule, scratch)


@compiled
def learn_remembering(table: Table, run: Run, rule: Rule, scratch: Scratch, memory: Memory) -> int:
    """`learn_run`, and every few edges teach the weights of the score before they are learned."""
    refused = 0
    for i in range(run.relation.shape[0]):
        refused += _teach_and_learn(table, run, i, rule, scratch, memory)
    return refused


@compiled
def judge_run(table: Table, run: Run, rule: Rule, scratch: Scratch, memory: Memory, first: int, candidates: int, ranks: np.ndarray) -> int:
    """Rank the second end of every edge for its first, at its time, then learn it; returns the updates refused.

    Args:
        first, candidates: rows [first, first + candidates) are the candidates; those without an edge yet share the last ranks.
        ranks: float64 [n], filled.
    """
    refused, scores, everyone = 0, np.empty(candidates), np.ones(candidates, np.bool_)
    known, of_known = np.empty(candidates, np.int32), np.empty(candidates)
    for i in range(run.ends.shape[0]):
        count = 0
        for k in range(candidates):
            scores[k] = np.nan
            if table.alive[first + k]:
                known[count] = first + k
                count += 1
        score_rows(table, memory, run.ends[i, 0], known[:count], run.ts_ms[i], False, of_known)
        for k in range(count):
            scores[known[k] - first] = of_known[k]
        ranks[i] = mean_rank(scores, everyone, run.ends[i, 1] - first)
        refused += _teach_and_learn(table, run, i, rule, scratch, memory)
    return refused
