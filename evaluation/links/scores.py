"""What ranks of links come to: overall, of pairs that were met before, and of new ones."""

from dataclasses import dataclass

import numpy as np

from evaluation.lists import rank_gains


@dataclass(frozen=True)
class Score:
    """Means over `n` ranks, NaN where there are none."""

    n: int
    mrr: float
    hit_20: float
    hit_50: float
    ndcg_10: float


@dataclass(frozen=True)
class Parts:
    """Scores of all ranks, of repeated pairs and of new ones: overall MRR is memory for the most part, so they are told apart."""

    overall: Score
    repeated: Score
    new: Score

    def figures(self) -> dict[str, float]:
        """`mrr`, `hit_20`, ..., then `repeated_mrr`, ... and `new_mrr`, ..."""
        named = {"": self.overall, "repeated_": self.repeated, "new_": self.new}
        return {f"{prefix}{name}": float(value) for prefix, score in named.items() for name, value in vars(score).items()}


def score(rank: np.ndarray) -> Score:
    """Of ranks, float64 [n], 1 is first."""
    gains = rank_gains(rank, rank)
    means = {name: float(gains[name].mean()) if rank.size else float("nan") for name in ("mrr", "hit@20", "hit@50", "ndcg@10")}
    return Score(int(rank.size), *means.values())


def score_parts(rank: np.ndarray, repeated: np.ndarray) -> Parts:
    """Of ranks, float64 [n], and which of them are of pairs met before, bool [n]."""
    return Parts(score(rank), score(rank[repeated]), score(rank[~repeated]))
