"""The live host of one stage partition: records in; rows, publications and checkpoints out.

Knows Kafka's records, but neither Faust nor what the stage computes. The stage never sees two calls at once. Short ones run where
they are made: a thread beside a busy event loop costs 2 ms a call, more than the work. Long ones run on a thread of the stage's own.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import polars as pl

from core.driver import StageDriver
from core.errors import PositionLostError
from core.position import REBUILD, Range, Record
from core.stage import Publication, Stage
from monitoring.metrics import Metrics
from streams.checkpoints import Checkpoints, Pending
from streams.observers import Observer
from streams.outbox import Outbox
from streams.parameters import to_records
from streams.settings import Settings
from streams.writer import Headers, Writer

log = logging.getLogger(__name__)
REPUBLISH_SECONDS = 1.0  # a walk through the store begins with a seek: not with each publication
SHORT_BYTES = 32 << 10  # of input, compressed: about 500 events, 10 ms in the learner
T = TypeVar("T")
Watch = Callable[[Stage, Metrics], Observer]  # called once the stage is restored


class StageHost:
    """Drives a stage and keeps the promise behind acknowledgements: input is released once a durable checkpoint covers it.

    `on_durable(offset)` is told the lowest input offset that a retained checkpoint may still need.
    """

    def __init__(
        self,
        s: Settings,
        name: str,
        driver: StageDriver,
        outbox: Outbox,
        writer: Writer,
        metrics: Metrics,
        watch: Watch,
        on_durable: Callable[[int], Awaitable[None]],
        publish_ms: int,
    ) -> None:
        self.s, self.name, self.driver, self.outbox, self.writer, self.metrics = s, name, driver, outbox, writer, metrics
        self.partition = driver.positions.own.partition
        self.checkpoints = checkpoints_of(s, name, self.partition)
        self._watch, self._on_durable, self._publish_seconds = watch, on_durable, publish_ms / 1000
        self._observer: Observer | None = None  # until the stage is restored
        self.seen_seconds = time.time()  # Kafka timestamp of the last record applied
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-{self.partition}")
        self._turn, self._publishing, self._stage = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._republished_at = self._round_at = time.monotonic()
        self._version = 0  # of the newest publication
        self._unpublished_bytes = 0  # of the input since the last publication
        self._dirty = asyncio.Event()
        self._closed = False
        self._whole = True  # false while a record is applied whose output is not handed over yet, and while a snapshot is taken
        self._previous: Path | None = None
        self._finishing: asyncio.Task[None] | None = None
        # The golden ratio spreads the partitions: their checkpoints shall not meet.
        self._checkpoint_at = time.monotonic() + s.checkpoint_seconds * (1 - self.partition * 0.618 % 1)
        self._checkpointed = 0
        self._publisher = asyncio.create_task(self._publish_when_dirty())

    @property
    def writer_name(self) -> str:
        """By which readers of `parameters` know this stage partition."""
        return f"{self.name}/{self.partition}"

    @property
    def next_offset(self) -> int:
        """Of the input: what the stage takes next."""
        return self.driver.positions.next_offset

    async def restore(self, first: int) -> None:
        """Take up the newest whole checkpoint; `first` is the log's lowest offset.

        Raises:
            PositionLostError: what comes next is no longer in the log.
        """
        self._previous = await self._run(self.checkpoints.newest)
        if self._previous is not None:
            await self._run(self.driver.restore, self._previous)
        self._observer = self._watch(self.driver.stage, self.metrics)
        made_at = time.time() if self._previous is None else self._previous.stat().st_mtime
        self.metrics.opened(self.name, self.partition, made_at)
        positions = self.driver.positions
        self._checkpointed = positions.next_offset
        if positions.next_offset < first:
            raise PositionLostError(f"{positions.own} starts at {first}, but {positions.next_offset} comes next; {REBUILD}")
        log.info("%s/%d goes on at offset %d", self.name, self.partition, positions.next_offset)

    async def handle(self, records: Sequence[Callable[[], Record]], size_bytes: int) -> None:
        """Apply consecutive records, decoding them first, and hand over what comes of them."""
        async with self._turn:
            self._whole = False
            self._unpublished_bytes += size_bytes
            for covered, rows in await self._call(size_bytes, self._apply, records):
                await self.outbox.add(covered, rows)
            self._whole = True
            self._dirty.set()
            await self._checkpoint_if_due()

    async def look(self) -> None:
        """Called now and then: raises what a background task failed with, and checkpoints what an idle log left behind."""
        self._check()
        self._dirty.set()  # an idle stage goes on publishing old rows
        if self._observer is not None and not self._closed:
            self._observer.look()
        if not self._turn.locked() and not self._closed:
            async with self._turn:
                await self._checkpoint_if_due()

    def _check(self) -> None:
        """Raise what the last publication or checkpoint failed with."""
        for task in (self._publisher, self._finishing):
            if task is not None and task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _checkpoint_if_due(self) -> None:
        if time.monotonic() >= self._checkpoint_at:
            await self.checkpoint()

    def _apply(self, records: Sequence[Callable[[], Record]]) -> list[tuple[Range, pl.DataFrame]]:
        """The outputs, each with what it covers."""
        found, positions = [record() for record in records], self.driver.positions
        skipped = positions.skipped_rows
        with self.metrics.timed_stage(self.name):
            outputs = self.driver.apply_all(found)
        self.metrics.skipped(self.name, positions.skipped_rows - skipped)
        if self._observer is not None:
            self._observer.applied([rows for _, rows in outputs])
        return [(Range(positions.own, record.offset, record.offset + 1), rows) for record, rows in outputs]

    async def _publish_when_dirty(self) -> None:
        """Publish what was touched, at most once per `publish_ms`."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            async with self._publishing:
                await self._publish()
            await asyncio.sleep(self._publish_seconds)

    async def _publish(self) -> None:
        size_bytes, self._unpublished_bytes = self._unpublished_bytes, 0
        records = await self._call(size_bytes, self._publication)
        for value, headers in records:
            await self.writer.post(self.s.parameters_topic, 0, value, headers)
        if records:
            self.metrics.published(self.writer_name, self._version)

    def _publication(self) -> list[tuple[bytes, Headers]]:
        self._touch_next()
        publication: Publication | None = self.driver.stage.publish()
        if publication is None:
            return []
        with self.metrics.timed_publish(self.name):
            records = to_records(publication, self.writer_name, self.driver.positions.own.topic_id)
        self._version = publication.version
        return records

    def _touch_next(self) -> None:
        """Old rows go out once more, a slice a second: so `parameters` holds every row, however long ago it changed."""
        now = time.monotonic()
        rows = int((now - self._republished_at) * self.s.republish_rows_per_second)
        if rows and now - self._republished_at >= REPUBLISH_SECONDS:
            self._republished_at = now
            if self.driver.stage.touch_next(rows):
                self.metrics.republished(self.name, self.partition, now - self._round_at)
                self._round_at = now

    async def checkpoint(self) -> None:
        """Write a checkpoint; skipped while the last one is still being finished or where nothing is new.

        Step 1. outputs flushed. Step 2. snapshot taken. Step 3. it is on disk. Step 4. input acknowledged.
        Between 1 and 2 nothing is published: a touched row is either acknowledged or in the state's future.
        After a failed publication or checkpoint there is no other: the stage no longer knows which rows and chunks that one left out.
        """
        self._check()
        offset = self.next_offset
        if offset == self._checkpointed or (self._finishing and not self._finishing.done()):
            return
        started = time.monotonic()
        async with self._publishing:
            await self._publish()
            await self.outbox.flush()
            await self.writer.flush()  # Step 1.
            self._whole = False
            pending = await self._run(self.checkpoints.take, offset, self.driver.snapshot, self._previous)  # Step 2.
            self._whole = True
        self._checkpointed, self._checkpoint_at = offset, time.monotonic() + self.s.checkpoint_seconds
        self._finishing = asyncio.create_task(self._finish(pending, started))

    async def _finish(self, pending: Pending, started: float) -> None:
        self._previous = await asyncio.to_thread(self.checkpoints.finish, pending, self._previous)  # Step 3.
        self.metrics.checkpointed(self.name, self.partition, time.monotonic() - started, self._previous)
        oldest = self.checkpoints.oldest_offset()
        if oldest is not None:
            await self._on_durable(oldest)  # Step 4.

    async def close(self) -> None:
        """Once what is under way has ended: a last checkpoint where the state is whole, then release everything."""
        async with self._turn:
            self._closed = True
            try:
                await self._settle()
            finally:
                await self._run(self.driver.stage.close)
                self._thread.shutdown()

    async def _settle(self) -> None:
        async with self._publishing:  # rows on their way out are no longer among the stage's touched ones: they must reach the log
            self._publisher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._publisher
        if self._finishing:
            await self._finishing
        if self._whole:
            await self.checkpoint()
            if self._finishing:
                await self._finishing

    async def _call(self, size_bytes: int, function: Callable[..., T], *arguments: object) -> T:
        """A call to the stage whose work grows with the input's size."""
        async with self._stage:
            return function(*arguments) if size_bytes < SHORT_BYTES else await self._run(function, *arguments)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def checkpoints_of(s: Settings, name: str, partition: int) -> Checkpoints:
    """Where a stage partition's checkpoints are."""
    return Checkpoints(s.state_dir / f"{name}-{partition}", s.checkpoints_kept, s.full_checkpoint_every)
