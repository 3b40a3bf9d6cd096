"""What label models share: one model a label, the fields that they read, their state as bytes."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np

from core.contender import Impression, State

Told = dict[str, str]  # field -> "field=value"


def fields(shown: Impression) -> Told:
    """Who, what, by whom, of which kind, and every plain value of the event's context."""
    told = {"user": f"user={shown.user_id}", "item": f"item={shown.item_id}"}
    if author := shown.entry.get("author"):
        told["author"] = f"author={author}"
    if categories := shown.entry.get("categories"):
        told["categories"] = f"categories={'|'.join(map(str, categories))}"
    for name, value in sorted(shown.context.items()):
        if isinstance(value, (str, int)):
            told[f"context.{name}"] = f"context.{name}={value}"
    return told


class OneLabel(Protocol):
    """A model of one label."""

    def predict(self, told: Told) -> float: ...

    def learn(self, told: Told, y: int) -> None: ...

    def state(self) -> dict[str, Any]:
        """Plain values, of which `restore` makes a model that goes on with the same bits."""

    def restore(self, state: dict[str, Any]) -> None: ...


class LabelModels:
    """A model for each label that was revealed so far. State: theirs, msgpack by label."""

    def __init__(self, name: str, new: Callable[[], OneLabel]) -> None:
        self.name, self._new = name, new
        self._models: dict[str, OneLabel] = {}

    def predict(self, shown: Impression) -> dict[str, float]:
        told = fields(shown)
        return {label: model.predict(told) for label, model in self._models.items()}

    def learn(self, shown: Impression, label: str, y: int) -> None:
        if label not in self._models:
            self._models[label] = self._new()
        self._models[label].learn(fields(shown), y)

    def save(self) -> State:
        return {label: np.frombuffer(msgspec.msgpack.encode(model.state()), dtype=np.uint8) for label, model in self._models.items()}

    def load(self, state: State) -> None:
        self._models = {label: self._new() for label in state}
        for label, model in self._models.items():
            model.restore(msgspec.msgpack.decode(state[label].tobytes()))
