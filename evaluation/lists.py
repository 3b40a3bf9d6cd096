"""Scores of lists and of full ranks: arithmetic over the ranks that an evaluation found."""

import numpy as np

CUTS = (1, 5, 10, 20)


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
