"""SUPA's score of a pair as a probability of each label: a logistic regression of the score alone, fitted online.

Source: Platt, "Probabilistic outputs for support vector machines", 1999; the optimiser: Duchi, Hazan, Singer, "Adaptive subgradient
methods", JMLR 2011.
"""

from math import exp, sqrt

import numpy as np

from core.contender import Impression, State

RATE = 0.1
FIRST_SQUARES = 0.01  # AdaGrad's sums at the start
WEIGHTS = 3  # of the score, of 1, of an unknown pair


class Calibrated:
    """State: three weights and their sums of squared gradients for each label."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._weights: dict[str, list[float]] = {}  # label -> weights, then sums

    def predict(self, shown: Impression) -> dict[str, float]:
        inputs = _inputs(shown)
        return {label: _probability(weights, inputs) for label, weights in self._weights.items()}

    def learn(self, shown: Impression, label: str, y: int) -> None:
        inputs = _inputs(shown)
        weights = self._weights.setdefault(label, [0.0] * WEIGHTS + [FIRST_SQUARES] * WEIGHTS)
        error = _probability(weights, inputs) - y
        for at, x in enumerate(inputs):
            gradient = error * x
            weights[WEIGHTS + at] += gradient * gradient
            weights[at] -= RATE * gradient / sqrt(weights[WEIGHTS + at])

    def save(self) -> State:
        return {label: np.array(weights) for label, weights in self._weights.items()}

    def load(self, state: State) -> None:
        self._weights = {label: weights.tolist() for label, weights in state.items()}


def _inputs(shown: Impression) -> tuple[float, float, float]:
    return (0.0, 1.0, 1.0) if shown.score is None else (shown.score, 1.0, 0.0)


def _probability(weights: list[float], inputs: tuple[float, float, float]) -> float:
    logit = sum(weight * x for weight, x in zip(weights, inputs, strict=False))
    return 1.0 / (1.0 + exp(-max(-30.0, min(30.0, logit))))
