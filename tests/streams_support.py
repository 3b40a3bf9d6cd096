"""Ingest and stage workers of the test's own process, and changes to topics that only tests make."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from kafka import KafkaProducer
from kafka.admin import MemberToRemove
from prometheus_client import CollectorRegistry

from core.position import Upstream
from monitoring.metrics import Metrics
from streams import pipeline, processes, topics
from streams.observers import FeatureObserver
from streams.reading import at, consumer, release
from streams.settings import Settings
from streams.worker import StageWorker
from tests import live

Sent = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]  # key, value, headers, timestamp in ms


def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def ingest_all(s: Settings) -> None:
    """Run ingest here until its outputs answer for all that its sources hold. Raises what it failed with."""
    asyncio.run(_until(lambda stop: processes.ingest(s, metrics(), stop), lambda: live.ingested(s)))


def compute_features(s: Settings, work_dir: Path) -> None:
    """Run the worker of the user stage here until its checkpoints cover `batches`. Raises what it failed with."""
    ends = {u.partition: live.end(s, u) for u in live.upstreams(s, s.batches_topic)}

    def stage(upstream: Upstream) -> Any:
        return pipeline.user_stage(s, upstream, work_dir / str(upstream.partition))

    async def work(stop: asyncio.Event) -> None:
        await StageWorker(s, pipeline.FEATURES, s.batches_topic, stage, metrics(), FeatureObserver, s.history_publish_ms).run(stop)

    try:
        asyncio.run(_until(work, lambda: live.checkpointed(s, pipeline.FEATURES, s.batches_topic) == ends))
    finally:
        _dismiss(s, f"{s.namespace}{pipeline.FEATURES}")


def _dismiss(s: Settings, group: str) -> None:
    """A static member that is gone stays in its group until its session times out; tests need not wait for that."""
    with topics.admin(s) as admin:
        admin.client.remove_group_members(group, [MemberToRemove(group_instance_id=f"{group}-0")])


async def _until(process: Any, done: Any, seconds: float = 45) -> None:
    stop = asyncio.Event()
    task, deadline = asyncio.create_task(process(stop)), time.monotonic() + seconds
    while not task.done() and not await asyncio.to_thread(done):
        await asyncio.sleep(0.1)
        if time.monotonic() > deadline:
            task.cancel()
            await asyncio.wait([task])
            raise AssertionError(f"after {seconds} s it has neither ended nor done its work")
    stop.set()
    await task


def send(s: Settings, topic: str, messages: Sequence[Sent]) -> None:
    """To partition 0, in order, with headers and timestamps of their own."""
    client = KafkaProducer(bootstrap_servers=s.bootstrap_servers, acks="all", max_request_size=topics.EVENT_RECORD_BYTES)
    sent = [client.send(topic, value, key, headers=headers, partition=0, timestamp_ms=ts) for key, value, headers, ts in messages]
    client.flush()
    for future in sent:
        future.get()
    client.close()


def letters(s: Settings, topic: str) -> list[Any]:
    """Every record of partition 0, as the client gives it."""
    return asyncio.run(_letters(s, TopicPartition(topic, 0)))


async def _letters(s: Settings, tp: TopicPartition) -> list[Any]:
    reader, found = consumer(s), list[Any]()
    await reader.start()
    try:
        end = (await reader.end_offsets([tp]))[tp]
        at(reader, {tp: 0})
        while len(found) < end:
            found += (await reader.getmany(tp, timeout_ms=500)).get(tp, ())
        return found
    finally:
        await release(reader)


def recreate(s: Settings, topic: str) -> None:
    """Delete a topic and make it anew, empty, under the same name."""
    with topics.admin(s) as admin:
        admin.client.delete_topics([topic])
        live.wait(lambda: topic not in admin.client.list_topics(), f"{topic} to be gone", seconds=20)
        assert admin.create(topics.table(s), 1) == [topic]
