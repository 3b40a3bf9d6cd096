"""Keeps a ParameterCache up to date from Kafka, on a thread of its own beside the readers."""

import logging
import threading
import time

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from core.errors import FreshetError
from learners.cache import ParameterCache
from monitoring.metrics import Metrics
from streams.following import Follower
from streams.parameters import Assembler
from streams.reading import at, consumer, release
from streams.settings import Settings

log = logging.getLogger(__name__)
MEASURE_SECONDS = 5.0  # between two looks at the cache's size


class FreshnessWindow:
    """The last events' freshness, for exact quantiles; the histogram of the metrics is coarser and covers all time."""

    def __init__(self, size: int = 1 << 16) -> None:
        self._seconds = np.zeros(size, dtype=np.float64)
        self._count = 0

    def add(self, seconds: np.ndarray) -> None:
        at = (self._count + np.arange(seconds.size)) % self._seconds.size
        self._seconds[at] = seconds
        self._count += seconds.size

    def values(self) -> np.ndarray:
        """float64 [n], seconds, in no order."""
        return self._seconds[: min(self._count, self._seconds.size)].copy()

    def quantiles(self) -> dict[str, float]:
        """Milliseconds at p50 and p99, and how many events they are over."""
        held = self.values()
        if not held.size:
            return {"events": 0}
        p50, p99 = np.quantile(held, [0.5, 0.99]) * 1000
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "events": held.size}


class ParameterFeed:
    """Reads `parameters` from its start, then follows it. `waiting()` says why the cache is not ready, None once it is."""

    def __init__(self, s: Settings, cache: ParameterCache, metrics: Metrics) -> None:
        self.s, self.cache, self.metrics = s, cache, metrics
        self._state: str | None = "the parameters feed has not started"
        self.freshness = FreshnessWindow()
        self._follower = Follower("parameters", self._follow, self._failed)

    def start(self) -> None:
        self._follower.start()

    def stop(self) -> None:
        self._follower.stop()

    def waiting(self) -> str | None:
        return self._state

    def status(self, reset: bool = False, freshness: bool = True) -> dict[str, object]:
        """Per writer, rows of its input that are visible, and how many of these producers sent; the `freshness` of the last events.

        `reset` forgets these.
        """
        if reset:
            self.freshness = FreshnessWindow()
        told: dict[str, object] = {"waiting": self._state, "versions": self.cache.versions, "learned": self.cache.learned}
        return {**told, "freshness_ms": self.freshness.quantiles()} if freshness else told

    def _failed(self, error: Exception) -> None:
        """The cache goes on answering from what it has while Kafka is away."""
        self._state = f"the parameters feed failed and tries again: {error}"
        log.warning("%s", self._state)

    async def _follow(self, stop: threading.Event) -> None:
        reader = consumer(self.s)
        await reader.start()
        try:
            tp = TopicPartition(self.s.parameters_topic, 0)
            end = (await reader.end_offsets([tp]))[tp]
            at(reader, await reader.beginning_offsets([tp]))
            await self._read(reader, tp, end, stop)
        finally:
            await release(reader)

    async def _read(self, reader: AIOKafkaConsumer, tp: TopicPartition, caught_up: int, stop: threading.Event) -> None:
        """Apply publications as they come; ready once what was there at the start is applied."""
        assembler, live, measure_at, seen_seconds = Assembler(), False, 0.0, time.time()
        self._state = f"reading {caught_up} records of parameters"
        while not stop.is_set():
            for record in (await reader.getmany(tp, timeout_ms=200)).get(tp, ()):
                self._take(assembler, record, live)
                seen_seconds = record.timestamp / 1000
            if time.monotonic() >= measure_at:
                measure_at = time.monotonic() + MEASURE_SECONDS
                await self._measure(reader, tp, seen_seconds)
            if not live and await reader.position(tp) >= caught_up:
                live, self._state = True, None

    async def _measure(self, reader: AIOKafkaConsumer, tp: TopicPartition, seen_seconds: float) -> None:
        """What the cache holds, and how far it is behind the newest record of `parameters`."""
        for table, size in self.cache.sizes.items():
            self.metrics.cached(table, size.rows, size.bytes)
        behind = max(0, (reader.highwater(tp) or 0) - await reader.position(tp))
        self.metrics.lag("server", tp.topic, tp.partition, behind, time.time() - seen_seconds if behind else 0.0)

    def _take(self, assembler: Assembler, record: object, live: bool) -> None:
        try:
            found = assembler.add(record.value, record.headers)  # type: ignore[attr-defined]  # untyped client
        except FreshetError as error:
            log.warning("a record of parameters is passed over: %s", error)
            return
        if found is None:
            return
        part, publication = found
        applied = self.cache.apply(part.writer, publication, part.lineage)
        self.metrics.refused("nonfinite", applied.nonfinite)
        self.metrics.refused("stale", applied.stale)
        self.metrics.applied(part.writer, publication.version)
        if live:  # a backlog says nothing about freshness
            seconds = time.time() - publication.sent_ms.astype(np.float64) / 1000
            self.metrics.visible(seconds)
            self.freshness.add(seconds)
