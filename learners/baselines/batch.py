"""Batch recommenders that Freshet stands in for: matrix factorisation, fitted anew every hour of event time and frozen in between.

Sources: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008 (ALS); Rendle, Freudenthaler, Gantner,
Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009. Both as in the library implicit, on one thread and
with one seed, so that a fit is a function of its pairs.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from core.compiled import compiled
from core.contender import Run, State
from learners.baselines.extra import needs_extra

HOUR_MS = 3_600_000
WINDOW_HOURS = 7 * 24
WINDOW_PAIRS = 200_000  # the last ones; bounds a fit to about a second
SEED = 1
UNKNOWN = -1


class Model(NamedTuple):
    """What one fit gave, for the users and items in its pairs."""

    users: np.ndarray  # int32 [m], ascending
    items: np.ndarray  # int32 [n], ascending
    user_factors: np.ndarray  # float32 [m, f]
    item_factors: np.ndarray  # float32 [f, n], so that products run along the items


Fit = Callable[[Any], tuple[np.ndarray, np.ndarray]]  # CSR of counts, float32 [m, n] -> float32 [m, f], [n, f]


def fit_als(counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Alternating least squares; the confidence of a pair is its count, of all others 1."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=8, regularization=1.0, iterations=5, num_threads=1, random_state=SEED)
    model.fit(counts, show_progress=False)
    return model.user_factors, model.item_factors


def fit_bpr(counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Stochastic steps on a pair and an item that its user has not, drawn by popularity; an item's bias is the last factor."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(factors=15, learning_rate=0.03, iterations=30, num_threads=1, random_state=SEED)
    model.fit(counts, show_progress=False)
    return model.user_factors, model.item_factors


@compiled
def add_products(vector: np.ndarray, factors: np.ndarray, out: np.ndarray) -> None:
    """out[j] = sum over f of vector[f] factors[f, j], in the order of f: the same bits wherever an item stands. All float32."""
    out[:] = 0.0
    for f in range(factors.shape[0]):
        for j in range(factors.shape[1]):
            out[j] += vector[f] * factors[f, j]


@compiled
def place(known: np.ndarray, number: int) -> int:
    """Where `number` stands in the ascending `known`; UNKNOWN: nowhere."""
    at = np.searchsorted(known, number)
    return int(at) if at < known.shape[0] and known[at] == number else UNKNOWN


@compiled
def rank_by_products(products: np.ndarray, at: int, left_out: np.ndarray, items: np.ndarray, k: int) -> int:
    """Rank of items[at] among those that are not left out, equals count as before it; 0: not among the first k."""
    own, before = products[at], -1
    for j in range(products.shape[0]):
        before += products[j] >= own
    for item in left_out:
        if item < 0:
            break
        column = place(items, item)
        if column == at:
            return 0
        before -= column >= 0 and products[column] >= own
    return before + 1 if before < k else 0


@compiled
def judge_products(user: np.ndarray, item: np.ndarray, judged: np.ndarray, seen: np.ndarray, k: int, model: Model, out: np.ndarray) -> None:
    """Ranks in the lists of one model. See `core.contender.Run` for the columns."""
    products = np.empty(model.items.shape[0], dtype=np.float32)
    for i in range(user.shape[0]):
        if judged[i]:
            row, column = place(model.users, user[i]), place(model.items, item[i])
            if row >= 0 and column >= 0:
                add_products(model.user_factors[row], model.item_factors, products)
                out[i] = rank_by_products(products, column, seen[i], model.items, k)


class HourlyRefit:
    """Before the first event of each hour of event time, fits the pairs engaged in the WINDOW_HOURS before it, WINDOW_PAIRS at most.
    Users and items that the last fit did not have get no list and stand in none. State: those pairs (24 bytes each) and the model.
    """

    def __init__(self, name: str, fit: Fit) -> None:
        self.name, self._fit = name, fit
        self._hour = UNKNOWN  # of the newest event
        self._pairs = [_no_pairs()]
        self._model: Model | None = None

    def judge(self, run: Run, k: int) -> np.ndarray:
        out = np.zeros(len(run), dtype=np.int32)
        hours = np.maximum.accumulate(np.maximum(run.ts_ms // HOUR_MS, self._hour))
        starts = np.flatnonzero(np.diff(hours, prepend=self._hour)).tolist()
        for start, stop in pairwise(sorted({0, *starts, len(run)})):
            if hours[start] != self._hour:
                self._hour = int(hours[start])
                self._refit(self._hour * HOUR_MS)
            part = run.part(start, stop)
            if self._model is not None:
                judge_products(part.user, part.item, part.judged, part.seen, k, self._model, out[start:stop])
            self._pairs.append(np.stack([part.user, part.item, part.ts_ms])[:, part.engaged])
        return out

    def _refit(self, now_ms: int) -> None:
        pairs = np.concatenate(self._pairs, axis=1)
        kept = pairs[:, pairs[2] >= now_ms - WINDOW_HOURS * HOUR_MS][:, -WINDOW_PAIRS:]
        self._pairs, self._model = [kept], None
        if kept.size:
            self._model = fitted(kept[0], kept[1], self._fit)

    def scores(self, user: int, items: int) -> np.ndarray:
        """Products of the last fit; NaN for what it did not have."""
        scores = np.full(items, np.nan, dtype=np.float32)
        if self._model is not None and (row := place(self._model.users, user)) != UNKNOWN:
            products = np.empty(self._model.items.size, dtype=np.float32)
            add_products(self._model.user_factors[row], self._model.item_factors, products)
            scores[self._model.items] = products
        return scores

    def remove(self, items: np.ndarray) -> None:
        """Their pairs are forgotten too."""
        pairs = np.concatenate(self._pairs, axis=1)
        self._pairs = [pairs[:, ~np.isin(pairs[1], items)]]
        if self._model is not None:
            kept = ~np.isin(self._model.items, items)
            factors = np.ascontiguousarray(self._model.item_factors[:, kept])
            self._model = self._model._replace(items=self._model.items[kept], item_factors=factors)

    def save(self) -> State:
        model = {} if self._model is None else self._model._asdict()
        return {"hour": np.array([self._hour]), "pairs": np.concatenate(self._pairs, axis=1), **model}

    def load(self, state: State) -> None:
        self._hour, self._pairs = int(state["hour"][0]), [state["pairs"].copy()]
        self._model = Model(*(state[name].copy() for name in Model._fields)) if "users" in state else None


def hourly(name: str) -> HourlyRefit:
    """`als-hourly` or `bpr-hourly`.

    Raises:
        SettingsError: the extra is not installed.
    """
    with needs_extra(name):
        import implicit  # noqa: F401
    return HourlyRefit(name, {"als-hourly": fit_als, "bpr-hourly": fit_bpr}[name])


def fitted(user: np.ndarray, item: np.ndarray, fit: Fit) -> Model:
    """The model of these pairs."""
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    users, rows = np.unique(user, return_inverse=True)
    items, columns = np.unique(item, return_inverse=True)
    counts = csr_matrix((np.ones(user.size, dtype=np.float32), (rows, columns)), shape=(users.size, items.size))
    with threadpool_limits(1):  # a sum over several threads has no fixed order
        user_factors, item_factors = fit(counts)
    return Model(users.astype(np.int32), items.astype(np.int32), user_factors, np.ascontiguousarray(item_factors.T))


def _no_pairs() -> np.ndarray:
    """int64 [3, 0]: user, item, ts_ms of each pair in log order."""
    return np.empty((3, 0), dtype=np.int64)
