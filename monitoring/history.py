"""The last quarter of an hour of what the processes measured, as rates, quantiles and shares that a curve can show."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from monitoring.scrape import Reading

KEPT_SECONDS = 900.0
RATE_SECONDS = 10.0
FRESHNESS_SECONDS = 60.0
QUALITY_SECONDS = 300.0
RATED = ("events", "messages", "token_changes")
HELD = ("lag_records", "lag_seconds", "loss", "utilisation", "collisions", "distortion", "tokenized_rows")
MAXIMAL = ("lag_seconds", "loss", "utilisation", "collisions", "distortion")  # over several processes; the others are summed

Point = dict[str, float]


class Sample(NamedTuple):
    """Totals at a time, and the processes that answered then."""

    at: float
    totals: dict[str, float]
    answered: frozenset[str]


class Totals:
    """Counters of several processes that only rise, whichever of them starts again from 0."""

    def __init__(self) -> None:
        self._seen: dict[str, Reading] = {}
        self._totals: dict[str, float] = {}
        self._owners: dict[str, set[str]] = {}  # key -> the processes that count it

    def take(self, target: str, reading: Reading) -> None:
        """What a process counted before we first looked at it is nobody's rate."""
        before = self._seen.get(target, reading)
        restarted = reading.gauges.get("started") != before.gauges.get("started")
        for key, value in reading.counters.items():
            seen = before.counters.get(key, 0.0)
            rise = value if restarted or value < seen else value - seen
            self._totals[key] = self._totals.get(key, 0.0) + rise
            self._owners.setdefault(key, set()).add(target)
        self._seen[target] = reading

    def sample(self, at: float, answered: Iterable[str]) -> Sample:
        return Sample(at, dict(self._totals), frozenset(answered))

    def knows(self, sample: Sample, key: str) -> bool:
        """Whether a process that counts it answered; one without a series of it yet has counted none."""
        return not self._owners.get(key, set()).isdisjoint(sample.answered)


class History:
    """Points of KEPT_SECONDS, computed as samples come in. What is not known at a time is absent from its point, never 0."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._samples: deque[Sample] = deque()
        self._points: deque[tuple[float, Point]] = deque()

    def add(self, at: float, readings: Mapping[str, Reading]) -> None:
        """Take what was read at that time (seconds): target -> reading, without the targets that do not answer."""
        for target, reading in readings.items():
            self.totals.take(target, reading)
        self._samples.append(self.totals.sample(at, readings))
        while self._samples[0].at < at - QUALITY_SECONDS - RATE_SECONDS:
            self._samples.popleft()
        self._points.append((at, self._point(readings.values())))
        while self._points[0][0] < at - KEPT_SECONDS:
            self._points.popleft()

    def since(self, at: float) -> list[tuple[float, Point]]:
        """The points that are newer."""
        return list(self._points)[bisect_right(self._points, at, key=lambda point: point[0]) :]

    def _point(self, readings: Iterable[Reading]) -> Point:
        return {**self._rates(), **self._freshness(), **self._quality(), **gauges(readings)}

    def _rise(self, key: str, seconds: float) -> tuple[float, float] | None:
        """How much a total rose over about these last seconds, and over how many; None where that is not known."""
        now = self._samples[-1]
        known = [sample for sample in self._samples if self.totals.knows(sample, key)]
        if len(known) < 2 or known[-1] is not now:
            return None
        before = [sample for sample in known if sample.at <= now.at - seconds]
        base = before[-1] if before else known[0]
        return now.totals[key] - base.totals.get(key, 0.0), now.at - base.at

    def _rates(self) -> Point:
        """Per second."""
        keys = [key for key in self._samples[-1].totals if key.partition("/")[0] in RATED]
        rises = {key: self._rise(key, RATE_SECONDS) for key in keys}
        return {key: rise[0] / rise[1] for key, rise in rises.items() if rise}

    def _freshness(self) -> Point:
        """Seconds at the median and at p99, and events/s behind them."""
        bounds = sorted((float(key.partition("/")[2]), key) for key in self._samples[-1].totals if key.startswith("freshness/"))
        rises = [self._rise(key, FRESHNESS_SECONDS) for _, key in bounds]
        buckets = [(bound, rise[0]) for (bound, _), rise in zip(bounds, rises, strict=True) if rise]
        if not buckets or not buckets[-1][1]:
            return {}
        return {"freshness/p50": quantile(buckets, 0.5), "freshness/p99": quantile(buckets, 0.99), "freshness/events": buckets[-1][1]}

    def _quality(self) -> Point:
        """Shares of the clicks of the last minutes, and how many these are."""
        judged = self._rise("judged", QUALITY_SECONDS)
        if not judged:
            return {}
        clicks, point = judged[0], {"clicks": judged[0]}
        for key, told in (("hits", "hit_rate"), ("ranks", "mrr")):
            for name in ("served", "popular"):
                rise = self._rise(f"{key}/{name}", QUALITY_SECONDS)
                if rise and clicks:
                    point[f"{told}/{name}"] = rise[0] / clicks
        return point


def gauges(readings: Iterable[Reading]) -> Point:
    """What several processes measure, as one."""
    held: Point = {}
    for reading in readings:
        for key, value in reading.gauges.items():
            kind = key.partition("/")[0]
            if kind in HELD:
                held[key] = max(held.get(key, -math.inf), value) if kind in MAXIMAL else held.get(key, 0.0) + value
    return held


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """A quantile of a histogram whose (upper bound, cumulated count) pairs end with infinity; within a bucket all values are as likely.

    In the last bucket it is the greatest bound that is known: the truth is above it.
    """
    wanted = share * buckets[-1][1]
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / max(count - below, 1e-12)
        low, below = bound, count
    return low
