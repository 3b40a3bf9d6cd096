"""The slow, obvious twin of `OnlineLogistic`: a row at a time, each head a dict from feature to weight."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from core.labels import KINDS, POLICIES
from learners.labels import LogisticConfig

LIMIT = 35.0  # of logits
MOST_SERVED = 0.999  # by fnc
POSITIVE = ("in_window", "late", "final_positive", "matured_in_window", "matured_late")
MATURED = {"matured_in_window": (0.0, None), "matured_late": (1.0, 0.0), "matured_negative": (0.0, 1.0)}  # what p_dp and p_rn learn
FINAL = {"final_positive": (0.0, None), "final_negative": (0.0, 1.0)}  # the same, of defer's second copies
NOTHING = (None, None)

Features = dict[Hashable, float]  # value of each, the bias included


class Row(NamedTuple):
    """A label row, as the model takes it."""

    label: int
    policy: int
    kind: int
    categorical: Sequence[int]
    numeric: Sequence[float]


class NaiveHead:
    """A logistic regression by AdaGrad."""

    def __init__(self, rate: float, initial_squares: float) -> None:
        self.rate, self.initial_squares = rate, initial_squares
        self.weight: dict[Hashable, float] = defaultdict(float)
        self.squares: dict[Hashable, float] = defaultdict(float)

    def probability(self, features: Features) -> float:
        logit = sum(self.weight[name] * x for name, x in features.items())
        return 1.0 / (1.0 + math.exp(-max(-LIMIT, min(LIMIT, logit))))

    def descend(self, features: Features, slope: float) -> None:
        """`slope`: the loss by the logit."""
        for name, x in features.items():
            self.squares[name] += (slope * x) ** 2
            self.weight[name] -= self.rate * slope * x / math.sqrt(self.initial_squares + self.squares[name])


class NaiveModel:
    """The three heads of one label, and what is counted of its rows."""

    def __init__(self, config: LogisticConfig) -> None:
        self.main = NaiveHead(config.rate, config.initial_squares)
        self.p_dp, self.p_rn = (NaiveHead(config.helper_rate, config.initial_squares) for _ in range(2))
        self.keep = 0.5 ** (1.0 / config.half_life_rows)
        self.rows: Counter[str] = Counter()
        self.clipped = self.refused = 0
        self.clicks = self.loss = self.predicted = self.observed = 0.0

    def heads(self, features: Features) -> tuple[float, float, float]:
        """f, p_dp, p_rn."""
        return self.main.probability(features), self.p_dp.probability(features), self.p_rn.probability(features)

    def learn(self, policy: str, kind: str, features: Features) -> None:
        self.rows[kind] += 1
        if not all(map(math.isfinite, features.values())):
            self.refused += 1
            return
        f, p_dp, p_rn = self.heads(features)
        self.clipped += policy == "fnc" and f >= 0.5
        self.watch(policy, kind, served(policy, f))
        a, b = weights(policy, kind, f, p_dp, p_rn)
        self.main.descend(features, b * f - a * (1.0 - f))
        late, negative = helper_targets(policy, kind)
        if late is not None:
            self.p_dp.descend(features, p_dp - late)
        if negative is not None:
            self.p_rn.descend(features, p_rn - negative)

    def watch(self, policy: str, kind: str, f: float) -> None:
        """A click counts once, at its first label; of a late positive the loss of a negative is taken back."""
        if kind in MATURED or (policy == "defer" and kind in FINAL):
            return
        if kind == "late":
            self.loss += -math.log(f) + math.log(1.0 - f)
            self.observed += 1.0
            return
        y = float(kind in POSITIVE)
        told = (1.0, -math.log(f) if y else -math.log(1.0 - f), f, y)
        self.clicks, self.loss, self.predicted, self.observed = (
            self.keep * total + new for total, new in zip(self.sums(), told, strict=True)
        )

    def sums(self) -> tuple[float, float, float, float]:
        return self.clicks, self.loss, self.predicted, self.observed


class NaiveLogistic:
    """A model for each label, told of one row after another."""

    def __init__(self, config: LogisticConfig) -> None:
        self.models = [NaiveModel(config) for _ in config.labels]

    def learn(self, row: Row) -> None:
        self.models[row.label].learn(POLICIES[row.policy], KINDS[row.kind], features_of(row.categorical, row.numeric))

    def predict_heads(self, label: int, policy: int, categorical: Sequence[int], numeric: Sequence[float]) -> tuple[float, float, float]:
        """The probability served, p_dp, p_rn; NaN where a number is not finite."""
        features = features_of(categorical, numeric)
        if not all(map(math.isfinite, features.values())):
            return math.nan, math.nan, math.nan
        f, p_dp, p_rn = self.models[label].heads(features)
        return served(POLICIES[policy], f), p_dp, p_rn


def features_of(categorical: Sequence[int], numeric: Sequence[float]) -> Features:
    """A bucket's value is how often the example has it."""
    features: Features = {"bias": 1.0}
    features.update({("number", j): x for j, x in enumerate(numeric)})
    features.update({("bucket", bucket): float(times) for bucket, times in Counter(categorical).items() if bucket >= 0})
    return features


def served(policy: str, f: float) -> float:
    """Of fnc the p of f = p / (1 + p)."""
    if policy != "fnc":
        return f
    return min(f / (1.0 - f), MOST_SERVED) if f < 0.5 else MOST_SERVED


def weights(policy: str, kind: str, f: float, p_dp: float, p_rn: float) -> tuple[float, float]:
    """(a, b): of the loss were the row's label 1, and 0."""
    y, z, m = kind in POSITIVE, 1.0 - p_rn, min(p_dp, f)
    if kind in MATURED:
        return 0.0, 0.0
    if policy == "defuse":
        positive = (1.0 if kind == "late" else 1.0 + p_dp, 0.0)
        return positive if y else (z * p_dp, (1.0 - z) * (1.0 + p_dp))
    corrected = {
        "fnw": (1.0 + f, (1.0 - f) * (1.0 + f)),
        "es-dfm": (1.0 + p_dp, (1.0 + p_dp) * p_rn),
        "defer": (f / (f - m / 2.0), (1.0 - f) / (1.0 - f + m / 2.0)),
    }
    a, b = corrected.get(policy, (1.0, 1.0))
    return (a, 0.0) if y else (0.0, b)


def helper_targets(policy: str, kind: str) -> tuple[float | None, float | None]:
    """Of p_dp and p_rn; None where the row teaches the helper nothing."""
    return {**MATURED, **(FINAL if policy == "defer" else {})}.get(kind, NOTHING)
