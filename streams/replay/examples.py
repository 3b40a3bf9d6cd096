"""The front of the replay host: messages to records of `examples`, in one process and without a broker.

messages -> decode -> route -> user stages -> examples
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.driver import StageDriver
from core.position import Range, Record, Stamp, Upstream
from core.schemas import LABEL
from core.snapshot import Snapshot
from features.user_stage import OUTCOMES, UserStage
from streams import pipeline
from streams.decode import DeadLetter, EventDecoder, ItemDecoder, RawMessage
from streams.ingest import limits_of
from streams.packing import Chunk, Output, Packed, Packer
from streams.producing import Message
from streams.settings import Settings

LOCAL = "local"  # topic id of logs that exist in memory only
_STATE = "examples.json"


class ToExamples:
    """Messages to records of `examples`: decoding, routing and the user stages, in one process and without a broker.

    In: messages in order. Out: records in the learner's order; ticks follow where there are several partitions of `batches`.
    State: the positions of all logs, the clock, the user stages', the counts.
    """

    def __init__(self, s: Settings, work_dir: Path, with_context: bool = False) -> None:
        """`work_dir` is its own. Where snapshots are taken it lies on their file system, so that they may share files.

        with_context: a column `context` more, each event's as it was sent.
        """
        self.s, self._with_context = s, with_context
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
        for raw in _cut(messages, batch, self.next_offset(catalogue=True)):
            yield self.take(raw, catalogue=True)[0]

    def events(self, messages: Iterable[Message], batch: int) -> Iterator[list[Record]]:
        """Events: the records of each `batch` messages; then the clock of every partition is brought up to date."""
        for raw in _cut(messages, batch, self.next_offset()):
            yield self.take(raw)[0]

    def next_offset(self, catalogue: bool = False) -> int:
        """Of the next event, or change of the catalogue."""
        return self._packer.ends[self._item_source if catalogue else self._event_source]

    def take(self, raw: Sequence[RawMessage], catalogue: bool = False) -> tuple[list[Record], list[DeadLetter]]:
        """The records of these messages, which are at `next_offset` and behind it, and those that were refused."""
        source, decoder = (self._item_source, self._items) if catalogue else (self._event_source, self._events)
        decoded = decoder.decode(raw)
        self.counts["items" if catalogue else "events"] += decoded.rows.height
        self.counts["dead_letters"] += len(decoded.dead)
        packed = self._packer.pack({source: Chunk(decoded.rows, self.next_offset(catalogue) + len(raw))})
        ticks = self._packer.tick() if self.s.batches_partitions > 1 else []
        return self._routed([*packed, *ticks]), decoded.dead

    def tick(self, ms: int) -> list[Record]:
        """Tell every partition the time, as ingest tells those that are idle."""
        at_ms = pl.lit(ms, pl.Int64).alias("ts_ms")
        return self._routed([packed._replace(rows=packed.rows.with_columns(at_ms)) for packed in self._packer.tick()])

    def _routed(self, packed: Sequence[Packed]) -> list[Record]:
        return [record for one in packed if (record := self._route(one)) is not None]

    def _route(self, packed: Packed) -> Record | None:
        if packed.output == self._examples:
            return self._record(packed.stamp, packed.rows)
        driver = self.users[packed.output.partition]
        offset = driver.positions.next_offset
        rows = driver.apply(Record(offset, packed.stamp, packed.rows))
        if rows is None:
            return None
        if self._with_context:
            context = packed.rows["context"].gather(rows["row"])
            rows = rows.with_columns(pl.when(pl.col("kind") != LABEL).then(context).alias("context"))
        return self._record(Stamp(pipeline.FEATURES, (Range(driver.positions.own, offset, offset + 1),)), rows)

    def _record(self, stamp: Stamp, rows: pl.DataFrame) -> Record:
        self._offset += 1
        return Record(self._offset - 1, stamp, rows)

    @property
    def outcomes(self) -> dict[str, int]:
        """What the user stages decided, all partitions together."""
        counts = [driver.stage.outcomes for driver in self.users if isinstance(driver.stage, UserStage)]
        return {name: sum(count[name] for count in counts) for name in OUTCOMES}

    def snapshot(self, into: Snapshot) -> None:
        """All that it holds, as of the last records that it gave."""
        into.write(_STATE, msgspec.json.encode({"packer": self._packer.state(), "offset": self._offset, "counts": self.counts}))
        for driver in self.users:
            driver.snapshot(into.within(_directory(driver)))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot, before any message; what comes then is what would have come.

        Raises:
            SnapshotError: it was made under other settings.
        """
        state = msgspec.json.decode((directory / _STATE).read_bytes())
        for driver in self.users:
            driver.restore(directory / _directory(driver))
        self._packer.restore(state["packer"])
        self._offset = state["offset"]
        self.counts.update(state["counts"])

    def close(self) -> None:
        for driver in self.users:
            driver.stage.close()


def _directory(driver: StageDriver) -> str:
    return f"{pipeline.FEATURES}-{driver.positions.own.partition}"


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
