"""Scores of predicted labels: AUC, GAUC by user, log-loss and calibration."""

import numpy as np
import polars as pl

CLIP = 1e-6


def auc(y: np.ndarray, p: np.ndarray) -> float | None:
    """Share of pairs (positive, negative) in their right order, equal ones half; None where there is only one kind."""
    positives = int(y.sum())
    if positives in (0, y.size):
        return None
    ranks = pl.Series(p).rank("average").to_numpy()
    return float((ranks[y == 1].sum() - positives * (positives + 1) / 2) / (positives * (y.size - positives)))


def gauc(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> tuple[float | None, int]:
    """Mean AUC of the users who have both kinds, weighted by their impressions, and how many these are."""
    rows = pl.DataFrame({"user": user, "y": y.astype(np.float64), "p": p}).with_columns(rank=pl.col("p").rank("average").over("user"))
    users = rows.group_by("user", maintain_order=True).agg(n=pl.len(), ones=pl.col("y").sum(), ranks=(pl.col("rank") * pl.col("y")).sum())
    both = users.filter((pl.col("ones") > 0) & (pl.col("ones") < pl.col("n")))
    if both.is_empty():
        return None, 0
    n, ones, ranks = (both[name].to_numpy().astype(np.float64) for name in ("n", "ones", "ranks"))
    own = (ranks - ones * (ones + 1) / 2) / (ones * (n - ones))
    return float((own * n).sum() / n.sum()), both.height


def score_labels(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> dict[str, object]:
    """Every score of predictions p of labels y; `calibration` is the sum of p over the sum of y."""
    clipped = np.clip(p, CLIP, 1.0 - CLIP)
    loss = -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
    grouped, users = gauc(y, p, user)
    return {
        "n": int(y.size),
        "positives": int(y.sum()),
        "auc": auc(y, p),
        "gauc": grouped,
        "gauc_users": users,
        "log_loss": float(loss.mean()) if y.size else None,
        "calibration": float(p.sum() / y.sum()) if y.sum() else None,
    }
