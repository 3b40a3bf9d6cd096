"""Link prediction with a model that no longer learns: every test edge is asked for from both of its ends.

    query q, true node w:   candidates = nodes met in training, less q's neighbours in training, and w
    rank of w               among them by score, equal scores share their mean rank, NaN is last

Source: the protocol of the tables of "Instant Representation Learning for Recommendation over Large Dynamic Graphs", ICDE 2023 (SUPA):
head and tail averaged, the query itself among the candidates. Taking out all neighbours but the true one makes a memory of pairs look
nearly perfect, and candidates of the wrong kind are easily told apart, so ranks without either are given beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core.compiled import compiled
from core.ranks import mean_rank
from evaluation.links.graph import Edges, Graph
from evaluation.links.scores import Parts, score_parts

Scores = Callable[[int, int], np.ndarray]  # (query, relation) -> float [nodes], as of the end of training


@dataclass(frozen=True, eq=False)
class LinkRanks:
    """Ranks of n true nodes: of the test edges in their order, first all from their source, then all from their target."""

    query: np.ndarray  # int64 [n]
    true: np.ndarray  # int64 [n]
    relation: np.ndarray  # int64 [n]
    repeated: np.ndarray  # bool [n]: the pair was met in training, in either direction, of any relation
    protocol: np.ndarray  # float64 [n], as the tables have it
    without_query: np.ndarray  # float64 [n], the query itself is no candidate
    unfiltered: np.ndarray  # float64 [n], all nodes of the true one's type that were met in training but the query
    skipped: int  # test edges with an end that training has not met


@dataclass(frozen=True)
class LinkScores:
    """Scores of each protocol of `LinkRanks`."""

    protocol: Parts
    without_query: Parts
    unfiltered: Parts
    skipped: int


def evaluate(graph: Graph, scores: Scores, with_valid: bool = False) -> LinkScores:
    """What `scores` are worth on the test edges; see `rank_links` for the arguments."""
    found = rank_links(graph, scores, with_valid)
    protocol, without_query, unfiltered = (
        score_parts(rank, found.repeated) for rank in (found.protocol, found.without_query, found.unfiltered)
    )
    return LinkScores(protocol, without_query, unfiltered, found.skipped)


def rank_links(graph: Graph, scores: Scores, with_valid: bool = False) -> LinkRanks:
    """Rank the true node of every test edge from both ends.

    Args:
        scores: called once for each distinct query and relation of the test edges.
        with_valid: the validation edges were learned too, so they count as training.

    Raises:
        ValueError: `scores` gave an array of another shape.
    """
    training = graph.training(with_valid)
    seen = nodes_met(training, graph.nodes)
    query, true, relation, skipped = _questions(graph.test, seen)
    ranks, repeated = np.empty((3, query.size)), np.empty(query.size, dtype=np.bool_)
    neighbours = Neighbours(training, graph.nodes)
    for rows in _alike(query, relation):
        q, r = int(query[rows[0]]), int(relation[rows[0]])
        near = neighbours.of(q)
        repeated[rows] = np.isin(true[rows], near)
        ranks[:, rows] = rank_group(_checked(scores(q, r), graph.nodes), q, true[rows], seen, near, graph.node_type)
    return LinkRanks(query, true, relation, repeated, ranks[0], ranks[1], ranks[2], skipped)


def nodes_met(edges: Edges, nodes: int) -> np.ndarray:
    """bool [nodes]: ends of an edge."""
    met = np.zeros(nodes, dtype=np.bool_)
    met[edges.source], met[edges.target] = True, True
    return met


class Neighbours:
    """Distinct neighbours of each node, in either direction and of any relation."""

    def __init__(self, edges: Edges, nodes: int) -> None:
        keys = np.unique(np.concatenate([edges.source * nodes + edges.target, edges.target * nodes + edges.source]))
        self._other = keys % nodes
        self._start = np.searchsorted(keys // nodes, np.arange(nodes + 1))

    def of(self, node: int) -> np.ndarray:
        """int64 [neighbours], ascending."""
        return self._other[self._start[node] : self._start[node + 1]]


@compiled
def rank_group(scores: np.ndarray, query: int, true: np.ndarray, seen: np.ndarray, near: np.ndarray, node_type: np.ndarray) -> np.ndarray:
    """float64 [3, n]: ranks of n true nodes of one query, in the order of the protocols of `LinkRanks`.

    Args:
        scores: float64 [nodes].
        true: int64 [n].
        seen: bool [nodes].
        near: int64 [m], the query's neighbours.
        node_type: int64 [nodes].
    """
    ranks, among, typed = np.empty((3, true.shape[0])), seen.copy(), np.empty_like(seen)
    among[near] = False
    kept = among[query]
    for k in range(true.shape[0]):
        among[query] = kept
        ranks[0, k] = mean_rank(scores, among, true[k])
        among[query] = False
        ranks[1, k] = mean_rank(scores, among, true[k])
        for node in range(seen.shape[0]):
            typed[node] = seen[node] and node_type[node] == node_type[true[k]]
        typed[query] = False
        ranks[2, k] = mean_rank(scores, typed, true[k])
    return ranks


def _questions(test: Edges, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Queries, true nodes and relations, int64 [2 * edges that count], and how many edges do not."""
    kept = seen[test.source] & seen[test.target]
    source, target, relation = test.source[kept], test.target[kept], test.relation[kept]
    query, true = np.concatenate([source, target]), np.concatenate([target, source])
    return query, true, np.concatenate([relation, relation]), int((~kept).sum())


def _alike(query: np.ndarray, relation: np.ndarray) -> list[np.ndarray]:
    """Rows of each distinct query and relation, in ascending order of both."""
    if not query.size:
        return []
    order = np.lexsort((relation, query))
    new = (np.diff(query[order]) != 0) | (np.diff(relation[order]) != 0)
    return np.split(order, np.flatnonzero(new) + 1)


def _checked(scores: np.ndarray, nodes: int) -> np.ndarray:
    if scores.shape != (nodes,):
        raise ValueError(f"scores has the shape {scores.shape}, not ({nodes},): one for each node")
    return np.ascontiguousarray(scores, dtype=np.float64)
