"""Edges judged before they are learned, in one call; and threads that learn side by side."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from core.errors import SettingsError
from core.hashing import fingerprints
from learners.supa import SupaConfig
from learners.supa.graph import SupaGraph

START_MS, MINUTE_MS = 1_700_000_000_000, 60_000
CONFIG = SupaConfig(dimensions=16, ring_size=4, negatives=6, memory_every=2, asking_types=("user",))
USERS, ITEMS = 12, 9


def made(config: SupaConfig) -> SupaGraph:
    graph = SupaGraph(config, (USERS, ITEMS))
    for first, count in zip(graph.first, (USERS, ITEMS), strict=False):
        rows = np.arange(count, dtype=np.int32) + np.int32(first)
        graph.initialise(rows, fingerprints(map(str, rows.tolist())))
    return graph


def edges(count: int, graph: SupaGraph, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows int32 [count, 2], and times."""
    random = np.random.default_rng(seed)
    ends = np.stack([random.integers(USERS, size=count), random.integers(ITEMS, size=count) + graph.first[1]], axis=1)
    return ends.astype(np.int32), START_MS + MINUTE_MS * np.arange(count)


def naive_rank(scores: np.ndarray, true: int) -> float:
    """Mean over the orders of equals; nothing known is last."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    return float(1 + (known > known[true]).sum() + ((known == known[true]).sum() - 1) / 2)


@pytest.mark.parametrize("cuts", [[], [1, 7, 30]])
def test_judging_is_asking_before_each_edge(cuts: list[int]) -> None:
    judged, asked, expected = made(CONFIG), made(CONFIG), []
    ends, ts_ms = edges(120, judged)
    items = np.arange(ITEMS) + int(asked.first[1])
    for k in range(120):
        scores = asked.memory_scores(int(ends[k, 0]), items, int(ts_ms[k]))
        expected.append(naive_rank(scores, int(ends[k, 1] - asked.first[1])))
        asked.learn(ends[k : k + 1], np.zeros(1, np.int64), ts_ms[k : k + 1], k)
    bounds = [0, *cuts, 120]
    ranks = [judged.judge(ends[a:b], ts_ms[a:b], a, type_=1) for a, b in pairwise(bounds)]
    assert np.concatenate(ranks).tolist() == expected
    assert len(set(expected)) > 5
    assert judged.digest() == asked.digest()
    assert all(np.array_equal(judged.arrays[name], asked.arrays[name]) for name in judged.arrays)


@pytest.mark.parametrize("changes", [{"passes": 2}, {"memory_every": 0}])
def test_edges_cannot_be_judged_without_the_score_or_where_they_are_taken_back(changes: dict[str, int]) -> None:
    graph = made(replace(CONFIG, **changes))
    with pytest.raises(SettingsError, match=f"`{next(iter(changes))}`"):
        graph.judge(*edges(1, graph), 0, type_=1)


def test_threads_learn_every_edge_and_keep_the_numbers_finite() -> None:
    """What is exact whatever the order: who is alive, how many edges each has, and when the last one was."""
    config = SupaConfig(dimensions=16, negatives=6)
    one, many = made(config), made(replace(config, threads=3))
    ends, ts_ms = edges(3_000, one)
    for graph in (one, many):
        for start in range(0, 3_000, 500):
            part = slice(start, start + 500)
            graph.learn(ends[part], np.zeros(500, np.int64), ts_ms[part], start)
    assert np.array_equal(one.table.alive, many.table.alive)
    assert np.abs(many.table.edges.sum() - one.table.edges.sum()) <= 0.05 * one.table.edges.sum()  # two threads may count one edge
    assert all(np.isfinite(many.arrays[name]).all() for name in ("long", "context", "bias", "context_sum"))
    product = np.corrcoef(one.table.bias.ravel()[one.table.alive], many.table.bias.ravel()[one.table.alive])[0, 1]
    assert product > 0.5, "they learned of the same popularity"


@pytest.mark.parametrize("changes", [{"passes": 1}, {"memory_every": 1}])
def test_threads_go_with_nothing_that_needs_an_order(changes: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="`threads` must be 1"):
        SupaConfig(threads=2, **changes)
