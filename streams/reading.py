"""Reads Kafka by position: readers without a group, stretches of a partition, the stamps of derived records."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from core.errors import PositionLostError
from core.position import HEADER, REBUILD, Stamp
from streams.settings import Settings
from streams.topics import security

FETCH_WAIT_MS = 10  # a partition left out of a fetch under way sees its rows that much later
STOP_SECONDS = 1.0
POLL_MS, POLL_RECORDS = 500, 200


def consumer(s: Settings) -> AIOKafkaConsumer:
    """A reader without a group: positions are ours. Errors rather than jumps where a position is not there."""
    return AIOKafkaConsumer(
        **security(s),
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=8 << 20,
    )


def at(reader: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Read these partitions from these offsets on. No await in between: a partition without a position is an error to the client."""
    reader.assign(list(offsets))
    for tp, offset in offsets.items():
        reader.seek(tp, offset)


async def release(reader: AIOKafkaConsumer) -> None:
    """Stop a reader. aiokafka's own `stop` waits for ever where the reader was assigned just before: its first cancellation is lost."""
    stopping = asyncio.create_task(reader.stop())
    while not (await asyncio.wait({stopping}, timeout=STOP_SECONDS))[0]:
        stopping.cancel()  # reaches what it waits for, a second time
    stopping.result()


async def stretch(reader: AIOKafkaConsumer, tp: TopicPartition, start: int = 0, stop: int | None = None) -> AsyncIterator[Any]:
    """The records of a partition that are there now, from `start` up to `stop`; what was removed is passed over."""
    first, end = (await reader.beginning_offsets([tp]))[tp], (await reader.end_offsets([tp]))[tp]
    position, end = max(first, start), end if stop is None else min(end, stop)
    if position < end:
        at(reader, {tp: position})
    while position < end:
        for record in (await reader.getmany(tp, timeout_ms=POLL_MS, max_records=POLL_RECORDS)).get(tp, ()):
            if record.offset < end:
                yield record
        position = await reader.position(tp)


def stamp_of(headers: Sequence[tuple[str, bytes]]) -> Stamp:
    """The stamp in a record's headers.

    Raises:
        PositionLostError: there is none, so something else writes to this topic.
    """
    for name, value in headers:
        if name == HEADER:
            return Stamp.decode(value)
    raise PositionLostError(f"a record has no {HEADER!r} header: another program writes to a derived topic; {REBUILD}")
