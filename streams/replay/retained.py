"""One stage over what a derived topic retains: what a live run is compared with."""

import asyncio

import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition

from core.driver import StageDriver
from core.position import Record, Upstream
from core.schemas import decode
from core.stage import Stage
from streams.reading import consumer, stamp_of, stretch
from streams.settings import Settings


async def records(s: Settings, topic: str, partition: int, reader: AIOKafkaConsumer | None = None) -> list[Record]:
    """What a derived topic partition retains now, in order."""
    own = reader or consumer(s)
    if reader is None:
        await own.start()
    try:
        return [Record(r.offset, stamp_of(r.headers), decode(r.value)) async for r in stretch(own, TopicPartition(topic, partition))]
    finally:
        if reader is None:
            await own.stop()


def replay_topic(s: Settings, own: Upstream, stage: Stage) -> tuple[StageDriver, list[pl.DataFrame]]:
    """Drive a fresh stage over a retained topic from its start: what a live run must equal. Returns its outputs too."""
    driver = StageDriver(stage, own)
    outputs = [driver.apply(record) for record in asyncio.run(records(s, own.topic, own.partition))]
    return driver, [rows for rows in outputs if rows is not None]
