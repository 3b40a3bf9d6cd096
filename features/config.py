"""Settings of the feature stages. What shapes stored rows is the `identity`: changing it is a rebuild."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import msgspec

from core.clock import MS
from core.errors import SettingsError
from core.rows import CHUNK_ROWS
from core.schemas import EVENT_TYPES
from features.declarations import BEHAVIOURS, ROOM_FEATURES, EntityConfig, Feature, affinity_features
from features.label_config import JoinConfig, LabelConfig
from features.user_rows import UserPlan, user_plan

MAX_TYPES = 255  # a type's code is one byte in stored rows
WORD_BYTES = 8
HISTORY_TYPES = tuple(name for name in EVENT_TYPES if name not in ("impression", "hate", "exit"))
POPULARITY_TYPES = tuple(name for name in HISTORY_TYPES if name != "enter")
SEQUENCES = tuple((name, types) for name, types in BEHAVIOURS.items() if name != "shown")
ROOM_WINDOW_SECONDS = 30
MAX_CATEGORIES = 1 << 14


@dataclass(frozen=True)
class UserConfig:
    """Of one `UserStage`: the `batches` partition it reads, what it counts and remembers, and for how long (event time).

    Raises:
        SettingsError: a value cannot be used.
    """

    partition: int = 0
    types: tuple[str, ...] = EVENT_TYPES
    half_lives_seconds: tuple[int, ...] = (60, 600, 3_600, 86_400)
    windows_seconds: tuple[int, ...] = (300, 3_600)
    session_gap_seconds: int = 1_800
    long_view_seconds: int = 10
    sequences: tuple[tuple[str, tuple[str, ...]], ...] = SEQUENCES
    sequence_events: int = 16
    history_types: tuple[str, ...] = HISTORY_TYPES
    history_items: int = 30
    late_seconds: int = 3_600
    future_seconds: int = 3_600
    duplicate_horizon_seconds: int = 86_400
    user_ttl_seconds: int = 30 * 86_400
    labels: tuple[LabelConfig, ...] = ()
    max_open_impressions: int = 1 << 16  # per label
    max_items: int = 1 << 18  # of the catalogue, whose category is known
    hot_bytes: int = 64 << 20  # of rows kept in memory; what changed in them is written at a checkpoint
    cache_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        _check_positive(
            self,
            "sequence_events",
            "history_items",
            "duplicate_horizon_seconds",
            "user_ttl_seconds",
            "max_items",
            "hot_bytes",
            "cache_bytes",
        )
        if len(self.codes) > MAX_TYPES:
            raise SettingsError(f"`types` and `history_types` name {len(self.codes)} event types; at most {MAX_TYPES} have a code")
        if self.labels:
            self.joins.check(tuple(self.codes))
        _ = self.entity  # checks its own settings

    @property
    def joins(self) -> JoinConfig:
        """Of the join of labels; there must be one."""
        return JoinConfig(self.labels, self.max_open_impressions)

    @cached_property
    def entity(self) -> EntityConfig:
        """What is counted of a user."""
        return EntityConfig(
            types=self.types,
            half_lives_seconds=self.half_lives_seconds,
            windows_seconds=self.windows_seconds,
            distinct="items",
            session_gap_seconds=self.session_gap_seconds,
            long_view_seconds=self.long_view_seconds,
        )

    @cached_property
    def features(self) -> list[Feature]:
        """The user's columns in `examples`, in order."""
        return [*self.entity.features("user"), *affinity_features(self.entity.behaviours)]

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return [feature.name for feature in self.features]

    @cached_property
    def plan(self) -> UserPlan:
        """The stored row."""
        return user_plan(
            self.entity, tuple(self.codes), self.sequences, self.sequence_events, self.history_items, self.user_ttl_seconds * MS
        )

    @property
    def hot_users(self) -> int:
        """Rows kept in memory as they are, in a sixth of `hot_bytes`."""
        return max(1, self.hot_bytes // 6 // (self.plan.words * WORD_BYTES))

    @property
    def packed_bytes(self) -> int:
        """The rest, for packed ones."""
        return max(0, self.hot_bytes - self.hot_users * self.plan.words * WORD_BYTES)

    @property
    def codes(self) -> dict[str, int]:
        """Event type -> code in stored rows; counted types come first."""
        return {name: code for code, name in enumerate(dict.fromkeys((*self.types, *self.history_types)))}

    @property
    def identity(self) -> dict[str, Any]:
        names = ("partition", "sequences", "sequence_events", "history_types", "history_items", "max_items")
        joins = self.joins.identity if self.labels else {}
        own = _settings(self, (*names, "duplicate_horizon_seconds", "user_ttl_seconds"))
        return {**own, **_declared(self.entity), **joins}


@dataclass(frozen=True)
class ItemConfig:
    """Of `ItemFeatures`: how many items have a row, what is counted, and which types make an item popular.

    Raises:
        SettingsError: a value cannot be used.
    """

    capacity: int = 1 << 18  # of items, and of authors
    types: tuple[str, ...] = EVENT_TYPES
    half_lives_seconds: tuple[int, ...] = (60, 600, 3_600, 86_400)
    windows_seconds: tuple[int, ...] = (300, 3_600)
    long_view_seconds: int = 10
    popularity_types: tuple[str, ...] = POPULARITY_TYPES
    popularity_half_life_seconds: int = 1_800
    future_seconds: int = 3_600

    def __post_init__(self) -> None:
        _check_positive(self, "capacity", "popularity_half_life_seconds")
        if self.capacity % CHUNK_ROWS:
            raise SettingsError(f"`capacity` must be a multiple of {CHUNK_ROWS} items, got {self.capacity}")
        _ = self.item  # checks its own settings

    @cached_property
    def item(self) -> EntityConfig:
        """What is counted of an item; of a live room the last half minute matters too."""
        windows = dict.fromkeys((ROOM_WINDOW_SECONDS, *self.windows_seconds))
        return EntityConfig(
            types=self.types,
            half_lives_seconds=self.half_lives_seconds,
            windows_seconds=tuple(windows),
            long_view_seconds=self.long_view_seconds,
        )

    @cached_property
    def group(self) -> EntityConfig:
        """What is counted of an author and of a category."""
        return EntityConfig(
            types=self.types,
            half_lives_seconds=self.half_lives_seconds,
            windows_seconds=self.windows_seconds,
            long_view_seconds=self.long_view_seconds,
        )

    @cached_property
    def features(self) -> list[Feature]:
        """The columns, in order."""
        groups = [feature for entity in ("author", "category") for feature in self.group.features(entity)]
        return [*self.item.features("item"), *ROOM_FEATURES, *groups]

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return [feature.name for feature in self.features]

    @property
    def width(self) -> int:
        """How many they are."""
        return len(self.features)

    @property
    def codes(self) -> dict[str, int]:
        """Event type -> code; counted types come first."""
        return {name: code for code, name in enumerate(dict.fromkeys((*self.types, *self.popularity_types)))}

    @property
    def identity(self) -> dict[str, Any]:
        own = _settings(self, ("popularity_types", "popularity_half_life_seconds", "windows_seconds"))
        return {**_declared(self.item), **own}


def _declared(entity: EntityConfig) -> dict[str, Any]:
    """What is counted, by the names that the settings have."""
    settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asdict(entity)))
    return settings


def _settings(config: UserConfig | ItemConfig, names: Sequence[str]) -> dict[str, Any]:
    """As a snapshot gives them back, so that stored and own settings compare."""
    settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({name: getattr(config, name) for name in names}))
    return settings


def _check_positive(config: UserConfig | ItemConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise SettingsError(f"`{name}` must be positive, got {getattr(config, name)}")
