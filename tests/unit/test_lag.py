"""The lag of ingest against its own positions, and measuring that outlives a cluster which does not answer."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from aiokafka import TopicPartition
from prometheus_client import CollectorRegistry

from core.position import Upstream
from monitoring.metrics import Metrics
from streams.lag import SourceLag, every

FIRST, SECOND = Upstream("events", 0, "e"), Upstream("events", 1, "e")


class Ends:
    """Stands for the consumer: what Kafka says of the ends."""

    def __init__(self, ends: dict[int, int]) -> None:
        self._ends = ends

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self._ends[tp.partition] for tp in tps}


def test_lag_is_kafkas_end_less_what_was_packed() -> None:
    registry, packed = CollectorRegistry(), {FIRST: 40, SECOND: 7}
    lag = SourceLag(Ends({0: 100, 1: 7}), packed, Metrics(registry))
    lag.saw(FIRST, int((time.time() - 5) * 1000))
    lag.saw(SECOND, int((time.time() - 500) * 1000))
    asyncio.run(lag.measure())

    def value(name: str, partition: int) -> float:
        found = registry.get_sample_value(f"freshet_lag_{name}", {"stage": "ingest", "topic": "events", "partition": str(partition)})
        assert found is not None
        return found

    assert (value("records", 0), value("records", 1)) == (60, 0)
    assert 5 <= value("seconds", 0) < 6
    assert value("seconds", 1) == 0.0, "at the end nothing is late, however old the last record"
    packed[FIRST] = 101  # packed since the end was asked for
    asyncio.run(lag.measure())
    assert value("records", 0) == 0


def test_a_cluster_that_does_not_answer_costs_a_figure(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> int:
        calls, third = 0, asyncio.Event()

        async def measure() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError("away")
            if calls == 3:
                third.set()

        task = asyncio.create_task(every(0.001, measure))
        await asyncio.wait_for(third.wait(), 5)
        task.cancel()
        return calls

    assert asyncio.run(run()) == 3
    assert "OSError('away')" in caplog.text
