"""Scales of plots: where round numbers and round times lie."""

import datetime
import math
from collections.abc import Sequence
from typing import NamedTuple

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
STEPS_MS = tuple(
    HOUR_MS * hours for hours in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 24 * 30, 24 * 61, 24 * 91, 24 * 182, 24 * 365, 24 * 730, 24 * 1826)
)


class Tick(NamedTuple):
    at: float
    text: str


class Scale(NamedTuple):
    """From values to places in a picture, with its ticks."""

    low: float
    high: float
    ticks: list[Tick]
    start: float  # place of `low`
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.stop - self.start), 1)


def numbers(values: Sequence[float], start: float, stop: float, most: int = 5) -> Scale:
    """A scale over finite values whose ends are ticks; it reaches down to 0 where that costs less than half of it."""
    low, high = min(values), max(values)
    low = 0.0 if 0 < low < 0.5 * high else low
    step = round_step((high - low) / most or abs(high) / most or 1.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return Scale(first * step, last * step, [Tick(k * step, f"{k * step:.{digits}f}") for k in range(first, last + 1)], start, stop)


def round_step(least: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1 - 1e-9))


def times(values: Sequence[int], start: float, stop: float, most: int = 6) -> Scale:
    """A scale over event times (ms): ticks at round UTC times."""
    low, high = min(values), max(values)
    step = next((step for step in STEPS_MS if (high - low) / step <= most), STEPS_MS[-1])
    first = math.ceil(low / step)
    ticks = [Tick(at * step, clock(at * step, step)) for at in range(first, high // step + 1)]
    return Scale(low, high, ticks, start, stop)


def clock(ts_ms: float, step_ms: float) -> str:
    """An event time as finely as ticks of that step need it: hours, days, months."""
    moment = datetime.datetime.fromtimestamp(ts_ms / 1000, datetime.UTC)
    if step_ms < DAY_MS:
        return f"{moment:%H:%M}" if ts_ms % DAY_MS else day(moment)
    return day(moment) if step_ms < 28 * DAY_MS else f"{moment:%b %Y}"


def day(moment: datetime.datetime) -> str:
    return f"{moment.day} {moment:%b}"
