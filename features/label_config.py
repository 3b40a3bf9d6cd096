"""Settings of the join of labels, and what each policy makes of them: a table of states that the kernel walks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from core.errors import SettingsError
from core.labels import (
    DEFER,
    DEFUSE,
    ES_DFM,
    FINAL_NEGATIVE,
    FINAL_POSITIVE,
    FNC,
    FNW,
    IN_WINDOW,
    LATE,
    MATURED_IN_WINDOW,
    MATURED_LATE,
    MATURED_NEGATIVE,
    NEGATIVE,
    POLICIES,
    SLIVER,
    SLIVER_MS,
    WAIT,
    WINDOW,
)

MS = 1_000
MOST_SECONDS = 10 * 366 * 86_400
TWO_STEPS = ("vanilla", "es-dfm", "defer", "defuse")  # tell at the window, and may tell more up to the horizon
MOST_OPEN = (1 << 31) - 1  # rows are numbered in 32 bits

# What an event's type is to a label.
NOTHING, OPENS, POSITIVE, EXITS = range(4)

# States of an impression's label. Up to LEFT it is undecided; before OVER_POSITIVE a row, or its end without one, is still to come.
FRESH = 0  # no row yet
TOLD = 1  # a negative row is out
LEFT = 2  # the user left; a positive event in the same grid cell still counts
IN_TIME = 3  # positive; the row that says so is due
AHEAD = 4  # positive after the window, yet arrived before the window's row
AHEAD_TOLD = 5  # as AHEAD, the negative row is out
MATURING_IN_WINDOW = 6
MATURING_LATE = 7
OVER_POSITIVE = 8
OVER_NEGATIVE = 9
STATES = 10

FROM_EVENT = -1  # in place of a wait: due at the time of the event that decided the label
NO_ROW = -1  # in place of a kind

_Timers = dict[int, tuple[int, int, int]]  # state -> wait, kind of the row that is then due, state after it


class Rule(NamedTuple):
    """One label as the kernel takes it."""

    roles: np.ndarray  # int64 [types], NOTHING, OPENS, POSITIVE or EXITS
    waits_ms: np.ndarray  # int64 [STATES], from the impression to what is due, or FROM_EVENT
    kinds: np.ndarray  # int64 [STATES], of the row that is then due, or NO_ROW
    nexts: np.ndarray  # int64 [STATES], state after it
    start: int  # state of a new impression: FRESH, or TOLD by a negative row at once
    after_late: int  # state after a late row
    in_time_ms: int  # positives up to here come into the window's row
    horizon_ms: int  # and up to here at all
    grid_ms: int  # what is due is due at multiples of this


@dataclass(frozen=True)
class LabelConfig:
    """One label of impressions.

    | setting | meaning |
    |---|---|
    | name | of the label |
    | positive | event types that make it 1 |
    | opens | event types that are its impressions |
    | exits | event types by which the user leaves the item; `sliver` alone looks at them |
    | policy | what the learner is told and when, see `core.labels` |
    | window_seconds | from an impression to its first row; `fnw`, `fnc`, `wait` and `sliver` have no window |
    | horizon_seconds | from an impression to the last positive event that counts; of `window` it is the window |

    Raises:
        SettingsError: a value cannot be used.
    """

    name: str
    positive: tuple[str, ...]
    opens: tuple[str, ...] = ("impression",)
    exits: tuple[str, ...] = ("exit",)
    policy: str = "sliver"
    window_seconds: int = 900
    horizon_seconds: int = 3_600

    def __post_init__(self) -> None:
        if not self.name:
            raise SettingsError("`name` of a label must not be empty")
        if self.policy not in POLICIES:
            raise SettingsError(f"`policy` of label {self.name} must be one of {', '.join(POLICIES)}, got {self.policy}")
        for setting in ("window_seconds", "horizon_seconds"):
            if not 0 < getattr(self, setting) <= MOST_SECONDS:
                raise SettingsError(f"`{setting}` of label {self.name} must be in 1..{MOST_SECONDS}, got {getattr(self, setting)}")
        if self.policy in TWO_STEPS and self.horizon_seconds < self.window_seconds:
            told = f"got {self.horizon_seconds} and {self.window_seconds}"
            raise SettingsError(f"`horizon_seconds` of label {self.name} must be at least `window_seconds`, {told}")
        self._check_types()

    def _check_types(self) -> None:
        for setting in ("positive", "opens"):
            if not getattr(self, setting):
                raise SettingsError(f"`{setting}` of label {self.name} must name an event type")
        seen: dict[str, str] = {}
        for setting, type_ in self._named():
            if type_ in seen:
                raise SettingsError(f"`{setting}` of label {self.name} names {type_}, which `{seen[type_]}` names too")
            seen[type_] = setting

    def _named(self) -> list[tuple[str, str]]:
        """(setting, event type) of every type that the policy looks at."""
        settings = ("positive", "opens", "exits") if self.policy == POLICIES[SLIVER] else ("positive", "opens")
        return [(setting, type_) for setting in settings for type_ in getattr(self, setting)]

    def rule(self, types: Sequence[str]) -> Rule:
        """The label for the kernel, whose events have codes into `types`.

        Raises:
            SettingsError: `positive` or `opens` names a type that is not among them.
        """
        policy, horizon_ms = POLICIES.index(self.policy), self.horizon_seconds * MS
        window_ms = self.window_seconds * MS
        if policy == WINDOW:
            horizon_ms = window_ms
        timers = _timers(policy, window_ms, horizon_ms)
        table = np.full((STATES, 3), NO_ROW, dtype=np.int64)
        for state, timer in timers.items():
            table[state] = timer
        start = FRESH if FRESH in timers else TOLD
        after_late = MATURING_LATE if MATURING_LATE in timers else OVER_POSITIVE
        in_time_ms = horizon_ms if policy in (WAIT, SLIVER) else window_ms
        grid_ms = SLIVER_MS if policy == SLIVER else 1
        waits_ms, kinds, nexts = (np.ascontiguousarray(column) for column in table.T)
        return Rule(self._roles(types), waits_ms, kinds, nexts, start, after_late, in_time_ms, horizon_ms, grid_ms)

    def _roles(self, types: Sequence[str]) -> np.ndarray:
        roles, codes = np.full(len(types), NOTHING, dtype=np.int64), {type_: code for code, type_ in enumerate(types)}
        for setting, type_ in self._named():
            if type_ in codes:
                roles[codes[type_]] = {"opens": OPENS, "positive": POSITIVE, "exits": EXITS}[setting]
            elif setting != "exits":
                raise SettingsError(f"`{setting}` of label {self.name} names {type_}, which is none of {', '.join(types)}")
        return roles


@dataclass(frozen=True)
class JoinConfig:
    """The labels, and how many impressions each remembers.

    Raises:
        SettingsError: a value cannot be used.
    """

    labels: tuple[LabelConfig, ...]
    max_open: int = 1 << 20  # per label

    def __post_init__(self) -> None:
        names = [label.name for label in self.labels]
        if not names or len(set(names)) != len(names):
            raise SettingsError(f"`labels` must name at least one label, none twice, got {names}")
        if not 0 < self.max_open <= MOST_OPEN:
            raise SettingsError(f"`max_open` must be between 1 and {MOST_OPEN}, got {self.max_open}")

    def check(self, types: Sequence[str]) -> None:
        """See that every label can come about.

        Raises:
            SettingsError: a label needs an event type that is not among them.
        """
        for label in self.labels:
            label.rule(types)

    @property
    def types(self) -> tuple[str, ...]:
        """Every event type that a label looks at, once."""
        return tuple(dict.fromkeys(type_ for label in self.labels for _, type_ in label._named()))

    @property
    def identity(self) -> dict[str, Any]:
        """What shapes the state, as a snapshot gives it back: changing it is a rebuild."""
        settings = {"labels": [asdict(label) for label in self.labels], "max_open": self.max_open}
        told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
        return told


def _timers(policy: int, window_ms: int, horizon_ms: int) -> _Timers:
    """What is due in each state that the policy has."""
    if policy in (FNW, FNC):
        return {TOLD: (horizon_ms, NO_ROW, OVER_NEGATIVE)}
    if policy == WAIT:
        return {FRESH: (horizon_ms, FINAL_NEGATIVE, OVER_NEGATIVE), IN_TIME: (horizon_ms, FINAL_POSITIVE, OVER_POSITIVE)}
    if policy == SLIVER:
        return {
            FRESH: (horizon_ms, FINAL_NEGATIVE, OVER_NEGATIVE),
            LEFT: (FROM_EVENT, FINAL_NEGATIVE, OVER_NEGATIVE),
            IN_TIME: (FROM_EVENT, IN_WINDOW, OVER_POSITIVE),
        }
    if policy == WINDOW:
        return {FRESH: (window_ms, NEGATIVE, OVER_NEGATIVE), IN_TIME: (window_ms, IN_WINDOW, OVER_POSITIVE)}
    return _two_steps(policy, window_ms, horizon_ms)


def _two_steps(policy: int, window_ms: int, horizon_ms: int) -> _Timers:
    """Of the policies that tell at the window and may tell more up to the horizon."""
    matures = policy in (ES_DFM, DEFER, DEFUSE)
    timers = {
        FRESH: (window_ms, NEGATIVE, TOLD),
        TOLD: (horizon_ms, NO_ROW, OVER_NEGATIVE),
        IN_TIME: (window_ms, IN_WINDOW, MATURING_IN_WINDOW if matures else OVER_POSITIVE),
        AHEAD: (window_ms, NEGATIVE, AHEAD_TOLD),
        AHEAD_TOLD: (FROM_EVENT, LATE, MATURING_LATE if matures else OVER_POSITIVE),
    }
    if matures:
        positive, negative = (FINAL_POSITIVE, FINAL_NEGATIVE) if policy == DEFER else (MATURED_IN_WINDOW, MATURED_NEGATIVE)
        timers[TOLD] = (horizon_ms, negative, OVER_NEGATIVE)
        timers[MATURING_IN_WINDOW] = (horizon_ms, positive, OVER_POSITIVE)
        timers[MATURING_LATE] = (horizon_ms, MATURED_LATE, OVER_POSITIVE)
    return timers
