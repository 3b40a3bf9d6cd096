"""The recorder: live topics to a recording, until it is told to stop. What it wrote says where it goes on."""

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.errors import KafkaError as AdminError

from core.errors import FreshetError, PositionLostError, SettingsError
from core.position import Upstream
from streams.dead_letters import topic_of
from streams.decode import RawMessage
from streams.reading import at, consumer, release
from streams.record.files import OTHER_HOURS, Position, RecordedPartition, hour_of, partitions
from streams.record.hours import EventTimes
from streams.settings import Settings
from streams.topics import Admin, admin

POLL_MS = 200
POLL_RECORDS = 5_000
LOOK_SECONDS = 5.0  # between two looks at the topics' ids and partitions
ROUND_HOURS = 200  # with a file of their own in a round of a partition: times that are all over cost no file a record
ANEW = "record into a new folder"


class Limits(NamedTuple):
    """When what is in memory is written: at any of these, over all partitions."""

    rows: int = 200_000
    bytes: int = 64 << 20  # of keys, values and headers; written, they take about four times as much memory
    seconds: float = 300.0


DEFAULTS = Limits()


class Progress(NamedTuple):
    """Since this recorder was started."""

    records: int
    bytes: int
    lag: int  # records that are in the topics and not read yet
    unwritten: int  # records read, of which a kill would leave nothing: the next start reads them again


class _Unwritten:
    """What was read of one partition since its last round."""

    def __init__(self, upstream: Upstream, kept: RecordedPartition, next_offset: int) -> None:
        self.upstream, self.kept, self.next_offset = upstream, kept, next_offset
        self.tp = TopicPartition(upstream.topic, upstream.partition)
        self.by_hour: dict[str, list[RawMessage]] = {}
        self.of_topic = next_offset  # records below this are known to come from the topic of this id

    def add(self, messages: Sequence[RawMessage], times_ms: Sequence[int]) -> None:
        for message, ms in zip(messages, times_ms, strict=True):
            hour = hour_of(ms)
            if hour not in self.by_hour and len(self.by_hour) >= ROUND_HOURS:
                hour = OTHER_HOURS
            self.by_hour.setdefault(hour, []).append(message)
        self.next_offset = messages[-1].offset + 1

    def write(self, below: int) -> None:
        """Make what lies below an offset durable."""
        cut = {hour: [m for m in messages if m.offset < below] for hour, messages in self.by_hour.items()}
        if cut := {hour: messages for hour, messages in cut.items() if messages}:
            self.kept.append(cut, below)
        self.by_hour = {}


class Recorder:
    """In: records of Kafka. Out: rounds on disk. State: what was read since the last round.

    A round is written once the topics are seen to be those that it began with, so no record of another topic of the same name is in it.
    """

    def __init__(self, s: Settings, root: Path, topics: Sequence[str], reader: AIOKafkaConsumer, cluster: Admin, limits: Limits) -> None:
        self.root, self.topics, self.reader, self.cluster, self.limits = root, topics, reader, cluster, limits
        self._times = EventTimes(s)
        self._open: dict[tuple[str, int], _Unwritten] = {}
        self._records = self._bytes = self._unwritten = self._unwritten_bytes = 0
        self._round_at = self._look_at = 0.0

    async def open(self, from_start: bool) -> None:
        """Take up the recording, or begin one: at the topics' start, or at their end.

        Raises:
            SettingsError: there is no such topic.
            PositionLostError: what comes next is gone, or the topic was made anew.
        """
        for topic in self.topics:
            known = partitions(self.root, topic)
            for upstream in await asyncio.to_thread(self.cluster.upstreams, topic):
                await self._add(upstream, from_start or bool(known))
        self._assign()
        self._round_at = self._look_at = time.monotonic()

    async def _add(self, upstream: Upstream, from_start: bool) -> None:
        kept = RecordedPartition(self.root, upstream.topic, upstream.partition)
        first, end = await asyncio.to_thread(lambda: (self.cluster.first_offset(upstream), self.cluster.end_offset(upstream)))
        position = kept.position() or kept.begin(upstream, first if from_start else end)
        if position.upstream != upstream:
            raise _made_anew(position.upstream)
        if not first <= position.next_offset <= end:
            raise _overtaken(upstream, position.next_offset, first, end)
        kept.sweep()
        self._open[upstream.topic, upstream.partition] = _Unwritten(upstream, kept, position.next_offset)

    def _assign(self) -> None:
        at(self.reader, {u.tp: u.next_offset for u in self._open.values()})

    async def run(self, stop: Callable[[], bool], until_end: bool, told: Callable[[Progress], None]) -> None:
        """Record until told to stop, or until the end that the topics have now. What was read is then on disk.

        Raises:
            PositionLostError: a topic went, was made anew, or its retention was faster.
        """
        ends = await self.reader.end_offsets([u.tp for u in self._open.values()]) if until_end else {}
        while not stop() and not (until_end and await self._reached(ends)):
            for tp, records in (await self._poll()).items():
                self._take(self._open[tp.topic, tp.partition], records)
            if self._due():
                await self._write()
            elif time.monotonic() >= self._look_at + LOOK_SECONDS:
                await self._look()
            told(self._progress())
        await self._write()
        told(self._progress())

    async def _reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        return all([await self.reader.position(tp) >= end for tp, end in ends.items()])

    async def _poll(self) -> Mapping[TopicPartition, Sequence[Any]]:
        try:
            found: Mapping[TopicPartition, Sequence[Any]] = await self.reader.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            return found
        except OffsetOutOfRangeError as error:
            await self._write()  # raises if the topic is another one
            [(tp, offset)] = error.args[0].items()
            upstream = self._open[tp.topic, tp.partition].upstream
            first, end = (await self.reader.beginning_offsets([tp]))[tp], (await self.reader.end_offsets([tp]))[tp]
            raise _overtaken(upstream, offset, first, end) from error

    def _take(self, into: _Unwritten, records: Sequence[Any]) -> None:
        messages = [RawMessage(r.key, r.value, r.headers, r.timestamp, r.offset) for r in records]
        into.add(messages, self._times(into.upstream.topic, messages))
        size = sum(map(_size, messages))
        self._records += len(messages)
        self._bytes += size
        self._unwritten += len(messages)
        self._unwritten_bytes += size

    def _due(self) -> bool:
        rows, size, seconds = self.limits
        return self._unwritten >= rows or self._unwritten_bytes >= size or time.monotonic() >= self._round_at + seconds

    async def _write(self) -> None:
        await self._look()
        for unwritten in self._open.values():
            await asyncio.to_thread(unwritten.write, unwritten.next_offset)
        self._unwritten = self._unwritten_bytes = 0
        self._round_at = time.monotonic()

    async def _look(self) -> None:
        """See that the topics are still those that are recorded, and take up partitions that were added."""
        known = {u.upstream for u in self._open.values()}
        found = {u for topic in self.topics for u in await asyncio.to_thread(self._upstreams, topic)}
        if lost := sorted(known - found):
            await self._give_up(lost)
        for unwritten in self._open.values():
            unwritten.of_topic = unwritten.next_offset
        for upstream in sorted(found - known):
            await self._add(upstream, from_start=True)
        if found - known:
            self._assign()
        self._look_at = time.monotonic()

    def _upstreams(self, topic: str) -> Sequence[Upstream]:
        try:
            return self.cluster.upstreams(topic)
        except SettingsError:  # it is gone
            return ()

    async def _give_up(self, lost: Sequence[Upstream]) -> None:
        """What was read before the last look is surely of the topics that are recorded; of what came since nobody can tell."""
        for unwritten in self._open.values():
            below = unwritten.of_topic if unwritten.upstream in lost else unwritten.next_offset
            await asyncio.to_thread(unwritten.write, below)
        raise _made_anew(lost[0])

    def _progress(self) -> Progress:
        ends = ((self.reader.highwater(u.tp) or 0, u.next_offset) for u in self._open.values())
        return Progress(self._records, self._bytes, sum(max(0, end - offset) for end, offset in ends), self._unwritten)


def record(
    s: Settings,
    root: Path,
    names: Sequence[str],
    from_start: bool = True,
    until_end: bool = False,
    limits: Limits = DEFAULTS,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[Progress], None] = lambda progress: None,
) -> list[Position]:
    """Record topics into a folder; goes on where an earlier recording there ended. Returns what the folder holds of them.

    Args:
        names: `batches`, `examples`, `parameters`, `events`, `items`, `events-dlt`, `items-dlt`, or any topic's own name.
        from_start: a new recording begins with what the topics retain, else with what comes next.

    Raises:
        SettingsError: a topic is not there, or another recorder writes to the folder.
        PositionLostError: what comes next is gone, or a topic was made anew; what was recorded stays as it is.
        FreshetError: Kafka or the disk failed; a new start goes on.
    """
    topics = [topic_named(s, name) for name in dict.fromkeys(names)]
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root), admin(s) as cluster:

        async def run(reader: AIOKafkaConsumer) -> None:
            recorder = Recorder(s, root, topics, reader, cluster, limits)
            await recorder.open(from_start)
            await recorder.run(stop, until_end, told)

        try:
            asyncio.run(_reading(s, run))
        except (KafkaError, AdminError) as error:
            raise FreshetError(f"Kafka failed ({error!r}); start the recorder again, it goes on where it was") from error
        except (OSError, pl.exceptions.PolarsError) as error:
            raise FreshetError(f"{root} cannot be written ({error}); start the recorder again, it goes on where it was") from error
    kept = (RecordedPartition(root, topic, p) for topic in topics for p in partitions(root, topic))
    return [position for k in kept if (position := k.position()) is not None]


async def _reading(s: Settings, run: Callable[[AIOKafkaConsumer], Awaitable[None]]) -> None:
    reader = consumer(s)
    await reader.start()
    try:
        await run(reader)
    finally:
        await release(reader)


def topic_named(s: Settings, name: str) -> str:
    """The topic behind a short name; another name is a topic's own."""
    own = {"events": s.events_topic, "items": s.items_topic}
    dead = {topic_of(short): topic_of(topic) for short, topic in own.items()}
    return {**own, **dead, "batches": s.batches_topic, "examples": s.examples_topic, "parameters": s.parameters_topic}.get(name, name)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One recorder per folder; the lock goes with its process, however that ends."""
    lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise SettingsError(f"another recorder writes to {root}: stop it, or record into another folder") from error
    finally:
        os.close(lock)


def _size(message: RawMessage) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers


def _made_anew(upstream: Upstream) -> PositionLostError:
    return PositionLostError(f"{upstream} was deleted or made anew (its id was {upstream.topic_id}); what was recorded stays, {ANEW}")


def _overtaken(upstream: Upstream, offset: int, first: int, end: int) -> PositionLostError:
    if offset > end:
        return PositionLostError(f"{upstream} ends at {end}, but the recording goes on at {offset}: the log was cut; {ANEW}")
    return PositionLostError(
        f"{upstream} begins at {first}, but the recording goes on at {offset}: {first - offset:,} offsets went before they were recorded; "
        f"raise `derived_retention_hours` or `events_retention_hours`, or record more often, and {ANEW}"
    )
