"""How fast a log goes out: as fast as it can, so many events a second, or with its own event time n times as fast as the wall clock."""

import re
import time
from collections.abc import Callable, Iterator

import numpy as np

from core.errors import SettingsError

PAUSE_SECONDS = 0.2  # of waiting at a time, so that a bar goes on and a signal is seen
SHORTEST_SECONDS = 0.001
FASTEST = "max"
_TIMES = re.compile(r"(\d+(?:\.\d+)?)x")


class Pace:
    """As fast as it can. Subclasses say when an event is due."""

    unit = ""  # of `behind`

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._now, self._sleep = now, sleep
        self._started: float | None = None
        self._next_seconds = -np.inf  # when the next event is due, after the start

    def runs(self, ts_ms: np.ndarray) -> Iterator[slice]:
        """The next n events in runs, each as soon as it is due; an empty run now and then while none is.

        Args:
            ts_ms: int64 [n], event times; -1 where there is none: such an event is due with the one before it.
        """
        due, at = self._due_seconds(ts_ms), 0
        while at < ts_ms.size:
            self._next_seconds = float(due[at])
            stop = at + int(np.searchsorted(due[at:], self._elapsed(), side="right"))
            yield slice(at, stop)
            if stop == at:
                self._sleep(min(PAUSE_SECONDS, max(SHORTEST_SECONDS, self._next_seconds - self._elapsed())))
            at = stop

    def _due_seconds(self, ts_ms: np.ndarray) -> np.ndarray:
        """float64 [n], never falling: when each is due, after the start."""
        return np.full(ts_ms.size, -np.inf)

    def _elapsed(self) -> float:
        if self._started is None:
            self._started = self._now()
        return self._now() - self._started

    @property
    def behind(self) -> float:
        """How far behind the pace it is, in `unit`."""
        return max(0.0, self._elapsed() - self._next_seconds) if np.isfinite(self._next_seconds) else 0.0


class EventPace(Pace):
    """Event time runs `speed` times as fast as the wall clock, from the first event on that has a time."""

    unit = "s of event time"

    def __init__(self, speed: float, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(now, sleep)
        self._speed, self._first_ms, self._last_ms = speed, -1, -1

    def _due_seconds(self, ts_ms: np.ndarray) -> np.ndarray:
        times = np.maximum.accumulate(np.concatenate([[self._last_ms], ts_ms]))
        self._last_ms = int(times[-1])
        if self._first_ms < 0 and (known := times[times >= 0]).size:
            self._first_ms = int(known[0])
        due: np.ndarray = np.maximum(times[1:] - self._first_ms, 0) / (1_000 * self._speed)
        return due

    @property
    def behind(self) -> float:
        return super().behind * self._speed


class RatePace(Pace):
    """So many events a second."""

    unit = "s"

    def __init__(self, rate: float, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(now, sleep)
        self._rate, self._events = rate, 0

    def _due_seconds(self, ts_ms: np.ndarray) -> np.ndarray:
        first, self._events = self._events, self._events + ts_ms.size
        return np.arange(first, self._events) / self._rate


def pace_of(speed: str, rate: float = 0.0) -> Pace:
    """The pace that `--speed` and `--rate` ask for.

    Raises:
        SettingsError: `speed` is none, or both are given.
    """
    times = _TIMES.fullmatch(speed)
    if speed != FASTEST and (times is None or float(times[1]) == 0):
        raise SettingsError(f"--speed {speed}: give max, or how many times as fast as event time, such as 1x or 60x")
    if times is not None and rate:
        raise SettingsError(f"--rate {rate:g} and --speed {speed} both say how fast; give one of them, or --speed max")
    if times is not None:
        return EventPace(float(times[1]))
    return RatePace(rate) if rate else Pace()
