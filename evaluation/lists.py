"""Scores of lists and of full ranks: arithmetic over the ranks that an evaluation found."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import polars as pl

from core.compiled import compiled

CUTS = (1, 5, 10, 20)
REPLICATES = 200


@compiled
def mean_rank(scores: np.ndarray, among: np.ndarray, at: int) -> float:
    """Rank of scores[at] among the candidates, 1 is first; equal scores share their mean rank, NaN is below all and equal to NaN.

    Args:
        scores: float [n].
        among: bool [n], the candidates; `at` counts whether or not it is one.
    """
    own, above, equal = scores[at], 0, 0
    for k in range(scores.shape[0]):
        if among[k] and k != at:
            if np.isnan(own):
                above += not np.isnan(scores[k])
                equal += np.isnan(scores[k])
            else:
                above += scores[k] > own
                equal += scores[k] == own
    return 1.0 + above + equal / 2.0


def gains(rank: np.ndarray) -> dict[str, np.ndarray]:
    """Metric -> float64 [n] of list ranks, 0 being a miss: a hit at each cut, 1 / rank, and the discounted gain of one right item."""
    hit = rank > 0
    safe = np.where(hit, rank, 1).astype(np.float64)
    hits = {f"hr@{cut}": (hit & (rank <= cut)).astype(np.float64) for cut in CUTS}
    last = CUTS[-1]
    kept = hits[f"hr@{last}"]
    return {**hits, f"mrr@{last}": kept / safe, f"ndcg@{last}": kept / np.log2(1.0 + safe)}


def rank_gains(rank: np.ndarray, candidates: np.ndarray) -> dict[str, np.ndarray]:
    """The same of full ranks (float), and the share of candidates that stand before the item: 0 is best."""
    near = rank <= 10.0
    return {
        "mrr": 1.0 / rank,
        "hit@20": (rank <= 20.0).astype(np.float64),
        "hit@50": (rank <= 50.0).astype(np.float64),
        "ndcg@10": near / np.log2(1.0 + rank),
        "mean_percentile": (rank - 1.0) / np.maximum(candidates - 1.0, 1.0),
    }


@lru_cache(maxsize=1)
def weights(users: int) -> np.ndarray:
    """float32 [REPLICATES, users]: how often each user is drawn, Poisson(1): a bootstrap of users, not of their rows."""
    generator, drawn = np.random.Generator(np.random.Philox(key=0)), np.empty((REPLICATES, users), dtype=np.float32)
    for row in drawn:
        row[:] = generator.poisson(1.0, size=users)
    return drawn


def interval(sums: np.ndarray, counts: np.ndarray, drawn: np.ndarray) -> list[float]:
    """95 % interval of a mean: sums and counts per user, float64 [users], drawn [REPLICATES, users]."""
    total = drawn @ counts
    means = (drawn @ sums)[total > 0] / total[total > 0]
    return [float(bound) for bound in np.quantile(means, [0.025, 0.975])] if means.size else [0.0, 0.0]


def summarise(metrics: Mapping[str, np.ndarray], user: np.ndarray, intervals: tuple[str, ...] = ()) -> dict[str, object]:
    """n, the mean of each metric, and 95 % intervals, by users, of those named."""
    n = int(user.size)
    told: dict[str, object] = {"n": n, **{name: float(values.mean()) if n else None for name, values in metrics.items()}}
    if n and intervals:
        _, of_row = np.unique(user, return_inverse=True)
        counts = np.bincount(of_row).astype(np.float64)
        drawn = weights(counts.size)
        told["ci95"] = {name: interval(np.bincount(of_row, weights=metrics[name]), counts, drawn) for name in intervals}
    return told


def paired(ours: np.ndarray, theirs: np.ndarray, user: np.ndarray) -> dict[str, object]:
    """Mean difference of a metric on the same rows, its 95 % interval, and the two-sided share of replicates beyond 0."""
    difference = ours - theirs
    if not user.size:
        return {"difference": None, "ci95": None, "p": None}
    _, of_row = np.unique(user, return_inverse=True)
    sums, counts = np.bincount(of_row, weights=difference), np.bincount(of_row).astype(np.float64)
    drawn = weights(counts.size)
    means = (drawn @ sums) / np.maximum(drawn @ counts, 1.0)
    beyond = min(float((means <= 0).mean()), float((means >= 0).mean()))
    return {"difference": float(difference.mean()), "ci95": interval(sums, counts, drawn), "p": min(1.0, 2.0 * beyond)}


def by_hour(frame: pl.DataFrame, values: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Means of metrics by hour of event time: `ts_ms` of each hour's start, `n`, then each metric."""
    table = pl.DataFrame({"ts_ms": frame["ts_ms"] // 3_600_000 * 3_600_000, **values})
    found = table.group_by("ts_ms").agg(pl.len().alias("n"), *(pl.col(name).mean() for name in values)).sort("ts_ms")
    return {name: found[name].to_list() for name in found.columns}
