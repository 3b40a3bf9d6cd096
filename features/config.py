"""Settings of the feature stages. What shapes stored rows is the `identity`: changing it is a rebuild."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from core.errors import SettingsError
from core.rows import CHUNK_ROWS
from core.schemas import EVENT_TYPES, user_columns
from features.label_config import JoinConfig, LabelConfig

MAX_TYPES = 255  # a type's code is one byte in stored rows
HISTORY_TYPES = tuple(name for name in EVENT_TYPES if name not in ("impression", "hate", "exit"))
POPULARITY_TYPES = tuple(name for name in HISTORY_TYPES if name != "enter")


@dataclass(frozen=True)
class UserConfig:
    """Of one `UserStage`: the `batches` partition it reads, what it counts and remembers, and for how long (event time)."""

    partition: int = 0
    types: tuple[str, ...] = EVENT_TYPES
    half_lives_seconds: tuple[int, ...] = (3_600, 86_400)
    history_types: tuple[str, ...] = HISTORY_TYPES
    history_items: int = 30
    late_seconds: int = 3_600
    future_seconds: int = 3_600
    duplicate_horizon_seconds: int = 86_400
    user_ttl_seconds: int = 30 * 86_400
    labels: tuple[LabelConfig, ...] = ()
    max_open_impressions: int = 1 << 17  # per label
    hot_users: int = 32_768  # rows kept in memory, about 1 kB each; what changed in them is written at a checkpoint
    cache_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        _check_counters(self.types, self.half_lives_seconds)
        _check_positive(self, "history_items", "duplicate_horizon_seconds", "user_ttl_seconds", "hot_users", "cache_bytes")
        if len(self.codes) > MAX_TYPES:
            raise SettingsError(f"`types` and `history_types` name {len(self.codes)} event types; at most {MAX_TYPES} have a code")
        if self.labels:
            self.joins.check(tuple(self.codes))

    @property
    def joins(self) -> JoinConfig:
        """Of the join of labels; there must be one."""
        return JoinConfig(self.labels, self.max_open_impressions)

    @property
    def columns(self) -> list[str]:
        """Names of the user columns in `examples`, in the order of the stored row."""
        return user_columns(self.types, self.half_lives_seconds)

    @property
    def codes(self) -> dict[str, int]:
        """Event type -> code in stored rows; counted types come first."""
        return {name: code for code, name in enumerate(dict.fromkeys((*self.types, *self.history_types)))}

    @property
    def identity(self) -> dict[str, Any]:
        names = ("partition", "types", "half_lives_seconds", "history_types", "history_items")
        joins = self.joins.identity if self.labels else {}
        return {**_settings(self, (*names, "duplicate_horizon_seconds", "user_ttl_seconds")), **joins}


@dataclass(frozen=True)
class ItemConfig:
    """Of `ItemFeatures`: how many items have a row, what is counted, and which types make an item popular."""

    capacity: int = 1 << 18
    types: tuple[str, ...] = EVENT_TYPES
    half_lives_seconds: tuple[int, ...] = (3_600, 86_400)
    popularity_types: tuple[str, ...] = POPULARITY_TYPES
    popularity_half_life_seconds: int = 1_800
    future_seconds: int = 3_600

    def __post_init__(self) -> None:
        _check_counters(self.types, self.half_lives_seconds)
        _check_positive(self, "capacity", "popularity_half_life_seconds")
        if self.capacity % CHUNK_ROWS:
            raise SettingsError(f"`capacity` must be a multiple of {CHUNK_ROWS} items, got {self.capacity}")

    @property
    def width(self) -> int:
        """Counters of an item."""
        return len(self.types) * len(self.half_lives_seconds)

    @property
    def codes(self) -> dict[str, int]:
        """Event type -> code; counted types come first."""
        return {name: code for code, name in enumerate(dict.fromkeys((*self.types, *self.popularity_types)))}

    @property
    def identity(self) -> dict[str, Any]:
        return _settings(self, ("types", "half_lives_seconds", "popularity_types", "popularity_half_life_seconds"))


def _settings(config: UserConfig | ItemConfig, names: Sequence[str]) -> dict[str, Any]:
    """As a snapshot gives them back, so that stored and own settings compare."""
    settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({name: getattr(config, name) for name in names}))
    return settings


def _check_counters(types: Sequence[str], half_lives_seconds: Sequence[int]) -> None:
    if len(set(types)) != len(types):
        raise SettingsError(f"`types` names an event type twice: {types}")
    if not half_lives_seconds or min(half_lives_seconds) <= 0:
        raise SettingsError(f"`half_lives_seconds` must be positive numbers, got {half_lives_seconds}")


def _check_positive(config: UserConfig | ItemConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise SettingsError(f"`{name}` must be positive, got {getattr(config, name)}")
