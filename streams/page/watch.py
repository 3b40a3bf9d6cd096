"""Looks at the processes again and again: often while somebody looks at the page, seldom otherwise."""

import asyncio
import time
from collections.abc import Callable, Mapping

from monitoring.history import History, Point
from monitoring.scrape import TIMEOUT_SECONDS, Reading, ScrapeError, reason, scrape
from streams.page.threads import Threads

WATCHED_SECONDS, ALONE_SECONDS = 2.0, 10.0  # between two samples
ATTENTION_SECONDS = 10.0  # after the last look at the page
DIGITS = 4
THREADS = 8


class Watch:
    """Samples the targets: process -> URL of its /metrics."""

    def __init__(self, targets: Mapping[str, str], read: Callable[[str], Reading] = scrape) -> None:
        self._targets, self._read = targets, read
        self.history = History()
        self._readings: dict[str, Reading] = {}
        self._errors: dict[str, str] = {}
        self._looked = asyncio.Event()
        self._looked_at = self._sampled_at = float("-inf")  # monotonic seconds
        self._clock_offset = time.time() - time.monotonic()  # Unix times that never go back
        self._threads = Threads("scrape", THREADS)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._sampled_at = time.monotonic()
                await self.sample(self._clock_offset + self._sampled_at)
                await self._pause()
        finally:
            self._threads.close()

    async def _pause(self) -> None:
        """Somebody who comes to the page does not wait for the end of a long pause."""
        while (left := self._sampled_at + self._interval() - time.monotonic()) > 0:
            self._looked.clear()
            try:
                await asyncio.wait_for(self._looked.wait(), left)
            except TimeoutError:
                return

    def _interval(self) -> float:
        return WATCHED_SECONDS if time.monotonic() - self._looked_at < ATTENTION_SECONDS else ALONE_SECONDS

    async def sample(self, at: float) -> None:
        """Read all targets, each for itself. A hung one costs its timeout, not the others' samples."""
        await asyncio.gather(*(self._look_at(name, url) for name, url in self._targets.items()))
        self.history.add(at, self._readings)

    async def _look_at(self, name: str, url: str) -> None:
        try:
            self._readings[name] = await self._threads.run(lambda: self._read(url), 2 * TIMEOUT_SECONDS)
            self._errors.pop(name, None)
        except (ScrapeError, TimeoutError) as error:
            self._readings.pop(name, None)
            self._errors[name] = f"{url} does not answer: {reason(error)}"

    def state(self, since: float) -> dict[str, object]:
        """The processes, and the points that are newer (Unix seconds), as columns; somebody looks at the page."""
        self._looked_at = time.monotonic()
        self._looked.set()
        return {
            "processes": [self._process(name) for name in self._targets],
            "broker_restarts": self._restarts("broker"),
            "columns": _columns(self.history.since(since)),
        }

    def _process(self, name: str) -> dict[str, object]:
        reading = self._readings.get(name)
        up = None if reading is None and name not in self._errors else reading is not None
        started = reading.gauges.get("started") if reading else None
        return {"name": name, "up": up, "error": self._errors.get(name), "started": started, "restarts": self._restarts(name)}

    def _restarts(self, name: str) -> float | None:
        """As the supervisor counts them, which is one of the targets where there is one."""
        known = [reading.gauges for reading in self._readings.values() if any(key.startswith("restarts/") for key in reading.gauges)]
        return sum(found.get(f"restarts/{name}", 0.0) for found in known) if known else None


def _columns(points: list[tuple[float, Point]]) -> dict[str, list[float | None]]:
    """Times under `t`, then a column for each name that any point has; null where one has none."""
    names = sorted({name for _, point in points for name in point})
    columns: dict[str, list[float | None]] = {"t": [round(at, 3) for at, _ in points]}
    for name in names:
        columns[name] = [_rounded(point.get(name)) for _, point in points]
    return columns


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
