"""The settings of a made-up world. They are all that its truth is made of: the same settings, the same users, items and events."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from core.errors import SettingsError
from evaluation.world.checks import check_numbers

FORMAT = 1
FILE = "world.json"
_SHARES = ("daily_wave", "burst_share", "explore", "room_share", "bot_share", "bot_click")
_POSITIVE = (
    "requests_per_second", "burst_times", "item_life_hours", "room_life_minutes", "drift_hours", "click_seconds", "watch_seconds",
    "room_seconds", "conversion_drift_hours", "conversion_wave_hours", "attribution_hours",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "user_exponent", "item_exponent", "position_exponent", "topic_spread", "quality_sd", "affinity", "drift", "change_hours",
    "conversion_item_sd", "conversion_user_sd", "conversion_drift", "conversion_wave",
)  # fmt: skip
_LEAST = {"users": 1, "topics": 2, "tries": 1, "page": 1, "bots": 1}
MOST_PLACES = 50


class WorldConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A world. docs/simulator.md explains each setting.

    Raises:
        SettingsError: a setting cannot be used.
    """

    seed: int = 0
    start_ms: int = 1_767_225_600_000  # 2026-01-01T00:00:00Z
    users: int = 300
    items: int = 500  # live at any time

    requests_per_second: float = 0.04  # of all, outside bursts, over a day
    user_exponent: float = 0.5  # Zipf, of how often a user asks
    daily_wave: float = 0.5
    burst_share: float = 0.01  # of the minutes
    burst_times: float = 5.0

    page: int = 10  # positions
    tries: int = 4  # items drawn for each position, of which the user's best is shown; 1: not personal
    item_exponent: float = 0.8  # Zipf, of how often an item is drawn
    explore: float = 0.2  # share of the draws in which all items are equal
    position_exponent: float = 0.7  # position j is examined with probability j^-x

    topics: int = 16
    topic_spread: float = 0.3
    quality_sd: float = 0.5  # logits
    item_life_hours: float = 72.0
    room_share: float = 0.05  # of the items
    room_life_minutes: float = 60.0

    click_logit: float = -3.0  # of an item that is neither liked nor disliked
    affinity: float = 4.0  # logits between an item of no interest and one of the very taste
    drift: float = 0.3
    drift_hours: float = 48.0
    change_hours: float = 24.0  # event time between two abrupt changes of a user's taste; 0: never

    click_seconds: float = 8.0
    watch_seconds: float = 40.0
    room_seconds: float = 180.0

    conversion_logit: float = -2.0
    conversion_item_sd: float = 0.5
    conversion_user_sd: float = 0.4
    conversion_drift: float = 0.5
    conversion_drift_hours: float = 96.0
    conversion_wave: float = 0.4
    conversion_wave_hours: float = 60.0
    conversion_scales_hours: tuple[float, float, float] = (0.05, 3.0, 12.0)
    attribution_hours: float = 24.0

    bots: int = 5
    bot_share: float = 0.05  # of the requests
    bot_click: float = 0.9

    def __post_init__(self) -> None:
        check_numbers(self, {**_LEAST, **dict.fromkeys(_NOT_NEGATIVE, 0)}, _POSITIVE, _SHARES)
        if min(self.conversion_scales_hours) <= 0:
            raise SettingsError(f"`conversion_scales_hours` must be above 0, got {self.conversion_scales_hours}")
        if self.page > min(self.items, MOST_PLACES):
            raise SettingsError(f"`page` must be at most `items` ({self.items}) and {MOST_PLACES}, got {self.page}")
        if self.start_ms <= 0:
            raise SettingsError(f"`start_ms` must be above 0, got {self.start_ms}")

    def law(self) -> Any:
        """The settings as one record, which compiled functions read by name."""
        kinds: list[tuple[Any, ...]] = [(name, _KINDS[kind]) for name, kind in self.__annotations__.items() if kind in _KINDS]
        kinds.append(("conversion_scales_hours", np.float64, (3,)))
        values = tuple(getattr(self, name) for name, *_ in kinds)
        return np.array([values], dtype=kinds)[0]


_KINDS = {int: np.int64, float: np.float64}


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """world.json."""

    format: int
    world: WorldConfig
    log: dict[str, Any] = {}


def save_world(config: WorldConfig, directory: Path, log: dict[str, Any]) -> None:
    """Write world.json; `log` says what was simulated of it."""
    told = {"format": FORMAT, "world": msgspec.to_builtins(config), "log": log}
    (directory / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")


def load_world(directory: Path) -> WorldConfig:
    """The world of a simulated log.

    Raises:
        SettingsError: the directory has no world.json, or one that cannot be read.
    """
    path = directory / FILE
    if not path.is_file():
        raise SettingsError(f"{directory} is no simulated log: it has no {FILE}, which `freshet simulate` writes")
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except msgspec.MsgspecError as error:
        raise SettingsError(f"{path} cannot be read: {error}; simulate the log again") from error
    if saved.format != FORMAT:
        raise SettingsError(f"{path} is of format {saved.format}, not {FORMAT}: simulate the log again")
    return saved.world


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of a world by name, from TOML.

    Raises:
        SettingsError: the file is not there, or is no TOML.
    """
    if not path.is_file():
        raise SettingsError(f"--settings {path}: there is no such file")
    try:
        return dict(msgspec.toml.decode(path.read_bytes(), type=dict[str, Any]))
    except msgspec.MsgspecError as error:
        raise SettingsError(f"--settings {path}: {error}") from error


def make_world(settings: dict[str, Any]) -> WorldConfig:
    """A world with these settings, defaults for the others.

    Raises:
        SettingsError: one is unknown, of the wrong type, or cannot be used.
    """
    try:
        return msgspec.convert(settings, WorldConfig)
    except msgspec.ValidationError as error:
        raise SettingsError(f"the settings of the world: {error}") from error
