"""User and item counters for labels: smoothed rates by user, item and what is known of both, combined by an online logistic regression.

    logit p = l0 + sum_f w_f (l_f - l0) + b,   l_f = logit((y_f + m_f y / n) / (n_f + m_f)),   l0 = logit(y / n)

n_f impressions and y_f positives of the value of field f so far; n, y of all, one of each kind to begin with; w by AdaGrad, 1 at the
start, as b is 0.
Source of the optimiser: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011.
"""

from math import exp, log, sqrt
from typing import Any

from learners.baselines.labels import Told

SMOOTHING = {"user": 10.0, "item": 10.0, "author": 20.0}  # m_f; of other fields the next one
OTHER_SMOOTHING = 50.0
RATE = 0.05
FIRST_SQUARES = 0.01  # AdaGrad's sum at the start
BIAS = ""  # a field that is always there


class Counters:
    """One label. State: two counts for each value of each field, a weight and a sum of squares for each field."""

    def __init__(self) -> None:
        self._all = [2.0, 1.0]  # impressions, positives
        self._counts: dict[str, list[float]] = {}  # field=value -> impressions, positives
        self._weights: dict[str, list[float]] = {BIAS: [0.0, FIRST_SQUARES]}  # field -> weight, sum of squared gradients

    def predict(self, told: Told) -> float:
        return self._weigh(told)[0]

    def _weigh(self, told: Told) -> tuple[float, dict[str, float]]:
        """Probability; field -> its l_f - l0."""
        n, y = self._all
        prior = y / n
        l0 = log(prior / (1.0 - prior))
        logit, inputs = l0 + self._weights[BIAS][0], {BIAS: 1.0}
        for field, value in told.items():
            m, (of_n, of_y) = SMOOTHING.get(field, OTHER_SMOOTHING), self._counts.get(value, (0.0, 0.0))
            positive = of_y + m * prior
            inputs[field] = log(positive / (of_n + m - positive)) - l0
            logit += inputs[field] * (self._weights[field][0] if field in self._weights else 1.0)
        return 1.0 / (1.0 + exp(-max(-30.0, min(30.0, logit)))), inputs

    def learn(self, told: Told, y: int) -> None:
        p, inputs = self._weigh(told)
        for field, x in inputs.items():
            weight = self._weights.setdefault(field, [1.0, FIRST_SQUARES])
            gradient = (p - y) * x
            weight[1] += gradient * gradient
            weight[0] -= RATE * gradient / sqrt(weight[1])
        for count in (self._all, *(self._counts.setdefault(value, [0.0, 0.0]) for value in told.values())):
            count[0] += 1.0
            count[1] += y

    def state(self) -> dict[str, Any]:
        return {"all": self._all, "counts": self._counts, "weights": self._weights}

    def restore(self, state: dict[str, Any]) -> None:
        self._all, self._counts, self._weights = state["all"], state["counts"], state["weights"]
