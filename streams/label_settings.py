"""The setting `labels`: label -> policy, or a table of its own."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from features.label_config import LabelConfig

Policy = Literal["window", "vanilla", "fnw", "fnc", "es-dfm", "defer", "defuse", "wait", "sliver"]


def _types(told: object) -> object:
    return (told,) if isinstance(told, str) else told


Types = Annotated[tuple[str, ...], BeforeValidator(_types)]  # one may stand for itself


class LabelTable(BaseModel):
    """What `LabelConfig` says; what is left out has its default there, `positive` the label's own name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Policy
    positive: Types | None = None
    opens: Types | None = None
    exits: Types | None = None
    window_seconds: int | None = None
    horizon_seconds: int | None = None


def _table(told: object) -> object:
    return {"policy": told} if isinstance(told, str) else told


Labels = dict[str, Annotated[LabelTable, BeforeValidator(_table)]]


def label_configs(labels: Labels | None, types: Sequence[str]) -> tuple[LabelConfig, ...]:
    """The labels to be joined. None: the default one, if `types` has its event types.

    Raises:
        SettingsError: a value cannot be used.
    """
    if labels is not None:
        return tuple(_config(name, told) for name, told in labels.items())
    default = LabelConfig("click", ("click",), policy="sliver")
    return (default,) if {*default.opens, *default.positive} <= {*types} else ()


def _config(name: str, told: LabelTable) -> LabelConfig:
    return LabelConfig(name, **{"positive": (name,), **told.model_dump(exclude_none=True)})
