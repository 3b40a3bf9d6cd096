"""Graphs from files; the ranks of test edges against a twin that makes sets of candidates."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.errors import SettingsError
from evaluation.links import Edges, Graph, Score, evaluate, rank_links, read_graph
from evaluation.links.scores import score, score_parts

NODES, UNSEEN = 14, 3  # the last ones are in no training edge
RELATIONS = 2
Edge = tuple[int, int, int]


def made_up_edges(rng: np.random.Generator, count: int, nodes: int) -> Edges:
    """Popular nodes, self loops, pairs of both directions."""
    source, target = (np.minimum(rng.geometric(0.15, count) - 1, nodes - 1) for _ in range(2))
    return Edges(source, target, rng.integers(0, RELATIONS, count), np.cumsum(rng.integers(0, 3, count)))


def made_up_graph(seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    met = NODES - UNSEEN
    train, valid, test = made_up_edges(rng, 30, met), made_up_edges(rng, 5, NODES), made_up_edges(rng, 60, NODES)
    return Graph(train, valid, test, rng.integers(0, 2, NODES))


def made_up_scores(seed: int) -> Callable[[int, int], np.ndarray]:
    """Few distinct values, so that most are ties; some NaN, some without bounds."""
    values = np.array([np.nan, -np.inf, 0.0, 0.5, 1.0, 2.0, np.inf])
    return lambda query, relation: np.random.default_rng([seed, query, relation]).choice(values, NODES)


def edges_of(edges: Edges) -> list[Edge]:
    return list(zip(edges.source.tolist(), edges.target.tolist(), edges.relation.tolist(), strict=True))


def twin_rank(scores: np.ndarray, candidates: set[int], true: int) -> float:
    """The mean place of those that are as good, in a sorted list; NaN is below everything."""
    key = {node: (-1.0, 0.0) if math.isnan(scores[node]) else (1.0, float(scores[node])) for node in candidates | {true}}
    ordered = sorted(key.values(), reverse=True)
    return float(np.mean([place for place, other in enumerate(ordered, 1) if other == key[true]]))


def twin_ranks(graph: Graph, scores: Callable[[int, int], np.ndarray], with_valid: bool) -> dict[str, list[float]]:
    training = edges_of(graph.train) + (edges_of(graph.valid) if with_valid else [])
    met = {node for source, target, _ in training for node in (source, target)}
    pairs = {pair for source, target, _ in training for pair in ((source, target), (target, source))}
    kept = [(source, target, relation) for source, target, relation in edges_of(graph.test) if {source, target} <= met]
    found: dict[str, list[float]] = {name: [] for name in ("query", "true", "repeated", "protocol", "without_query", "unfiltered")}
    for query, true, relation in [*kept, *((target, source, relation) for source, target, relation in kept)]:
        of = scores(query, relation)
        strangers = {node for node in met if (query, node) not in pairs}
        typed = {node for node in met if graph.node_type[node] == graph.node_type[true]}
        ranks = [twin_rank(of, candidates, true) for candidates in (strangers, strangers - {query}, typed - {query})]
        for name, value in zip(found, [query, true, (query, true) in pairs, *ranks], strict=True):
            found[name].append(value)
    return found


@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_ranks_are_the_twins(seed: int, with_valid: bool) -> None:
    graph, scores = made_up_graph(seed), made_up_scores(seed)
    found, twin = rank_links(graph, scores, with_valid), twin_ranks(graph, scores, with_valid)
    for name, values in twin.items():
        assert getattr(found, name).tolist() == values, name
    assert found.skipped == len(graph.test) - len(twin["query"]) // 2
    assert set(found.repeated.tolist()) == {True, False}
    assert (found.query == found.true).any(), "self loops are among them"
    assert any(rank % 1 for rank in twin["protocol"]), "so are ties"


def test_the_three_protocols_differ_and_training_by_more_edges_too() -> None:
    graph, scores = made_up_graph(1), made_up_scores(1)
    found, more = rank_links(graph, scores), rank_links(graph, scores, with_valid=True)
    assert (found.without_query < found.protocol).any()
    assert not (found.without_query > found.protocol).any()
    assert (found.unfiltered != found.without_query).any()
    assert 0 < more.skipped < found.skipped


def test_scores_are_asked_for_once_for_each_query_and_relation() -> None:
    graph, asked = made_up_graph(2), []
    scores = made_up_scores(2)

    def noted(query: int, relation: int) -> np.ndarray:
        asked.append((query, relation))
        return scores(query, relation)

    found = rank_links(graph, noted)
    assert sorted(asked) == sorted(set(zip(found.query.tolist(), found.relation.tolist(), strict=True)))
    assert len(asked) < found.query.size


def test_known_ranks_of_a_graph_that_one_can_follow() -> None:
    """Training 0 - 1, 2 - 3, 0 - 4. Of test 0 -> 2 the candidates from 0 are 0, 2, 3; from 2 they are 0, 1, 2, 4 (not its neighbour 3)."""
    nothing = np.empty(0, dtype=np.int64)
    train = Edges(np.array([0, 2, 0]), np.array([1, 3, 4]), np.zeros(3, dtype=np.int64), np.arange(3))
    test = Edges(np.array([0]), np.array([2]), np.zeros(1, dtype=np.int64), np.array([9]))
    graph = Graph(train, Edges(nothing, nothing, nothing, nothing), test, np.array([0, 0, 1, 1, 0]))
    found = rank_links(graph, lambda query, relation: np.array([5.0, 9.0, 1.0, 1.0, 5.0]))
    assert found.protocol.tolist() == [2.5, 2.5]
    assert found.without_query.tolist() == [1.5, 2.5]
    assert found.unfiltered.tolist() == [1.5, 2.5]
    assert not found.repeated.any()


def test_a_true_node_is_not_its_own_equal() -> None:
    """Alone at the top it is first, of a new pair as of a repeated one."""
    graph = made_up_graph(3)
    best = rank_links(graph, lambda query, relation: np.arange(NODES, dtype=np.float64))
    top = best.true == np.flatnonzero(np.isin(np.arange(NODES), [graph.train.source, graph.train.target])).max()
    assert top.any()
    assert (best.protocol[top] == 1.0).all()


def test_evaluate_tells_the_means_of_the_ranks() -> None:
    graph, scores = made_up_graph(4), made_up_scores(4)
    told, twin = evaluate(graph, scores), twin_ranks(graph, scores, False)
    for name, parts in {"protocol": told.protocol, "without_query": told.without_query, "unfiltered": told.unfiltered}.items():
        kept = {True: [], False: []}  # type: dict[bool, list[float]]
        for rank, repeated in zip(twin[name], twin["repeated"], strict=True):
            kept[bool(repeated)].append(rank)
        assert parts.repeated.mrr == pytest.approx(np.mean([1 / rank for rank in kept[True]]))
        assert parts.new.mrr == pytest.approx(np.mean([1 / rank for rank in kept[False]]))
        assert parts.overall.mrr == pytest.approx(np.mean([1 / rank for rank in twin[name]]))
        assert (parts.overall.n, parts.repeated.n, parts.new.n) == (len(twin[name]), len(kept[True]), len(kept[False]))
    assert told.skipped == rank_links(graph, scores).skipped > 0


def test_means_of_known_ranks() -> None:
    rank = np.array([1.0, 3.0, 10.5, 20.0, 20.5, 50.0, 51.0])
    told = score(rank)
    assert told.n == 7
    assert told.mrr == pytest.approx(sum(1 / r for r in rank) / 7)
    assert told.hit_20 == pytest.approx(4 / 7)
    assert told.hit_50 == pytest.approx(6 / 7)
    assert told.ndcg_10 == pytest.approx((1.0 + 0.5) / 7)
    parts = score_parts(rank, rank > 20)
    assert parts.repeated == score(rank[4:])
    assert parts.new == score(rank[:4])
    assert parts.figures()["new_hit_20"] == 1.0
    assert parts.figures()["mrr"] == told.mrr


def test_without_a_test_edge_that_counts_there_is_nothing_to_tell() -> None:
    graph = made_up_graph(5)
    strangers = np.array([NODES - 1])
    lost = Graph(graph.train, graph.valid, Edges(strangers, strangers - 1, strangers, strangers), graph.node_type)
    told = evaluate(lost, made_up_scores(5))
    assert told.skipped == 1
    assert isinstance(told.protocol.overall, Score)
    assert told.protocol.overall.n == 0
    assert math.isnan(told.protocol.overall.mrr)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"\({NODES - 1},\), not \({NODES},\)"):
        evaluate(made_up_graph(0), lambda query, relation: np.zeros(NODES - 1))


# Files


def written(directory: Path, **files: str) -> Path:
    texts = {"train": "0\t1\t0\t10\n2 7 1 9\n", "valid": "", "test": "0 1 0 12\n", "node_types": "0 0\n1 3\n"} | files
    for name, text in texts.items():
        (directory / f"{name}.txt").write_text(text)
    return directory


def test_a_graph_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    train = "5\t6\t0\t20\n\n1  2 1 10.25\r\n3 4 0 20\n0 0 0 1512206248"
    graph = read_graph(written(tmp_path, train=train, node_types="9 2\n1 1\n"))
    assert edges_of(graph.train) == [(1, 2, 1), (5, 6, 0), (3, 4, 0), (0, 0, 0)]
    assert graph.train.ts_ms.tolist() == [10_250, 20_000, 20_000, 1_512_206_248_000]
    assert (len(graph.train), len(graph.valid), len(graph.test)) == (4, 0, 1)
    assert graph.nodes == 10
    assert graph.node_type.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert {graph.train.source.dtype, graph.train.ts_ms.dtype, graph.node_type.dtype} == {np.dtype(np.int64)}


def test_edges_of_one_time_stay_in_their_order(tmp_path: Path) -> None:
    train = "".join(f"{k} {k} 0 {1 - k // 25}\n" for k in range(50))
    assert read_graph(written(tmp_path, train=train)).train.source.tolist() == [*range(25, 50), *range(25)]


def test_a_node_of_an_edge_that_has_no_type_has_type_0(tmp_path: Path) -> None:
    assert read_graph(written(tmp_path)).node_type.tolist() == [0, 3, 0, 0, 0, 0, 0, 0]


def test_validation_edges_are_training_where_they_are_asked_for(tmp_path: Path) -> None:
    graph = read_graph(written(tmp_path, valid="4 4 0 9.5\n"))
    assert graph.training() is graph.train
    assert edges_of(graph.training(with_valid=True)) == [(2, 7, 1), (4, 4, 0), (0, 1, 0)]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("train", "0 1 0 10\n\n1 2 0\n", r"train\.txt, line 3: '1 2 0' is not 'src dst type time in seconds'"),
        ("train", "0 1 0 10 5\n0 1 0 10 5\n", r"train\.txt, line 1: .* is not"),
        ("test", "0 1 0 10\n0 1 0 ten\n", r"test\.txt, line 2: '0 1 0 ten'"),
        ("test", "0 1 0 10\n0 1 0 nan\n", r"test\.txt, line 2"),
        ("test", "0 1 0 1e300\n", r"test\.txt, line 1"),
        ("valid", "0 1.5 0 10\n", r"valid\.txt, line 1"),
        ("valid", "0 -1 0 10\n", r"valid\.txt, line 1"),
        ("train", "0 99999999999 0 10\n", r"train\.txt, line 1: .*from 0 to 2147483647"),
        ("node_types", "0 0\n# 1 1\n", r"node_types\.txt, line 2: '# 1 1' is not 'node type'"),
        ("node_types", "0 0 0\n", r"node_types\.txt, line 1"),
        ("train", " \n", r"train\.txt has no edges"),
        ("test", "", r"test\.txt has no edges"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_graph(written(tmp_path, **{name: text}))


def test_missing_files_are_named(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "valid.txt").unlink()
    (tmp_path / "node_types.txt").unlink()
    with pytest.raises(SettingsError, match=r"no valid\.txt, node_types\.txt; the folder of a graph has train\.txt, "):
        read_graph(tmp_path)
    with pytest.raises(SettingsError, match=r"no train\.txt, "):
        read_graph(tmp_path / "nowhere")
