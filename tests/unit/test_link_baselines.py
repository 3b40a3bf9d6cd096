"""Baselines of link prediction against twins that go through all edges again for every number."""

import math
from collections import defaultdict
from itertools import product
from typing import Any

import numpy as np
import pytest

from learners.baselines import link_streams
from learners.baselines.link_streams import DAY_MS, HOUR_MS, KINDS, stream_baselines
from learners.baselines.links import HALF_LIVES_DAYS, History, popular, static_baselines

NODES, UNSEEN = 12, 2
USERS, ITEMS = 6, 15
Edge = tuple[int, int, int]  # source, target, ts_ms


def made_up_edges(seed: int, count: int = 30) -> list[Edge]:
    """Self loops, repeated pairs, both directions, times that are equal; the last UNSEEN nodes have none."""
    rng = np.random.default_rng(seed)
    ends = np.minimum(rng.geometric(0.2, (2, count)) - 1, NODES - UNSEEN - 1)
    ts_ms = 1_700_000_000_000 + np.cumsum(rng.choice([0, 0, 3_600_000, 86_400_000], count))
    return list(zip(*ends.tolist(), ts_ms.tolist(), strict=True))


def history_of(edges: list[Edge]) -> History:
    source, target, ts_ms = np.array(edges).T
    return History(source, target, ts_ms, NODES)


def partners(edges: list[Edge]) -> dict[int, set[int]]:
    near: dict[int, set[int]] = defaultdict(set)
    for source, target, _ in edges:
        near[source].add(target)
        near[target].add(source)
    return near


def ends(edges: list[Edge], node: int) -> list[int]:
    """Time of every end at a node; a self loop has two."""
    return [ts_ms for source, target, ts_ms in edges for end in (source, target) if end == node]


def path_weight(edges: list[Edge], query: int, node: int) -> float:
    """Over all pairs of nodes between the two."""
    near = partners(edges)
    weight = {x: 1.0 / math.log(2.0 + len(near[x])) for x in range(NODES)}
    pairs = product(range(NODES), repeat=2)
    return sum(weight[x] * weight[y] for x, y in pairs if x in near[query] and y in near[x] and node in near[y])


def twin_key(name: str, edges: list[Edge], query: int, node: int) -> Any:
    """Anything that compares as the scores should; NaN where there is none."""
    times, near, last_ms = ends(edges, node), partners(edges), max(ts_ms for *_, ts_ms in edges)
    contacts = [ts_ms for source, target, ts_ms in edges if (source, target) in ((query, node), (node, query))]
    if name.endswith("d"):
        return sum(0.5 ** ((last_ms - ts_ms) / DAY_MS / int(name[8:-1])) for ts_ms in times)
    paths = path_weight(edges, query, node) if "adamic" in name else 0.0
    keys = {
        "popular": float(len(times)),
        "popular-by-partners": float(len(near[node])),
        "recent": float(max(times)) if times else math.nan,
        "memory": (node in near[query], len(times)),
        "last-contact": (1, max(contacts)) if contacts else (0, len(times)),
        "adamic-adar": paths,
        "adamic-adar-popular": (1, paths) if paths else (0, len(times)),
    }
    return keys[name]


STATIC = list(static_baselines(history_of(made_up_edges(0))))
NUMBERS = ("popular", "popular-by-partners", "recent", "adamic-adar", *(f"popular-{days}d" for days in HALF_LIVES_DAYS))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_the_numbers_of_the_twin(name: str, seed: int) -> None:
    edges = made_up_edges(seed)
    scores = static_baselines(history_of(edges))[name]
    for query in range(NODES):
        found = scores(query, seed)
        assert found.shape == (NODES,)
        np.testing.assert_allclose(found, [twin_key(name, edges, query, node) for node in range(NODES)], rtol=1e-12)


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("seed", range(3))
def test_scores_order_nodes_as_the_twin_does(name: str, seed: int) -> None:
    edges = made_up_edges(seed)
    scores, compared = static_baselines(history_of(edges))[name], 0
    for query in range(NODES):
        found = scores(query, 0)
        keys = [twin_key(name, edges, query, node) for node in range(NODES)]
        for a, b in product(range(NODES), repeat=2):
            assert is_below(found[a], found[b]) == is_below(keys[a], keys[b]), (query, a, b)
            compared += is_below(keys[a], keys[b])
    assert compared > 300


def is_below(one: Any, other: Any) -> bool:
    """Of numbers or tuples of them, by more than what summing in another order makes; NaN is not."""
    for x, y in zip(np.atleast_1d(one), np.atleast_1d(other), strict=True):
        if not math.isclose(x, y, rel_tol=1e-12):
            return bool(x < y)
    return False


def test_static_baselines_know_nothing_of_nodes_without_an_edge_and_look_at_no_relation() -> None:
    edges = made_up_edges(1)
    for name, scores in static_baselines(history_of(edges)).items():
        for query in range(NODES):
            np.testing.assert_array_equal(scores(query, 0), scores(query, 5))
            assert not scores(query, 0)[-UNSEEN:].max() > np.nanmin(scores(query, 0)), name


def test_asking_changes_no_scores() -> None:
    all_of = static_baselines(history_of(made_up_edges(2)))
    for scores in all_of.values():
        first = scores(1, 0).copy()
        for query in range(NODES):
            scores(query, 0)
        np.testing.assert_array_equal(scores(1, 0), first)


def test_popularity_of_a_single_moment_is_the_same_at_every_half_life() -> None:
    history = history_of([(0, 1, 5), (0, 2, 5), (3, 3, 5)])
    for half_life_days in (1e-9, 1.0, math.inf):
        assert popular(history, half_life_days)(0, 0)[:4].tolist() == [2.0, 1.0, 1.0, 2.0]


# Streams


def made_up_stream(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users with favourites, some rows are not judged; the last item never comes. Times stand still or leap: by steps that no half-life is
    a multiple of, over some 16 of the shortest, so that decayed counts are equal only where all of their times are. Seed 0 begins at 0."""
    rng = np.random.default_rng(seed)
    u = rng.integers(0, USERS, rows)
    i = (np.minimum(rng.geometric(0.25, rows) - 1, ITEMS - 2) + 2 * u) % (ITEMS - 1)
    ts_ms = (1_700_000_000_000 if seed else 0) + np.cumsum(rng.choice([0, 0, 1_003, 60_013, 907_001], rows))
    return u, i, ts_ms, rng.random(rows) < 0.7


class Twin:
    """Keeps every edge."""

    def __init__(self, name: str) -> None:
        self._name, self._edges = name, []  # type: ignore[var-annotated]

    def judge(self, u: np.ndarray, i: np.ndarray, ts_ms: np.ndarray, judged: np.ndarray) -> list[float]:
        ranks = []
        for row in zip(u.tolist(), i.tolist(), ts_ms.tolist(), judged.tolist(), strict=True):
            ranks.append(self._rank(*row[:3]) if row[3] else 0.0)
            self._edges.append(row[:3])
        return ranks

    def _rank(self, user: int, item: int, now_ms: int) -> float:
        keys = [self._key(user, other, now_ms) for other in range(ITEMS)]
        places = [place for place, key in enumerate(sorted(keys, reverse=True), 1) if key == keys[item]]
        return sum(places) / len(places)

    def _key(self, user: int, item: int, now_ms: int) -> tuple[float, float]:
        times = [ts_ms for _, v, ts_ms in self._edges if v == item]
        own = [position for position, (u, v, _) in enumerate(self._edges) if (u, v) == (user, item)]
        decayed = {h: float(f"{sum(0.5 ** ((now_ms - t) / h) for t in times):.9g}") for h in (math.inf, HOUR_MS, DAY_MS, 7 * DAY_MS)}
        keys: dict[str, tuple[float, float]] = {
            "popular": (0, decayed[math.inf]),
            "popular-1h": (0, decayed[HOUR_MS]),
            "popular-1d": (0, decayed[DAY_MS]),
            "popular-7d": (0, decayed[7 * DAY_MS]),
            "recent": (0, times[-1] if times else -1),
            "edgebank": (bool(own), 0),
            "edgebank-popular-1d": (bool(own), decayed[DAY_MS]),
            "last-contact-popular-1d": (own[-1] if own else -1, decayed[DAY_MS]),
        }
        return keys[self._name]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_ranks_on_a_stream_are_the_twins(name: str, seed: int) -> None:
    stream = made_up_stream(seed)
    ranks = stream_baselines(USERS, ITEMS)[name]().judge(*stream)
    assert ranks.tolist() == Twin(name).judge(*stream)
    assert not ranks[~stream[3]].any()
    assert len(set(ranks.tolist())) > 10 or name == "edgebank"
    assert any(rank % 1 for rank in ranks), "ties are among them"


@pytest.mark.parametrize("name", KINDS)
def test_any_cut_of_a_stream_gives_the_same_ranks(name: str) -> None:
    stream = made_up_stream(7)
    model, ranks = stream_baselines(USERS, ITEMS)[name](), []
    for start, stop in ((0, 0), (0, 1), (1, 2), (2, 50), (50, 51), (51, 300)):
        ranks += model.judge(*(column[start:stop] for column in stream)).tolist()
    assert ranks == stream_baselines(USERS, ITEMS)[name]().judge(*stream).tolist()


def test_models_share_nothing_and_bear_their_names() -> None:
    stream = made_up_stream(8)
    for name, make in stream_baselines(USERS, ITEMS).items():
        first, second = make(), make()
        expected = first.judge(*stream)
        assert second.judge(*stream).tolist() == expected.tolist()
        assert first.judge(*stream).tolist() != expected.tolist(), "what was learned counts"
        assert first.name == name


def test_the_first_edge_of_a_stream_finds_all_items_alike() -> None:
    one = (np.array([2]), np.array([3]), np.array([0]), np.array([True]))
    for make in stream_baselines(USERS, ITEMS).values():
        assert make().judge(*one).tolist() == [(ITEMS + 1) / 2]


def test_a_rank_by_two_keys_is_that_of_sorted_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        memory, crowd = rng.integers(0, 3, ITEMS).astype(np.float64), rng.choice([-np.inf, 0.0, 1.0], ITEMS)
        pairs = list(zip(memory.tolist(), crowd.tolist(), strict=True))
        for item in range(ITEMS):
            places = [place for place, pair in enumerate(sorted(pairs, reverse=True), 1) if pair == pairs[item]]
            assert link_streams.rank_by_two(memory, crowd, item) == sum(places) / len(places)
