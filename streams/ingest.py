"""Ingest: JSON events and items in, Arrow micro-batches by user out. Stateless: its position stands in what it wrote.

events, items -> decode -> [dead letters] -> route by user -> batches/0..n, examples (catalogue)
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from core.errors import PositionLostError
from core.position import HEADER, REBUILD, Stamp, Upstream
from core.schemas import encode
from monitoring.metrics import Metrics
from streams.contract import Limits
from streams.dead_letters import headers as dead_headers
from streams.dead_letters import key_of, topic_of
from streams.decode import Decoded, EventDecoder, ItemDecoder, RawMessage
from streams.lag import LAG_SECONDS, MEMBERS_SECONDS, Members, SourceLag, every
from streams.packing import WRITER, Chunk, Output, Packed, Packer
from streams.reading import at, stamp_of, stretch
from streams.settings import Settings
from streams.writer import Writer

log = logging.getLogger(__name__)
Messages = Mapping[Upstream, Sequence[Any]]  # consumer records by source, in order


class Ingest:
    """One process that reads every source partition. A second one by mistake does no harm: readers skip what is twice."""

    def __init__(self, s: Settings, consumer: AIOKafkaConsumer, writer: Writer, packer: Packer, metrics: Metrics) -> None:
        self.s, self.consumer, self.writer, self.packer, self.metrics = s, consumer, writer, packer, metrics
        limits = limits_of(s)
        self._decoders: dict[str, EventDecoder | ItemDecoder] = {
            s.events_topic: EventDecoder(limits),
            s.items_topic: ItemDecoder(limits),
        }
        self._sources = {(u.topic, u.partition): u for u in packer.ends}
        self._lag = SourceLag(consumer, packer.ends, metrics)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, or a send fails (then it raises, and the next start goes on from the log)."""
        measuring = [asyncio.create_task(every(LAG_SECONDS, self._lag.measure))]
        measuring.append(asyncio.create_task(every(MEMBERS_SECONDS, Members(self.s, self.metrics).measure)))
        try:
            await self._run(stop)
        finally:
            for task in measuring:
                task.cancel()

    async def _run(self, stop: asyncio.Event) -> None:
        tick_at = time.monotonic()
        while not stop.is_set():
            messages = await self._poll()
            for piece in pieces(messages, self.s.ingest_max_bytes):
                await self._round(piece)
            if time.monotonic() >= tick_at:
                await self._send(self.packer.tick())
                tick_at = time.monotonic() + self.s.tick_seconds
        await self._send(self.packer.tick())
        await self.writer.flush()

    async def _poll(self) -> Messages:
        """One micro-batch: what is there, and unless that is much, what comes within the linger."""
        wait_ms = min(50, int(1000 * self.s.tick_seconds))
        found = await self.consumer.getmany(timeout_ms=wait_ms, max_records=self.s.ingest_max_rows)
        rows = sum(map(len, found.values()))
        if 0 < rows < self.s.ingest_max_rows // 2:
            await asyncio.sleep(self.s.ingest_linger_ms / 1000)
            more = await self.consumer.getmany(timeout_ms=0, max_records=self.s.ingest_max_rows - rows)
            found = {tp: [*found.get(tp, ()), *more.get(tp, ())] for tp in {**found, **more}}
        return {self._sources[tp.topic, tp.partition]: records for tp, records in found.items()}

    async def _round(self, messages: Messages) -> None:
        """Dead letters are durable before the batch that covers them is sent."""
        chunks: dict[Upstream, Chunk] = {}
        for source, records in messages.items():
            decoded = self._decode(source, records)
            await self._bury(source, decoded)
            chunks[source] = Chunk(decoded.rows, records[-1].offset + 1)
        await self._send(self.packer.pack(chunks))
        for source, records in messages.items():
            self._lag.saw(source, records[-1].timestamp)

    def _decode(self, source: Upstream, records: Sequence[Any]) -> Decoded:
        raw = [RawMessage(r.key, r.value, r.headers, r.timestamp, r.offset) for r in records]
        decoded = self._decoders[source.topic].decode(raw)
        self.metrics.decoded(source.topic, decoded.rows.height, decoded.foreign_keys, decoded.missing_keys)
        return decoded

    async def _bury(self, source: Upstream, decoded: Decoded) -> None:
        if not decoded.dead:
            return
        letters = [
            (
                key_of(letter),
                letter.message.value,
                letter.message.timestamp_ms,
                dead_headers(letter, source.topic, source.partition, WRITER),
            )
            for letter in decoded.dead
        ]
        await self.writer.send_all(topic_of(source.topic), letters)
        for letter in decoded.dead:
            self.metrics.dead_letter(source.topic, letter.category)

    async def _send(self, packed: Sequence[Packed]) -> None:
        for output, stamp, rows in packed:
            value = encode(rows)
            self.metrics.batch(WRITER, rows.height, len(value))
            await self.writer.send(output.topic, output.partition, value, [(HEADER, stamp.encode())])


def pieces(messages: Messages, max_bytes: int) -> Iterator[Messages]:
    """The same messages in runs of about `max_bytes` of values, so that no record grows past what Kafka takes."""
    piece: dict[Upstream, list[Any]] = {}
    size = 0
    for source, records in messages.items():
        for record in records:
            length = len(record.value or b"")
            if piece and size + length > max_bytes:
                yield piece
                piece, size = {}, 0
            piece.setdefault(source, []).append(record)
            size += length
    if piece:
        yield piece


def limits_of(s: Settings) -> Limits:
    """The decoder's part of the settings."""
    return Limits(
        types=s.event_types, max_event_bytes=s.max_event_bytes, max_id_bytes=s.max_id_bytes, max_future_seconds=s.max_future_seconds
    )


async def starts(s: Settings, consumer: AIOKafkaConsumer, sources: Sequence[Upstream], outputs: Sequence[Output]) -> dict[Upstream, int]:
    """Where to go on: per source, the lowest position that some output has not covered yet.

    Raises:
        PositionLostError: that position is no longer in the source, or the source was made anew.
    """
    tails = [await tail(consumer, output) for output in outputs]
    found: dict[Upstream, int] = {}
    for source in sources:
        tp = TopicPartition(source.topic, source.partition)
        first = (await consumer.beginning_offsets([tp]))[tp]
        last = (await consumer.end_offsets([tp]))[tp]
        ends = [_end(stamp, source) for stamp in tails]
        found[source] = first if all(end is None for end in ends) else min(first if end is None else end for end in ends)
        if not first <= found[source] <= last:
            raise PositionLostError(f"{source} holds {first}..{last}, but {found[source]} is what comes next; {REBUILD}")
    return found


def _end(stamp: Stamp | None, source: Upstream) -> int | None:
    """Where the output's last range of this source ended; None where it never had one."""
    for r in stamp.ranges if stamp else ():
        if (r.upstream.topic, r.upstream.partition) == (source.topic, source.partition):
            if r.upstream.topic_id != source.topic_id:
                raise PositionLostError(f"{source} was made anew: its id was {r.upstream.topic_id}, is {source.topic_id}; {REBUILD}")
            return r.end
    return None


async def tail(consumer: AIOKafkaConsumer, output: Output) -> Stamp | None:
    """Ingest's last stamp in an output partition, searched backwards; other writers' records are passed over.

    Raises:
        PositionLostError: the partition was written, but retention has removed everything.
    """
    tp = TopicPartition(output.topic, output.partition)
    first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    if first == end and end > 0:
        raise PositionLostError(f"{output.topic}/{output.partition} is empty up to {end}: its position is lost; {REBUILD}")
    stop, width = end, 64
    while stop > first:
        start = max(first, stop - width)
        stamps = [stamp async for r in stretch(consumer, tp, start, stop) if (stamp := stamp_of(r.headers)).writer == WRITER]
        if stamps:
            return stamps[-1]
        stop, width = start, width * 4
    return None


async def open_packer(s: Settings, reader: AIOKafkaConsumer, sources: Sequence[Upstream], batches: int) -> Packer:
    """A packer at the recovered position, and the reader seeked there."""
    outputs = [Output(s.batches_topic, p) for p in range(batches)]
    examples = Output(s.examples_topic, 0)
    found = await starts(s, reader, sources, [*outputs, examples])
    at(reader, {TopicPartition(u.topic, u.partition): offset for u, offset in found.items()})
    log.info("goes on at %s", {str(source): offset for source, offset in found.items()})
    return Packer(outputs, examples, found)
