"""The slow, obvious twins of what is counted: they keep every event and work out each feature when they are asked for it."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

from features.declarations import AFFINITY_LIVES_SECONDS, AFFINITY_SLOTS, BUCKETS, DWELL, LONG_VIEW, EntityConfig

MS = 1_000
REGISTERS = 128
WORD_BITS = 64

Behaviours = Sequence[tuple[str, tuple[str, ...]]]
T = TypeVar("T")


class Seen(NamedTuple):
    """An event, as one of its entities sees it."""

    ts_ms: int
    type: str | None
    value: float | None  # of a view its seconds
    other: int | None  # hash of what is counted once; 0 or None: nothing


def decayed(weights: Iterable[tuple[int, float]], seconds: int, as_of_ms: int) -> float:
    """The sum of (time, weight) pairs, each halved with every half-life that passed since its time."""
    return math.fsum(weight * 2.0 ** (-(as_of_ms - ts_ms) / (seconds * MS)) for ts_ms, weight in weights)


def registers(words: Iterable[int]) -> list[int]:
    """Of a HyperLogLog: the longest run of zeros and the one behind it, by the low bits of a hash, from its other end on."""
    ranks = [0] * REGISTERS
    for word in words:
        bits = format(word % (1 << WORD_BITS), f"0{WORD_BITS}b")[::-1]
        index, rest = int(bits[:7][::-1], 2), bits[7:]
        ranks[index] = max(ranks[index], rest.index("1") + 1 if "1" in rest else len(rest))
    return ranks


def estimate(ranks: Sequence[int]) -> float:
    """By the paper: the harmonic mean, or linear counting where that is small and a register is empty."""
    m, empty = len(ranks), list(ranks).count(0)
    raw = 0.7213 / (1 + 1.079 / m) * m**2 / math.fsum(2.0**-rank for rank in ranks)
    return m * math.log(m / empty) if raw <= 2.5 * m and empty else raw


class NaiveEntity:
    """One entity. `before` gives the columns of `config.features(entity)`, found by their names."""

    def __init__(self, config: EntityConfig, entity: str) -> None:
        self.config, self.entity = config, entity
        self.columns = [feature.name for feature in config.features(entity)]
        self.events: list[Seen] = []

    def learn(self, ts_ms: int, type_: str | None, value: float | None = None, other: int | None = None) -> None:
        self.events.append(Seen(ts_ms, type_, value, other))

    def before(self, ts_ms: int) -> list[float]:
        """What an event of that time finds."""
        found = self.told(ts_ms)
        return [found[name] for name in self.columns]

    def told(self, ts_ms: int) -> dict[str, float]:
        """The same by name."""
        parts = (self.counters, self.windows, self.ages, self.rates, self.distinct, self.session)
        return {f"{self.entity}_{name}": value for part in parts for name, value in part(ts_ms).items()}

    def counters(self, ts_ms: int) -> dict[str, float]:
        lives = self.config.half_lives_seconds
        return {f"{name}_{life}s": self.counter(name, life, ts_ms) for name in self.config.signals for life in lives}

    def counter(self, signal: str, life: int, ts_ms: int) -> float:
        as_of_ms = max([ts_ms, *(seen.ts_ms for seen in self.events)])
        return decayed([(seen.ts_ms, weight) for seen in self.events if (weight := self.weight(seen, signal))], life, as_of_ms)

    def weight(self, seen: Seen, signal: str) -> float:
        """What an event adds to a signal."""
        if signal in self.config.types:
            return float(seen.type == signal)
        seconds = seen.value if seen.value is not None and math.isfinite(seen.value) and seen.value >= 0 else 0.0
        if seen.type != "view":
            return 0.0
        return {DWELL: min(seconds, 86_400.0), LONG_VIEW: float(seconds >= self.config.long_view_seconds)}[signal]

    def windows(self, ts_ms: int) -> dict[str, float]:
        lengths = self.config.windows_seconds
        return {f"{name}_last_{s}s": self.window(types, s, ts_ms) for name, types in self.config.behaviours for s in lengths}

    def window(self, types: Collection[str], seconds: int, ts_ms: int) -> float:
        """Events in the BUCKETS buckets up to the newest one; an event that came when its bucket was over is in none."""
        head, kept, bucket_ms = 0, [], seconds * MS // BUCKETS
        for seen in self.events:
            bucket = seen.ts_ms // bucket_ms
            if self.counts(seen, types) and bucket > head - BUCKETS:
                kept.append(bucket)
            head = max(head, bucket)
        head = max(head, ts_ms // bucket_ms)
        return float(sum(head - BUCKETS < bucket <= head for bucket in kept))

    def counts(self, seen: Seen, types: Collection[str]) -> bool:
        return seen.type in self.config.types and seen.type in types

    def ages(self, ts_ms: int) -> dict[str, float]:
        """`any`: of all events, of whatever type."""
        times = {"any": [seen.ts_ms for seen in self.events]}
        for name, types in self.config.behaviours:
            times[name] = [seen.ts_ms for seen in self.events if self.counts(seen, types)]
        return {f"since_{name}": max(0, ts_ms - max(of)) / MS if of else math.nan for name, of in times.items()}

    def rates(self, ts_ms: int) -> dict[str, float]:
        """Over the longest half-life."""
        life, found = max(self.config.half_lives_seconds), {}
        for rate in self.config.rates:
            above, below = (self.counter(signal, life, ts_ms) for signal in (rate.above, rate.below))
            found[rate.name] = (above + rate.strength * rate.prior) / (below + rate.strength)
        return found

    def others(self) -> set[int]:
        return {seen.other for seen in self.events if seen.other}

    def distinct(self, _: int) -> dict[str, float]:
        return {f"distinct_{self.config.distinct}": estimate(registers(self.others()))}

    def session(self, ts_ms: int) -> dict[str, float]:
        """Events in the order in which they came; one that is no further than the gap behind the newest goes on with the session."""
        gap_ms, start_ms, newest_ms, events = self.config.session_gap_seconds * MS, -math.inf, -math.inf, 0
        if not gap_ms:
            return {}
        for seen in self.events:
            if seen.ts_ms - newest_ms > gap_ms:
                start_ms, events = seen.ts_ms, 0
            events, newest_ms = events + 1, max(newest_ms, seen.ts_ms)
        over = ts_ms - newest_ms > gap_ms
        return {"session_events": 0.0 if over else events, "session_seconds": 0.0 if over else max(0, ts_ms - start_ms) / MS}


class Slot(NamedTuple):
    """What is remembered of a category: every use, with the behaviours that it counts for."""

    category: int
    uses: list[tuple[int, list[str]]]

    @property
    def newest_ms(self) -> int:
        return max(ts_ms for ts_ms, _ in self.uses)


class NaiveAffinity:
    """One user's categories. `before` gives the columns of `affinity_features(behaviours)`.

    A new category takes the place of the one whose newest use is oldest, of equal ones of the first; any event with a category that is
    remembered is a use, but only one that counts for a behaviour makes room for its category.
    """

    def __init__(self, behaviours: Behaviours) -> None:
        self.behaviours = behaviours
        self.slots: list[Slot] = []

    def slot(self, category: int) -> Slot | None:
        return next((slot for slot in self.slots if slot.category == category), None)

    def before(self, ts_ms: int, category: int) -> list[float]:
        slot = self.slot(category)
        if slot is None or category == 0:
            return [0.0] * len(self.behaviours) * len(AFFINITY_LIVES_SECONDS)
        as_of_ms = max(ts_ms, slot.newest_ms)
        times = {name: [(use_ms, 1.0) for use_ms, of in slot.uses if name in of] for name, _ in self.behaviours}
        return [decayed(times[name], life, as_of_ms) for name, _ in self.behaviours for life in AFFINITY_LIVES_SECONDS]

    def learn(self, ts_ms: int, category: int, type_: str | None) -> None:
        of = [name for name, types in self.behaviours if type_ in types]
        slot = self.slot(category)
        if slot is not None:
            slot.uses.append((ts_ms, of))
        elif of and category:
            self.take(Slot(category, [(ts_ms, of)]))

    def take(self, slot: Slot) -> None:
        if len(self.slots) < AFFINITY_SLOTS:
            self.slots.append(slot)
        else:
            oldest = min(range(AFFINITY_SLOTS), key=lambda at: self.slots[at].newest_ms)
            self.slots[oldest] = slot


def last_events(events: Sequence[tuple[int, T]], room: int) -> list[tuple[int, T]]:
    """Of (time, what) pairs in the order in which they came: the newest first, of equal times the later one, at most `room`."""
    order = sorted(range(len(events)), key=lambda at: (events[at][0], at), reverse=True)
    return [events[at] for at in order[:room]]
