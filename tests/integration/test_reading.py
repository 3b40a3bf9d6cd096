"""Readers of Kafka by position end when they are told to, also right after they were assigned."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.broker import EmbeddedBroker
from streams.reading import at, consumer, release, stretch
from streams.settings import Settings
from tests import live

pytestmark = pytest.mark.kafka


@pytest.fixture
def s(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> Settings:
    """One of the four partitions of `events` holds a record."""
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path)
    live.produce(s, [(b"u", b"value")], s.events_topic)
    return s


def reading(s: Settings, act: Callable[[AIOKafkaConsumer, list[TopicPartition]], Awaitable[list[bytes]]]) -> list[bytes]:
    """What `act` reads; the reader is released right behind it, and fails the test where that takes long."""

    async def run() -> list[bytes]:
        reader = consumer(s)
        await reader.start()
        try:
            return await act(reader, [TopicPartition(s.events_topic, p) for p in range(s.events_partitions)])
        finally:
            await release(reader)

    began = time.monotonic()
    read = asyncio.run(asyncio.wait_for(run(), 20))
    assert time.monotonic() - began < 20, "it ended, but only when it was cancelled"
    return read


def test_stretches_of_several_partitions_the_last_ones_empty(s: Settings) -> None:
    async def act(reader: AIOKafkaConsumer, tps: list[TopicPartition]) -> list[bytes]:
        full = [tp for tp, end in (await reader.end_offsets(tps)).items() if end]
        return [record.value for tp in [*full, *(set(tps) - set(full))] async for record in stretch(reader, tp)]

    assert reading(s, act) == [b"value"]


def test_a_reader_that_was_assigned_anew_just_before(s: Settings) -> None:
    """aiokafka's own `stop` waits for ever here."""

    async def act(reader: AIOKafkaConsumer, tps: list[TopicPartition]) -> list[bytes]:
        for tp in tps:
            await reader.end_offsets([tp])
            at(reader, {tp: 0})
        return []

    assert reading(s, act) == []
