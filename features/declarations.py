"""The features, declared once: what their names are, what they count, over which time, in which unit.

Stored rows, the columns of `examples`, their documentation and what a checkpoint is checked against all follow from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from core.errors import SettingsError
from core.schemas import EVENT_TYPES

BUCKETS = 10  # of a window
MOST_SECONDS = 10 * 366 * 86_400
MAX_TYPES = 63  # a type is a bit of a word, and its code one byte in stored rows
BEHAVIOURS: Mapping[str, tuple[str, ...]] = {
    "shown": ("impression",),
    "engaged": ("click", "view", "enter"),
    "positive": ("like", "follow", "comment", "share", "cart", "favourite"),
    "bought": ("purchase",),
}
LONG_VIEW, DWELL = "viewed_long", "viewed_seconds"  # signals that a `view` gives beside its own
MOST_DWELL_SECONDS = 86_400.0  # of one view: producers may send any number, and a sum must stay one
ANY = "any"  # event at all, beside the behaviours


class Feature(NamedTuple):
    """One column of features."""

    name: str
    entity: str  # whose it is
    kind: str  # decayed, window, age, rate, distinct, session, affinity, room
    types: tuple[str, ...]  # event types that change it
    seconds: int | None  # half-life, length of a window, gap of a session; None where there is none
    unit: str
    says: str


class Rate(NamedTuple):
    """A smoothed quotient of two decayed signals: (above + strength x prior) / (below + strength)."""

    name: str
    above: str
    below: str
    prior: float
    strength: float
    unit: str
    says: str


RATES = (
    Rate("ctr", "click", "impression", 0.1, 10.0, "clicks per impression", "smoothed click-through rate"),
    Rate("long_view_rate", LONG_VIEW, "view", 0.3, 5.0, "long views per view", "smoothed share of views that were long"),
    Rate("mean_dwell", DWELL, "view", 10.0, 1.0, "seconds per view", "smoothed mean length of a view"),
)


@dataclass(frozen=True)
class EntityConfig:
    """What is counted of every user, item, author and category.

    | setting | meaning |
    |---|---|
    | types | event types, each counted |
    | half_lives_seconds | of the decayed counters; the longest is that of the rates |
    | windows_seconds | of the sliding windows, each of BUCKETS buckets |
    | behaviours | groups of types that are counted in windows, and whose last event is remembered |
    | distinct | what is counted once, where anything is: "items" of a user, "users" of the others |
    | session_gap_seconds | events of a user further apart are two sessions; 0: no sessions |
    | long_view_seconds | a view from there on is a long one |

    Raises:
        SettingsError: a value cannot be used.
    """

    types: tuple[str, ...] = EVENT_TYPES
    half_lives_seconds: tuple[int, ...] = (60, 600, 3_600, 86_400)
    windows_seconds: tuple[int, ...] = (300, 3_600)
    behaviours: tuple[tuple[str, tuple[str, ...]], ...] = tuple(BEHAVIOURS.items())
    distinct: str = "users"
    session_gap_seconds: int = 0
    long_view_seconds: int = 10

    def __post_init__(self) -> None:
        if len(set(self.types)) != len(self.types) or len(self.types) > MAX_TYPES:
            raise SettingsError(f"`types` must name at most {MAX_TYPES} event types, none twice, got {self.types}")
        if taken := {LONG_VIEW, DWELL} & {*self.types}:
            raise SettingsError(f"`types` must not name {sorted(taken)}: signals that a view gives are called so")
        names = [name for name, _ in self.behaviours]
        if len({*names, ANY}) != len(names) + 1 or len(names) > MAX_TYPES:
            raise SettingsError(f"`behaviours` must have at most {MAX_TYPES} names, none twice, none `{ANY}`, got {names}")
        for name in ("half_lives_seconds", "windows_seconds"):
            told = getattr(self, name)
            if not told or min(told) <= 0 or max(told) > MOST_SECONDS or len(set(told)) != len(told):
                raise SettingsError(f"`{name}` must be numbers in 1..{MOST_SECONDS}, none twice, got {told}")
        if any(seconds % BUCKETS for seconds in self.windows_seconds):
            raise SettingsError(f"`windows_seconds` must be multiples of {BUCKETS}, got {self.windows_seconds}")
        if self.session_gap_seconds < 0 or self.long_view_seconds <= 0:
            told = f"got {self.session_gap_seconds} and {self.long_view_seconds}"
            raise SettingsError(f"`session_gap_seconds` must not be negative, `long_view_seconds` must be positive, {told}")

    @property
    def signals(self) -> tuple[str, ...]:
        """What is counted with decay: a number of times per type, and two sums over views."""
        return (*self.types, LONG_VIEW, DWELL) if "view" in self.types else self.types

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Those of which both signals are counted."""
        return tuple(rate for rate in RATES if {rate.above, rate.below} <= {*self.signals})

    def features(self, entity: str) -> list[Feature]:
        """The columns of one entity, in order."""
        return [
            *self._decayed(entity),
            *self._windows(entity),
            *self._ages(entity),
            *self._rates(entity),
            *self._distinct(entity),
            *self._session(entity),
        ]

    def _decayed(self, entity: str) -> list[Feature]:
        units = {DWELL: "seconds", LONG_VIEW: "views"}
        says = {DWELL: "time viewed, a day at most each", LONG_VIEW: f"views of at least {self.long_view_seconds} s"}
        return [
            Feature(
                f"{entity}_{signal}_{seconds}s", entity, "decayed", ("view",) if signal in units else (signal,), seconds,
                units.get(signal, "events"), says.get(signal, f"{signal} events") + ", halved with every half-life",
            )
            for signal in self.signals
            for seconds in self.half_lives_seconds
        ]  # fmt: skip

    def _windows(self, entity: str) -> list[Feature]:
        return [
            Feature(
                f"{entity}_{name}_last_{seconds}s", entity, "window", types, seconds, "events",
                f"{name} events in a sliding window, exact to a tenth of it",
            )
            for seconds in self.windows_seconds
            for name, types in self.behaviours
        ]  # fmt: skip

    def _ages(self, entity: str) -> list[Feature]:
        every = [(ANY, self.types), *self.behaviours]
        return [
            Feature(f"{entity}_since_{name}", entity, "age", types, None, "seconds", f"since the newest {name} event; NaN: none yet")
            for name, types in every
        ]

    def _rates(self, entity: str) -> list[Feature]:
        longest = max(self.half_lives_seconds)
        return [
            Feature(
                f"{entity}_{rate.name}", entity, "rate", tuple(dict.fromkeys((_type(rate.above), _type(rate.below)))), longest, rate.unit,
                f"{rate.says}: ({rate.above} + {rate.strength * rate.prior:g}) / ({rate.below} + {rate.strength:g})",
            )
            for rate in self.rates
        ]  # fmt: skip

    def _distinct(self, entity: str) -> list[Feature]:
        says = f"different {self.distinct}, about (standard error 9 %)"
        return [Feature(f"{entity}_distinct_{self.distinct}", entity, "distinct", self.types, None, self.distinct, says)]

    def _session(self, entity: str) -> list[Feature]:
        gap = self.session_gap_seconds
        if not gap:
            return []
        ends = f"a session ends after {gap} s without an event"
        return [
            Feature(f"{entity}_session_events", entity, "session", self.types, gap, "events", f"events of the session so far; {ends}"),
            Feature(f"{entity}_session_seconds", entity, "session", self.types, gap, "seconds", f"since the session began; {ends}"),
        ]


def _type(signal: str) -> str:
    return "view" if signal in (LONG_VIEW, DWELL) else signal


AFFINITY_LIVES_SECONDS = (3_600, 86_400)
AFFINITY_SLOTS = 8  # categories remembered of a user


def affinity_features(behaviours: Sequence[tuple[str, tuple[str, ...]]]) -> list[Feature]:
    """Of a user and the category of the event's item."""
    return [
        Feature(
            f"user_category_{name}_{seconds}s", "user x category", "affinity", types, seconds, "events",
            f"the user's {name} events with the category of the item, halved with every half-life",
        )
        for name, types in behaviours
        for seconds in AFFINITY_LIVES_SECONDS
    ]  # fmt: skip


STEP_FEATURES = (
    Feature(
        "steps_from_last", "user x item", "co-visitation", (), None, "steps",
        "steps of all users from this user's last item to this one within a session, halved every day; 0: none, or longer ago",
    ),
)  # fmt: skip
ROOM_FEATURES = (
    Feature("item_age", "item", "room", (), None, "seconds", "since the item was first seen, or its `start`"),
    Feature("room_open", "item", "room", (), None, "0 or 1", "whether the event lies between `start` and `end` of the catalogue"),
    Feature("room_viewers", "item", "room", ("enter", "exit"), None, "users", "enter events less exit events, at least 0"),
)
