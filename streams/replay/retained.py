"""One stage over what a derived topic retains: what a live run is compared with."""

import asyncio

import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition

from core.driver import StageDriver
from core.position import Record, Upstream
from core.schemas import decode
from core.stage import Stage
from streams.ingest import at, consumer, stamp_of
from streams.settings import Settings


async def records(s: Settings, topic: str, partition: int, reader: AIOKafkaConsumer | None = None) -> list[Record]:
    """What a derived topic partition retains now, in order."""
    own = reader or consumer(s)
    if reader is None:
        await own.start()
    try:
        return await _records(own, TopicPartition(topic, partition))
    finally:
        if reader is None:
            await own.stop()


async def _records(reader: AIOKafkaConsumer, tp: TopicPartition) -> list[Record]:
    end, found = (await reader.end_offsets([tp]))[tp], list[Record]()
    at(reader, await reader.beginning_offsets([tp]))
    while not found or found[-1].offset < end - 1:
        if end == 0:
            break
        batch = (await reader.getmany(tp, timeout_ms=1_000)).get(tp, ())
        found += [Record(r.offset, stamp_of(r.headers), decode(r.value)) for r in batch if r.offset < end]
    return found


def replay_topic(s: Settings, own: Upstream, stage: Stage) -> tuple[StageDriver, list[pl.DataFrame]]:
    """Drive a fresh stage over a retained topic from its start: what a live run must equal. Returns its outputs too."""
    driver = StageDriver(stage, own)
    outputs = [driver.apply(record) for record in asyncio.run(records(s, own.topic, own.partition))]
    return driver, [rows for rows in outputs if rows is not None]
