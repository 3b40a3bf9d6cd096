"""What predictions of late labels are worth: scores, shares of a gap closed, paired differences by hour; how they are shown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.labels import log_losses, pairs_won

WIDTH = 110  # of tables

Predictions = Mapping[str, np.ndarray]  # float64 [n] of each contender


class Scores(NamedTuple):
    nll: float  # mean over clicks
    auc: float  # mean over hours of the AUC of the clicks of an hour
    pooled_auc: float  # of all clicks together, so that telling good hours from bad ones counts too
    rate: float  # predicted / true


class Paired(NamedTuple):
    difference: float
    error: float  # its standard error, hours drawn whole

    def __str__(self) -> str:
        return f"{1e4 * self.difference:.1f} +- {1e4 * self.error:.1f}"


def scored(y: np.ndarray, p: np.ndarray, hour: np.ndarray) -> Scores:
    """Of n clicks: final label, prediction, hour."""
    own = hourly_auc(y, p, hour)
    pooled = hourly_auc(y, p, np.zeros_like(hour))
    return Scores(float(log_losses(y, p).mean()), float(np.nanmean(own)), float(pooled[0]), float(p.sum() / y.sum()))


def hourly_auc(y: np.ndarray, p: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """float64 [hours], NaN where an hour has only one kind."""
    hours, group = np.unique(hour, return_inverse=True)
    order = np.lexsort((p, group))
    return pairs_won(group[order], y[order], p[order], hours.size).auc


def closed(of: Sequence[Scores], floor: Sequence[Scores], ceiling: Sequence[Scores], score: str) -> np.ndarray:
    """float64 [seeds]: percent of the way from `floor` to `ceiling` in that score."""
    own, low, high = (np.array([getattr(scores, score) for scores in told]) for told in (of, floor, ceiling))
    percent: np.ndarray = 100.0 * (own - low) / (high - low)
    return percent


def better(of: Sequence[Scores], than: Sequence[Scores]) -> int:
    """On how many seeds the loss is lower."""
    return sum(one.nll < other.nll for one, other in zip(of, than, strict=True))


def paired(losses: np.ndarray, others: np.ndarray, hour: np.ndarray) -> tuple[Paired, Paired]:
    """Losses of n clicks less those of another contender: the mean over clicks, then that over hours, in which each hour is worth the same.

    The first error is that of a ratio, sums over hours by the clicks in them.
    """
    _, group = np.unique(hour, return_inverse=True)
    n, total = np.bincount(group), np.bincount(group, losses - others)
    mean, hours = total.sum() / n.sum(), n.size
    error = np.sqrt(((total - n * mean) ** 2).sum() * hours / (hours - 1)) / n.sum()
    own = total / n
    return Paired(float(mean), float(error)), Paired(float(own.mean()), float(own.std(ddof=1) / np.sqrt(hours)))


def figure_key(name: str) -> str:
    """A contender's name among figures."""
    return name.replace(", ", "_").replace("-", "_").replace(" ", "_")


def show(table: Table) -> None:
    Console(highlight=False, width=WIDTH).print(table)
