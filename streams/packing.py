"""Decoded rows to records: who gets which rows, and which source positions each record answers for.

Shared by ingest and the local replay host, so that both cut and route alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from core.clock import EventClock
from core.frames import constant, pick, stack
from core.hashing import partition_of
from core.position import Range, Stamp, Upstream
from core.schemas import BATCHES, EVENT, EXAMPLE_BASE, ITEM, NO_LABEL, TICK

WRITER = "ingest"


class Output(NamedTuple):
    """An output partition of ingest: of `batches`, or `examples` (which gets the catalogue only)."""

    topic: str
    partition: int


class Packed(NamedTuple):
    """One record to write."""

    output: Output
    stamp: Stamp
    rows: pl.DataFrame


class Chunk(NamedTuple):
    """What came of one stretch of a source partition: rows without `source`, and the next position to read."""

    rows: pl.DataFrame
    end: int


class Packer:
    """Routes rows to outputs and keeps, per output and source, where the last range ended.

    In: chunks by source. Out: records with contiguous ranges. State: the range ends and the clock; both are found again in the log.
    """

    def __init__(self, batches: Sequence[Output], examples: Output, starts: Mapping[Upstream, int]) -> None:
        self.batches, self.examples = tuple(batches), examples
        self.ends = dict(starts)  # next position to read, per source
        self._written = {output: dict(starts) for output in (*batches, examples)}
        self.clock = EventClock()

    def pack(self, chunks: Mapping[Upstream, Chunk]) -> list[Packed]:
        """Records for one round of input; outputs that got no row stay silent and cover it with their next range."""
        sources = sorted(self.ends)
        frames = [_sourced(chunk.rows, sources.index(source)) for source, chunk in sorted(chunks.items())]
        self.ends |= {source: chunk.end for source, chunk in chunks.items()}
        rows = stack(frames) if frames else BATCHES.to_frame()
        kinds = rows["kind"].to_numpy()
        events, items = pick(rows, kinds == EVENT), pick(rows, kinds == ITEM)
        self.clock.advance(events["ts_ms"].to_numpy())
        return [*self._batches(events, items), *self._examples(items)]

    def _batches(self, events: pl.DataFrame, items: pl.DataFrame) -> list[Packed]:
        """The catalogue goes to every partition, ahead of this round's events; an event to its user's partition."""
        parts = self._by_user(events)
        frames = [stack([items, part]) if items.height else part for part in parts]
        return [self._record(output, frame) for output, frame in zip(self.batches, frames, strict=True) if frame.height]

    def _by_user(self, events: pl.DataFrame) -> list[pl.DataFrame]:
        count = len(self.batches)
        if count == 1:
            return [events]
        users = events["user_id"].to_list()
        partition = np.array([partition_of(user, count) for user in users], dtype=np.int64)
        return [pick(events, partition == p) for p in range(count)]

    def _examples(self, items: pl.DataFrame) -> list[Packed]:
        return [self._record(self.examples, item_examples(items))] if items.height else []

    def tick(self) -> list[Packed]:
        """A record for every output: the time, and the range since its last one, empty or not."""
        now = self.clock.ms if self.clock.full else 0
        tick = pl.DataFrame([{"kind": TICK, "source": 0, "offset": self.ends[min(self.ends)], "ts_ms": now}], schema=BATCHES)
        return [*(self._record(o, tick) for o in self.batches), self._record(self.examples, EXAMPLE_BASE.to_frame())]

    def state(self) -> dict[str, Any]:
        """Plain values, for `restore`: where ingest does without, since it finds them in the logs that it wrote."""
        sources = sorted(self.ends)
        written = [[ends[source] for source in sources] for ends in self._written.values()]
        return {"clock": self.clock.to_json().decode(), "ends": [self.ends[source] for source in sources], "written": written}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another packer of the same outputs and sources stood."""
        sources = sorted(self.ends)
        self.clock = EventClock.from_json(state["clock"].encode())
        self.ends = dict(zip(sources, state["ends"], strict=True))
        written = zip(self._written, state["written"], strict=True)
        self._written = {output: dict(zip(sources, ends, strict=True)) for output, ends in written}

    def _record(self, output: Output, rows: pl.DataFrame) -> Packed:
        written = self._written[output]
        ranges = tuple(Range(source, written[source], self.ends[source]) for source in sorted(self.ends))
        written |= self.ends
        return Packed(output, Stamp(WRITER, ranges), rows)


def _sourced(rows: pl.DataFrame, source: int) -> pl.DataFrame:
    """Decoded rows as `batches` rows."""
    index = pl.Series("source", [source], pl.UInt16).new_from_index(0, rows.height)
    return pl.DataFrame([index if name == "source" else rows.get_column(name) for name in BATCHES])


def item_examples(items: pl.DataFrame) -> pl.DataFrame:
    """Catalogue rows as `examples` rows: no upstream clock, no user columns (readers take them as null)."""
    fixed = {"upstream": -1, "clock_ms": 0, "ordinal": 0, **NO_LABEL}
    columns = [
        constant(name, fixed[name], dtype, items.height) if name in fixed
        else pl.int_range(items.height, dtype=pl.Int32, eager=True).alias(name) if name == "row"
        else items[name]
        for name, dtype in EXAMPLE_BASE.items()
    ]  # fmt: skip
    return pl.DataFrame(columns)
