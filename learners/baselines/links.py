"""What links are predicted by without learning: popularity, recency, memory of pairs, and short paths.

Each gives `scores(query, relation)`, float64 [nodes], as of the last edge of its history; none looks at the relation.
"""

from collections.abc import Callable

import numpy as np

from core.compiled import compiled

Scores = Callable[[int, int], np.ndarray]  # (query, relation) -> float64 [nodes], NaN where nothing is known
DAY_MS = 86_400_000
HALF_LIVES_DAYS = (1, 7, 30)


class History:
    """Edges without direction, and their distinct pairs. 8 bytes a node and 24 a pair."""

    def __init__(self, source: np.ndarray, target: np.ndarray, ts_ms: np.ndarray, nodes: int) -> None:
        """Args: int64 [n] each, at least one edge, in any order."""
        self.nodes = nodes
        self.ends, self.ts_ms = np.concatenate([source, target]), np.concatenate([ts_ms, ts_ms])
        key, row = np.unique(self.ends * nodes + np.concatenate([target, source]), return_inverse=True)
        self.other = key % nodes  # int64 [pairs both ways], by node, then ascending
        self.start = np.searchsorted(key // nodes, np.arange(nodes + 1))  # int64 [nodes + 1], of each node's pairs
        self.last_ms = np.full(key.size, self.ts_ms.min())  # int64 [pairs both ways], last contact
        np.maximum.at(self.last_ms, row, self.ts_ms)

    def pairs_of(self, node: int) -> slice:
        return slice(int(self.start[node]), int(self.start[node + 1]))


def popular(history: History, half_life_days: float = np.inf) -> Scores:
    """Ends of edges, each halved for every half-life between it and the last edge of all."""
    age_days = (history.ts_ms.max() - history.ts_ms) / DAY_MS
    return _same_for_all(np.bincount(history.ends, 0.5 ** (age_days / half_life_days), history.nodes))


def popular_by_partners(history: History) -> Scores:
    """Distinct nodes that a node has an edge with."""
    return _same_for_all(np.diff(history.start).astype(np.float64))


def recent(history: History) -> Scores:
    """Time of a node's last edge, ms; NaN without one."""
    last = np.full(history.nodes, np.nan)
    np.fmax.at(last, history.ends, history.ts_ms.astype(np.float64))
    return _same_for_all(last)


def memory(history: History) -> Scores:
    """EdgeBank: the query's neighbours above all others; within both, by popularity.

    Source: Poursafaei, Huang, Pelrine, Rabbany, "Towards Better Evaluation for Dynamic Link Prediction", NeurIPS 2022.
    """
    count = popular(history)(0, 0)

    def scores(query: int, relation: int) -> np.ndarray:
        out = count.copy()
        out[history.other[history.pairs_of(query)]] += 1.0 + count.max()
        return out

    return scores


def last_contact(history: History) -> Scores:
    """The query's neighbours by the time of their last edge with it, then the others by popularity."""
    count = popular(history)(0, 0)
    first_ms = history.ts_ms.min()

    def scores(query: int, relation: int) -> np.ndarray:
        pairs, out = history.pairs_of(query), count.copy()
        out[history.other[pairs]] = 1.0 + count.max() + (history.last_ms[pairs] - first_ms)
        return out

    return scores


def adamic_adar(history: History) -> Scores:
    """Paths of three steps over distinct pairs, q - x - y - w: each counts 1 / (log(2 + d_x) log(2 + d_y)) with d the distinct neighbours.

    In a graph of two kinds of nodes neighbours are three steps apart and never two, so they score too, by steps there and back.
    Source: Adamic, Adar, "Friends and neighbors on the Web", Social Networks 2003, with one step more; 2 keeps a single neighbour finite.
    """
    weight = 1.0 / np.log(2.0 + np.diff(history.start))
    return lambda query, relation: three_steps(query, history.start, history.other, weight)


def adamic_adar_popular(history: History) -> Scores:
    """By short paths; nodes out of their reach below all others, by popularity."""
    by_paths, count = adamic_adar(history), popular(history)(0, 0)

    def scores(query: int, relation: int) -> np.ndarray:
        out = by_paths(query, relation)
        return np.where(out > 0.0, out, count - count.max() - 1.0)

    return scores


@compiled
def three_steps(query: int, start: np.ndarray, other: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """float64 [nodes]: sum over q - x - y - w of weight[x] weight[y].

    Args:
        start: int64 [nodes + 1], where each node's neighbours start in `other`.
        other: int64 [pairs both ways].
        weight: float64 [nodes].
    """
    two, three = np.zeros(weight.shape[0]), np.zeros(weight.shape[0])
    for x in other[start[query] : start[query + 1]]:
        for y in other[start[x] : start[x + 1]]:
            two[y] += weight[x]
    for y in range(two.shape[0]):
        if two[y] > 0.0:
            for w in other[start[y] : start[y + 1]]:
                three[w] += two[y] * weight[y]
    return three


def static_baselines(history: History) -> dict[str, Scores]:
    """Every one of them by name."""
    decayed = {f"popular-{days}d": popular(history, days) for days in HALF_LIVES_DAYS}
    return {
        "popular": popular(history),
        **decayed,
        "popular-by-partners": popular_by_partners(history),
        "recent": recent(history),
        "memory": memory(history),
        "last-contact": last_contact(history),
        "adamic-adar": adamic_adar(history),
        "adamic-adar-popular": adamic_adar_popular(history),
    }


def _same_for_all(scores: np.ndarray) -> Scores:
    return lambda query, relation: scores
