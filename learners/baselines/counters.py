"""User and item counters for labels: smoothed rates by user, item and what is known of both, combined by an online logistic regression.

    logit p = l0 + sum_f w_f (l_f - l0) + b,   l_f = logit((y_f + m_f y / n) / (n_f + m_f)),   l0 = logit(y / n)

n_f impressions and y_f positives of the value of field f so far; n, y of all; w by AdaGrad, 1 at the start.
Source of the optimiser: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011.
"""

import math
from typing import Any

import msgspec
import numpy as np

from core.contender import Impression, State

SMOOTHING = {"user": 10.0, "item": 10.0, "author": 20.0}  # m_f; of other fields the next one
OTHER_SMOOTHING = 50.0
RATE = 0.05
FIRST_SQUARES = 0.01  # AdaGrad's sum at the start


def fields(shown: Impression) -> dict[str, str]:
    """Field -> value: who, what, by whom, of which kind, and every plain value of the event's context."""
    told: dict[str, str] = {"user": shown.user_id, "item": shown.item_id}
    if author := shown.entry.get("author"):
        told["author"] = str(author)
    if categories := shown.entry.get("categories"):
        told["categories"] = "|".join(map(str, categories))
    told |= {f"context.{name}": str(value) for name, value in sorted(shown.context.items()) if isinstance(value, (str, int))}
    return told


class Counters:
    """State: two counts for each value of each field and label, a weight and a sum of squares for each field and label."""

    name = "counters"

    def __init__(self) -> None:
        self._counts: dict[str, list[float]] = {}  # label, field, value -> impressions, positives
        self._weights: dict[str, list[float]] = {}  # label, field -> weight, sum of squared gradients

    def predict(self, shown: Impression) -> dict[str, float]:
        told = fields(shown)
        return {label: _sigmoid(self._logit(label, told)) for label in self._labels()}

    def _labels(self) -> list[str]:
        return [key for key in self._counts if "\n" not in key]

    def _logit(self, label: str, told: dict[str, str]) -> float:
        return sum(weight * x for weight, x, _ in self._terms(label, told))

    def _terms(self, label: str, told: dict[str, str]) -> list[tuple[float, float, str]]:
        """(weight, input, key of the weight) of the prior, each field, and the bias."""
        n, y = self._counts[label]
        prior = (y + 1.0) / (n + 2.0)
        l0 = _odds(prior)
        terms = [(1.0, l0, "")]
        for field, value in told.items():
            of_n, of_y = self._counts.get(f"{label}\n{field}\n{value}", (0.0, 0.0))
            m, key = SMOOTHING.get(field, OTHER_SMOOTHING), f"{label}\n{field}"
            terms.append((self._weights.get(key, (1.0, 0.0))[0], _odds((of_y + m * prior) / (of_n + m)) - l0, key))
        return [*terms, (self._weights.get(f"{label}\n", (0.0, 0.0))[0], 1.0, f"{label}\n")]

    def learn(self, shown: Impression, label: str, y: int) -> None:
        told = fields(shown)
        self._counts.setdefault(label, [0.0, 0.0])
        terms = self._terms(label, told)
        error = _sigmoid(sum(weight * x for weight, x, _ in terms)) - y
        for weight, x, key in terms[1:]:
            held = self._weights.setdefault(key, [weight, FIRST_SQUARES])
            gradient = error * x
            held[1] += gradient * gradient
            held[0] -= RATE * gradient / math.sqrt(held[1])
        for key in (label, *(f"{label}\n{field}\n{value}" for field, value in told.items())):
            count = self._counts.setdefault(key, [0.0, 0.0])
            count[0] += 1.0
            count[1] += y

    def save(self) -> State:
        return {"state": as_bytes({"counts": self._counts, "weights": self._weights})}

    def load(self, state: State) -> None:
        stored = from_bytes(state["state"])
        self._counts, self._weights = stored["counts"], stored["weights"]


def as_bytes(value: Any) -> np.ndarray:
    """Plain values as uint8."""
    return np.frombuffer(msgspec.msgpack.encode(value), dtype=np.uint8)


def from_bytes(stored: np.ndarray) -> Any:
    return msgspec.msgpack.decode(stored.tobytes())


def _odds(p: float) -> float:
    return math.log(p / (1.0 - p))


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))
