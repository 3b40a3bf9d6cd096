"""How far ingest is behind its input, and whether anybody works on the stages: measured now and then, beside the work.

The stages measure their own lag (`streams.worker`, `streams.feed`); that a group of workers has no member left, none of them can tell.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from core.position import Upstream
from monitoring.metrics import Metrics
from streams import pipeline, topics
from streams.settings import Settings

log = logging.getLogger(__name__)
LAG_SECONDS = 5.0
MEMBERS_SECONDS = 15.0  # a connection of its own each time


async def every(seconds: float, measure: Callable[[], Awaitable[None]]) -> None:
    """Measure again and again; a cluster that does not answer costs a figure, no more."""
    while True:
        try:
            await measure()
        except Exception as error:  # noqa: BLE001  # whatever it was, the work goes on
            log.warning("a figure is not known: %s failed with %r", measure.__qualname__, error)
        await asyncio.sleep(seconds)


class SourceLag:
    """Kafka's end of each source partition against what ingest has packed: `ends`, which goes on beside us."""

    def __init__(self, consumer: AIOKafkaConsumer, ends: Mapping[Upstream, int], metrics: Metrics) -> None:
        self._consumer, self._ends, self._metrics = consumer, ends, metrics
        self._seen_ms = dict.fromkeys(ends, int(time.time() * 1000))

    def saw(self, source: Upstream, timestamp_ms: int) -> None:
        """The Kafka timestamp of the last record taken."""
        self._seen_ms[source] = timestamp_ms

    async def measure(self) -> None:
        tps = {source: TopicPartition(source.topic, source.partition) for source in self._ends}
        ends = await self._consumer.end_offsets(list(tps.values()))
        for source, tp in tps.items():
            behind = max(0, ends[tp] - self._ends[source])
            seconds = time.time() - self._seen_ms[source] / 1000 if behind else 0.0
            self._metrics.lag("ingest", source.topic, source.partition, behind, seconds)


class Members:
    """Kafka's count of the workers of each stage."""

    def __init__(self, s: Settings, metrics: Metrics) -> None:
        self._s, self._metrics = s, metrics

    async def measure(self) -> None:
        for stage, count in (await asyncio.to_thread(self._count)).items():
            self._metrics.members(stage, count)

    def _count(self) -> dict[str, int]:
        with topics.admin(self._s) as cluster:
            return {stage: cluster.members(f"{self._s.namespace}{stage}") for stage in (pipeline.FEATURES, pipeline.LEARNER)}
