"""How sure a score is: users are drawn again and again, not their rows, since a user's rows resemble one another.

Each replicate gives each user a weight of its own, Poisson(1), which is a bootstrap that needs no count of users in advance (Chamandy,
Muralidharan, Najmi, Naidu, "Estimating uncertainty for massive data streams", 2012). A weight is a pure function of the user's number and
the replicate, so two contenders, or two runs over one log, are drawn alike and their difference is a paired one.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from core.compiled import compiled
from core.randomness import fill, unit

REPLICATES = 200
CLUSTERS = 1 << 14  # users share a weight with those of the same number modulo this, so that there are 3 MB of weights at most
_SEED, _STREAM = 0, 0x626F6F74


class Scores(NamedTuple):
    """Of one contender on some rows."""

    values: dict[str, Any]  # what is told: n, then each metric, None where it has no meaning
    replicates: dict[str, np.ndarray]  # metric -> float64 [REPLICATES], NaN where a replicate drew nobody


@compiled
def fill_weights(seed: np.uint64, stream: np.uint64, at_most: np.ndarray, out: np.ndarray) -> None:
    """Row u of `out`, uint8 [clusters, replicates]: how many entries of `at_most` (float64, P(weight <= k)) its draws reach."""
    bits = np.empty(out.shape[1], dtype=np.uint64)
    for cluster in range(out.shape[0]):
        fill(seed, stream, np.uint64(cluster), bits)
        for replicate in range(out.shape[1]):
            drawn = unit(bits[replicate])
            while out[cluster, replicate] < at_most.shape[0] and drawn >= at_most[out[cluster, replicate]]:
                out[cluster, replicate] += 1


@lru_cache(maxsize=1)
def weights() -> np.ndarray:
    """uint8 [CLUSTERS, REPLICATES]: how often each cluster of users is drawn."""
    drawn = np.zeros((CLUSTERS, REPLICATES), dtype=np.uint8)
    fill_weights(np.uint64(_SEED), np.uint64(_STREAM), poisson_cdf(), drawn)
    return drawn


def poisson_cdf(last: int = 12) -> np.ndarray:
    """float64 [last + 1]: P(weight <= k) of Poisson(1); beyond the last lies less than 1e-10."""
    factorials = np.cumprod(np.concatenate([[1.0], np.arange(1.0, last + 1.0)]))
    cdf: np.ndarray = np.cumsum(np.exp(-1.0) / factorials)
    return cdf


def cluster_of(user: np.ndarray) -> np.ndarray:
    """int64 [n]: of users numbered from 0."""
    return user.astype(np.int64) % CLUSTERS


def totals(sums: np.ndarray) -> np.ndarray:
    """float64 [REPLICATES, columns]: sums [clusters, columns], each row as often as it is drawn."""
    drawn: np.ndarray = weights()[: sums.shape[0]].T.astype(np.float64) @ sums
    return drawn


def ratios(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Above / below, NaN where the second is 0."""
    divided: np.ndarray = np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0)
    return divided


def interval(replicates: np.ndarray) -> list[float] | None:
    """95 % interval: the 2.5 % and 97.5 % quantiles of float64 [REPLICATES]; None where no replicate has a value."""
    known = replicates[~np.isnan(replicates)]
    return [float(bound) for bound in np.quantile(known, [0.025, 0.975])] if known.size else None


def with_intervals(scores: Scores) -> dict[str, Any]:
    """The values, and under `ci95` the interval of each metric that has one."""
    return {**scores.values, "ci95": {name: interval(of) for name, of in scores.replicates.items()}}


def difference(ours: Scores, theirs: Scores) -> dict[str, dict[str, Any]]:
    """Metric -> ours less theirs on the same rows, its 95 % interval and a two-sided p."""
    return {name: _difference(ours, theirs, name) for name in ours.replicates if name in theirs.replicates}


def _difference(ours: Scores, theirs: Scores, name: str) -> dict[str, Any]:
    own, other = ours.values[name], theirs.values[name]
    replicates = ours.replicates[name] - theirs.replicates[name]
    return {
        "difference": None if own is None or other is None else own - other,
        "ci95": interval(replicates),
        "p": two_sided_p(replicates),
    }


def two_sided_p(replicates: np.ndarray) -> float | None:
    """Twice the smaller share of replicates at or beyond 0 on one side, itself counted as one more replicate, so never 0
    (Davison, Hinkley, "Bootstrap methods and their application", 1997, section 4.2)."""
    known = replicates[~np.isnan(replicates)]
    if not known.size:
        return None
    beyond = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2.0 * (beyond + 1) / (int(known.size) + 1))
