"""Online logistic regression and factorisation machine of the library River, over one-hot fields.

Sources: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011 (the steps of both); Rendle, "Factorization Machines", ICDM 2010.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash

from learners.baselines.extra import needs_extra
from learners.baselines.labels import LabelModels, OneLabel, Told

RATE = 0.05  # AdaGrad's, of weights and latents
INTERCEPT_RATE = 0.01
FACTORS = 4
SIGMA = 0.1  # of latents at the start


def online(name: str) -> LabelModels:
    """`online-lr` or `online-fm`.

    Raises:
        SettingsError: the extra is not installed.
    """
    with needs_extra(name):
        import river  # noqa: F401
    new: dict[str, Callable[[], OneLabel]] = {"online-lr": OnlineLr, "online-fm": OnlineFm}
    return LabelModels(name, new[name])


class Online:
    """One label. Features are the values, 1 each."""

    _model: Any

    def predict(self, told: Told) -> float:
        return float(self._model.predict_proba_one(dict.fromkeys(told.values(), 1.0))[True])

    def learn(self, told: Told, y: int) -> None:
        self._model.learn_one(dict.fromkeys(told.values(), 1.0), bool(y))


class OnlineLr(Online):
    """Logistic regression. State: a weight and a sum of squared gradients a value."""

    def __init__(self) -> None:
        from river import linear_model, optim

        self._model = linear_model.LogisticRegression(optim.AdaGrad(RATE), intercept_lr=INTERCEPT_RATE)

    def state(self) -> dict[str, Any]:
        return {"intercept": self._model.intercept, "weights": self._model.weights, "squares": self._model.optimizer.g2}

    def restore(self, state: dict[str, Any]) -> None:
        from river.utils import VectorDict

        self._model.intercept, self._model._weights = state["intercept"], VectorDict(state["weights"])
        self._model.optimizer.g2.update(state["squares"])


class OnlineFm(Online):
    """Factorisation machine. State: a weight, a sum of squared gradients and FACTORS latents a value."""

    def __init__(self) -> None:
        from river import facto, optim

        self._model = facto.FMClassifier(
            n_factors=FACTORS, weight_optimizer=optim.AdaGrad(RATE), latent_optimizer=optim.AdaGrad(RATE), intercept_lr=INTERCEPT_RATE
        )
        self._model.latents = Fresh(first_latents)

    def state(self) -> dict[str, Any]:
        model = self._model
        return {
            "intercept": float(model.intercept),
            "weights": plain(model.weights),
            "squares": plain(model.weight_optimizer.g2),
            "latents": {name: vector.tolist() for name, vector in model.latents.items()},
            "latent_squares": [float(model.latent_optimizer.g2[f]) for f in range(FACTORS)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        model = self._model
        model.intercept = state["intercept"]
        model.weights.update(state["weights"])
        model.weight_optimizer.g2.update(state["squares"])
        model.latents.update({name: np.array(vector) for name, vector in state["latents"].items()})
        model.latent_optimizer.g2.update(enumerate(state["latent_squares"]))


class Fresh(dict[str, Any]):
    """Gives for a name that it does not have what a function of the name alone says. River draws it from a generator, and keeps it even
    when it only predicts: then a prediction would change later ones, and a restart would need the generator's state."""

    def __init__(self, first: Callable[[str], Any]) -> None:
        super().__init__()
        self._first = first

    def __missing__(self, name: str) -> Any:
        return self._first(name)


def first_latents(name: str) -> np.ndarray:
    """float64 [FACTORS] of a normal distribution, keyed by a hash of the name."""
    return np.random.Generator(np.random.Philox(key=xxhash.xxh3_64_intdigest(name.encode()))).normal(0.0, SIGMA, FACTORS)


def plain(numbers: dict[str, Any]) -> dict[str, float]:
    """Without numpy's types."""
    return {name: float(number) for name, number in numbers.items()}
