"""What several stage partitions of one process write to one log: gathered while a send is under way, sent as one record.

A busy worker has hundreds of outputs a second for `examples`, and only one record may be unacknowledged: waiting for each would
bound the rate by the round trip.
"""

import asyncio
import contextlib
from typing import NamedTuple

import polars as pl

from core.errors import SendError
from core.frames import stack, with_source
from core.position import HEADER, Range, Stamp, Upstream
from core.schemas import encode
from monitoring.metrics import Metrics
from streams.writer import Writer

MAX_ROWS = 8_192  # waiting; then `add` waits too
SHORT_ROWS = 512  # encoded in less time than a thread would take to begin
MAX_RECORD_BYTES = 4 << 20  # of a record, estimated; half of what the topic takes


class _Output(NamedTuple):
    range: Range
    rows: pl.DataFrame


class Outbox:
    """In: outputs, contiguous per upstream. Out: records whose ranges are as contiguous. Nothing is kept: `flush` before a snapshot."""

    def __init__(self, name: str, topic: str, writer: Writer, metrics: Metrics) -> None:
        self.name, self.topic, self._writer, self._metrics = name, topic, writer, metrics
        self._waiting: list[_Output] = []
        self._rows = 0
        self._changed = asyncio.Condition()
        self._handed_over = self._acknowledged = 0  # outputs
        self._failure: BaseException | None = None
        self._task = asyncio.create_task(self._run())

    async def add(self, covered: Range, rows: pl.DataFrame) -> None:
        """Hand over one output.

        Raises:
            SendError: an earlier one could not be sent.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._rows < MAX_ROWS or self._failure is not None)
            self._check()
            self._waiting.append(_Output(covered, rows))
            self._handed_over += 1
            self._rows += rows.height
            self._changed.notify_all()

    async def flush(self) -> None:
        """Wait until all that was handed over so far is acknowledged."""
        async with self._changed:
            wanted = self._handed_over
            await self._changed.wait_for(lambda: self._failure is not None or self._acknowledged >= wanted)
            self._check()

    async def close(self) -> None:
        """Stop sending; what is left is lost to memory, not to the log that it came from."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        async with self._changed:
            self._failure = self._failure or SendError("the process stops")
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise SendError(f"nothing more goes to {self.topic}: {self._failure}") from self._failure

    async def _run(self) -> None:
        try:
            while True:
                await self._send(await self._take())
        except Exception as error:  # noqa: BLE001  # told to whoever adds or flushes next
            async with self._changed:
                self._failure = error
                self._changed.notify_all()

    async def _take(self) -> list[_Output]:
        """Everything that waits, up to the size of a record; at least one."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._waiting))
        await asyncio.sleep(0)  # the other stages that are ready now come along
        async with self._changed:
            size = count = 0
            while count < len(self._waiting) and (count == 0 or size < MAX_RECORD_BYTES):
                size += int(self._waiting[count].rows.estimated_size())
                count += 1
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._rows -= sum(output.rows.height for output in taken)
            self._changed.notify_all()
            return taken

    async def _send(self, outputs: list[_Output]) -> None:
        stamp, rows = merge(self.name, outputs)
        value = encode(rows) if rows.height < SHORT_ROWS else await asyncio.to_thread(encode, rows)
        self._metrics.batch(self.name, rows.height, len(value))
        await self._writer.send(self.topic, 0, value, [(HEADER, stamp.encode())])
        await self._writer.settle(self.topic, 0)
        async with self._changed:
            self._acknowledged += len(outputs)
            self._changed.notify_all()


def merge(name: str, outputs: list[_Output]) -> tuple[Stamp, pl.DataFrame]:
    """One record of several outputs: a range per upstream, rows in the order of handing over with `source` their range's index."""
    ranges: dict[Upstream, Range] = {}
    for covered, _ in outputs:
        known = ranges.get(covered.upstream, covered)
        ranges[covered.upstream] = Range(covered.upstream, known.start, covered.end)
    place = {upstream: index for index, upstream in enumerate(ranges)}
    return Stamp(name, tuple(ranges.values())), stack([with_source(rows, place[covered.upstream]) for covered, rows in outputs])
