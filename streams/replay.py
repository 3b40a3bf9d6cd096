"""The replay host: the same stages over a logged stream, in one process and without a broker.

    messages -> decode -> route -> user stages -> examples -> learner stage -> cache

`LocalPipeline` cuts its own logs from messages; `replay_topic` drives one stage over a retained topic, for comparison.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition

from core.driver import StageDriver
from core.position import Range, Record, Stamp, Upstream
from core.schemas import decode
from core.stage import Stage
from streams import pipeline
from streams.decode import Decoded, EventDecoder, ItemDecoder, RawMessage
from streams.ingest import at, consumer, limits_of, stamp_of
from streams.packing import Chunk, Output, Packed, Packer
from streams.settings import Settings

LOCAL = "local"  # topic id of logs that exist in memory only
Message = tuple[bytes | None, bytes | None]  # key, JSON value
Progress = Callable[[int], None]


class ToExamples:
    """Messages to records of `examples`: decoding, routing and the user stages, in one process and without a broker.

    In: messages in order. Out: records in the learner's order; ticks follow where there are several partitions of `batches`.
    """

    def __init__(self, s: Settings, work_dir: Path) -> None:
        self.s = s
        limits = limits_of(s)
        self._events, self._items = EventDecoder(limits), ItemDecoder(limits)
        self._event_source, self._item_source = Upstream(s.events_topic, 0, LOCAL), Upstream(s.items_topic, 0, LOCAL)
        self._examples, self._offset = Output(s.examples_topic, 0), 0
        batches = [Output(s.batches_topic, p) for p in range(s.batches_partitions)]
        self._packer = Packer(batches, self._examples, {self._event_source: 0, self._item_source: 0})
        upstreams = [Upstream(s.batches_topic, p, LOCAL) for p in range(s.batches_partitions)]
        self.users = [StageDriver(pipeline.user_stage(s, u, work_dir / str(u.partition)), u) for u in upstreams]
        self.counts: dict[str, int] = {"events": 0, "items": 0, "dead_letters": 0}

    def items(self, messages: Iterable[Message], batch: int) -> Iterator[list[Record]]:
        """Catalogue changes: the records of each `batch` messages."""
        for raw in _cut(messages, batch, self._packer.ends[self._item_source]):
            yield self._take(self._item_source, self._items.decode(raw), raw[-1].offset + 1, "items")

    def events(self, messages: Iterable[Message], batch: int) -> Iterator[list[Record]]:
        """Events: the records of each `batch` messages; then the clock of every partition is brought up to date."""
        for raw in _cut(messages, batch, self._packer.ends[self._event_source]):
            yield self._take(self._event_source, self._events.decode(raw), raw[-1].offset + 1, "events")

    def _take(self, source: Upstream, decoded: Decoded, end: int, count: str) -> list[Record]:
        self.counts[count] += decoded.rows.height
        self.counts["dead_letters"] += len(decoded.dead)
        packed = self._packer.pack({source: Chunk(decoded.rows, end)})
        ticks = self._packer.tick() if self.s.batches_partitions > 1 else []
        return [record for packed_ in [*packed, *ticks] if (record := self._route(packed_)) is not None]

    def _route(self, packed: Packed) -> Record | None:
        if packed.output == self._examples:
            return self._record(packed.stamp, packed.rows)
        driver = self.users[packed.output.partition]
        offset = driver.positions.next_offset
        rows = driver.apply(Record(offset, packed.stamp, packed.rows))
        if rows is None:
            return None
        return self._record(Stamp(pipeline.FEATURES, (Range(driver.positions.own, offset, offset + 1),)), rows)

    def _record(self, stamp: Stamp, rows: pl.DataFrame) -> Record:
        self._offset += 1
        return Record(self._offset - 1, stamp, rows)

    def close(self) -> None:
        for driver in self.users:
            driver.stage.close()


class LocalPipeline:
    """All stages in one process, fed with messages. With one partition of `batches` the result is the same wherever they are cut;
    with several a tick follows each batch, and the clocks with it.

    After `feed_*`, `cache` holds what a server would hold. `sent_ms` stands for the Kafka timestamp of what is fed.
    """

    def __init__(self, s: Settings, work_dir: Path, parts: Sequence[str] = pipeline.PARTS) -> None:
        """`parts`: of the learner stage; see `pipeline.learner_stage`."""
        self.s = s
        self.cache = pipeline.cache(s)
        self.front = ToExamples(s, work_dir)
        self.users, self.counts = self.front.users, self.front.counts
        stage = pipeline.learner_stage(s, s.batches_partitions, parts)
        self.learner = StageDriver(stage, Upstream(s.examples_topic, 0, LOCAL))

    def feed_items(self, messages: Iterable[Message], batch: int = 2_000) -> None:
        """Catalogue changes, in order."""
        for records in self.front.items(messages, batch):
            self._learn(records)

    def feed_events(self, messages: Iterable[Message], batch: int = 2_000, progress: Progress = lambda rows: None) -> None:
        """Events, in order; then the clock of every partition is brought up to date."""
        taken = self.counts["events"] + self.counts["dead_letters"]
        for records in self.front.events(messages, batch):
            self._learn(records)
            told, taken = taken, self.counts["events"] + self.counts["dead_letters"]
            progress(taken - told)

    def _learn(self, records: Sequence[Record]) -> None:
        for record in records:
            self.learner.apply(record)
        self._publish()

    def _publish(self) -> None:
        for name, driver in self._named().items():
            publication = driver.stage.publish()
            if publication is not None:
                self.cache.apply(name, publication, LOCAL)

    def _named(self) -> dict[str, StageDriver]:
        users = {f"{pipeline.FEATURES}-{d.positions.own.partition}": d for d in self.users}
        return {**users, pipeline.LEARNER: self.learner}

    def digests(self) -> dict[str, str]:
        """A hash of each stage's state: equal for equal logs."""
        return {name: driver.stage.digest() for name, driver in self._named().items()}

    def close(self) -> None:
        self.front.close()
        self.learner.stage.close()


def _cut(messages: Iterable[Message], batch: int, first: int) -> Iterator[list[RawMessage]]:
    """Messages as a consumer would hand them over: numbered, without headers; a far timestamp, as logs lie in the past."""
    pending: list[RawMessage] = []
    for offset, (key, value) in enumerate(messages, first):
        pending.append(RawMessage(key, value, (), int(np.iinfo(np.int64).max // 2), offset))
        if len(pending) == batch:
            yield pending
            pending = []
    if pending:
        yield pending


def replay(s: Settings, items: Iterable[Message], events: Iterable[Message], work_dir: Path) -> LocalPipeline:
    """Replay a log through all stages, catalogue first; the caller closes what it gets.

    Args:
        items, events: (key, JSON value) pairs in the order of the log.
        work_dir: an empty directory for working files.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    local = LocalPipeline(s, work_dir)
    local.feed_items(items)
    local.feed_events(events)
    return local


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


def concatenated(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Outputs as one frame, whatever records they came in."""
    return pl.concat(frames) if frames else pl.DataFrame()
