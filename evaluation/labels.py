"""Scores of predicted labels: AUC, GAUC by user, log-loss and calibration."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from core.compiled import compiled
from evaluation.bootstrap import Scores, ratios, totals, weights
from evaluation.judgements import Rows

CLIP = 1e-6  # a probability of 0 or 1 that is wrong would cost infinitely much
BINS = 10


class Won(NamedTuple):
    """Of each group: pairs (positive, negative) in their right order, equal ones half; positives; negatives. float64 [groups]."""

    pairs: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    @property
    def auc(self) -> np.ndarray:
        """Share of the pairs, NaN where a group has only one kind."""
        return ratios(self.pairs, self.positives * self.negatives)


def pairs_won(group: np.ndarray, y: np.ndarray, p: np.ndarray, groups: int) -> Won:
    """Rows sorted by group (int from 0), then p; y is 1 or 0."""
    if not y.size:
        return Won(*np.zeros((3, groups)))
    new = (group[1:] != group[:-1]) | (p[1:] != p[:-1])
    first = np.flatnonzero(np.concatenate([[True], new]))  # of each run of equal p
    of_run, ones = group[first], np.add.reduceat(y.astype(np.float64), first)
    zeros = np.diff(np.append(first, y.size)) - ones
    negatives = np.bincount(of_run, weights=zeros, minlength=groups)
    below = np.cumsum(zeros) - zeros - (np.cumsum(negatives) - negatives)[of_run]
    pairs = np.bincount(of_run, weights=ones * (below + zeros / 2), minlength=groups)
    return Won(pairs, np.bincount(of_run, weights=ones, minlength=groups), negatives)


@compiled
def drawn_auc(y: np.ndarray, p: np.ndarray, cluster: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """float64 [replicates]: AUC with each row as often as its cluster is drawn, NaN where only one kind is.

    Args:
        y: uint8 [n], rows sorted by p.
        p: float32 [n].
        cluster: int64 [n].
        drawn: uint8 [clusters, replicates].
    """
    replicates = drawn.shape[1]
    ones, zeros = np.zeros(replicates), np.zeros(replicates)  # of the run of equal p
    all_ones, below, pairs = np.zeros(replicates), np.zeros(replicates), np.zeros(replicates)
    for i in range(y.shape[0]):
        into = ones if y[i] == 1 else zeros
        for r in range(replicates):
            into[r] += drawn[cluster[i], r]
        if i + 1 == y.shape[0] or p[i + 1] != p[i]:
            for r in range(replicates):
                pairs[r] += ones[r] * (below[r] + 0.5 * zeros[r])
                all_ones[r] += ones[r]
                below[r] += zeros[r]
                ones[r], zeros[r] = 0.0, 0.0
    return pairs / (all_ones * below)


def log_losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """float64 [n], natural logarithm."""
    clipped = np.clip(p.astype(np.float64), CLIP, 1.0 - CLIP)
    losses: np.ndarray = -np.where(y == 1, np.log(clipped), np.log1p(-clipped))
    return losses


def score_labels(y: np.ndarray, p: np.ndarray, rows: Rows) -> dict[str, Scores]:
    """Part -> every score of predictions p (float32 [n]) of labels y (uint8 [n], 1 or 0); `calibration` is the sum of p over that of y,
    `bins` are at most BINS of rows of neighbouring p, about as many in each, equal p in one."""
    order = np.argsort(p, kind="stable")
    by_user = order[np.argsort(rows.user[order], kind="stable")]
    loss = log_losses(y, p)
    return {part: _score(y, p, loss, rows, part, _within(order, of), _within(by_user, of)) for part, of in rows.parts.items()}


def _within(order: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those rows alone, in that order."""
    kept = np.zeros(order.size, dtype=np.bool_)
    kept[rows] = True
    within: np.ndarray = order[kept[order]]
    return within


def _score(y: np.ndarray, p: np.ndarray, loss: np.ndarray, rows: Rows, part: str, order: np.ndarray, by_user: np.ndarray) -> Scores:
    """`order`, `by_user`: the part's rows sorted by p, and by user, then p."""
    if not order.size:
        return Scores({"n": 0, "positives": 0, **dict.fromkeys(("auc", "gauc", "gauc_users", "log_loss", "calibration")), "bins": []}, {})
    own, n, at = _of_users(y[by_user], p[by_user], rows.user[by_user])
    index = rows.parts[part]
    of_rows, of_users = rows.summed(index, [loss[index], p[index], y[index]]), rows.summed(by_user[at], [own * n, n])
    lost, predicted, ones, count, won, weight = totals(np.concatenate([of_rows, rows.counts[part], of_users], axis=1)).T
    replicates = {
        "auc": drawn_auc(y[order], p[order], rows.cluster[order], weights()),
        "gauc": ratios(won, weight),
        "log_loss": ratios(lost, count),
        "calibration": ratios(predicted, ones),
    }
    return Scores(_values(y[order], p[order], float(loss[index].mean()), own, n), replicates)


def _values(y: np.ndarray, p: np.ndarray, loss: float, own: np.ndarray, n: np.ndarray) -> dict[str, Any]:
    """What is told of rows sorted by p; `own`, `n`: AUC and rows of the users with both kinds."""
    wide, ones = p.astype(np.float64), int(y.sum())
    return {
        "n": int(y.size),
        "positives": ones,
        "auc": _none_if_nan(_auc(y, p)),
        "gauc": float((own * n).sum() / n.sum()) if n.size else None,
        "gauc_users": int(n.size),
        "log_loss": loss,
        "calibration": float(wide.sum() / ones) if ones else None,
        "bins": list(_bins(y, wide)),
    }


def _of_users(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUC and rows, float64 [users], of the users with both kinds, and the first row of each; rows sorted by user, then p."""
    users, at, group = np.unique(user, return_index=True, return_inverse=True)
    won = pairs_won(group, y, p, users.size)
    both = (won.positives > 0) & (won.negatives > 0)
    return won.auc[both], (won.positives + won.negatives)[both], at[both]


def _auc(y: np.ndarray, p: np.ndarray) -> float:
    """Of rows sorted by p; NaN where there is only one kind."""
    return float(pairs_won(np.zeros(y.size, dtype=np.int64), y, p, 1).auc[0])


def _bins(y: np.ndarray, p: np.ndarray) -> Iterator[dict[str, Any]]:
    """Of rows sorted by p. A run of equal p goes where its middle lies."""
    first = np.flatnonzero(np.concatenate([[True], p[1:] != p[:-1]]))
    size = np.diff(np.append(first, p.size))
    of_row = np.repeat((2 * first + size) * BINS // (2 * p.size), size)
    for of in np.unique(of_row):
        inside = of_row == of
        yield {"p": float(p[inside].mean()), "y": float(y[inside].mean()), "n": int(inside.sum())}


def by_hour(y: np.ndarray, p: np.ndarray, rows: Rows) -> dict[str, list[float | None]]:
    """AUC and mean log-loss in each hour of `rows.hours_ms`; AUC None where there is only one kind."""
    order = np.lexsort((p, rows.hour))
    won = pairs_won(rows.hour[order], y[order], p[order], rows.hours_ms.size)
    return {"auc": [_none_if_nan(of) for of in won.auc.tolist()], "log_loss": list(rows.by_hour(log_losses(y, p)))}


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
