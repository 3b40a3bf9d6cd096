"""Position is data: which part of which log a record covers, and what a stage has already seen.

A writer's ranges are contiguous per upstream: each starts where its last one ended. A reader skips what lies below the next
position it expects and raises on a gap. So every row takes effect once, whatever was sent twice.
"""

from collections.abc import Sequence

import msgspec
import polars as pl

from core.errors import GapError, PositionLostError

FORMAT = 1
HEADER = "freshet"  # one Kafka header per record: msgspec JSON of `Stamp`


class Upstream(msgspec.Struct, frozen=True, order=True):
    """One partition of one topic; `topic_id` tells a topic from another of the same name."""

    topic: str
    partition: int
    topic_id: str

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Range(msgspec.Struct, frozen=True):
    """Positions [start, end) of an upstream; empty when both are the same."""

    upstream: Upstream
    start: int
    end: int


class Stamp(msgspec.Struct, frozen=True):
    """What a record says of itself: its format, its writer, and the ranges its rows come from."""

    writer: str
    ranges: tuple[Range, ...]
    format: int = FORMAT

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def decode(raw: bytes) -> "Stamp":
        return msgspec.json.decode(raw, type=Stamp)


class Record(msgspec.Struct, frozen=True):
    """One record of a stage's input partition. `rows` has `source` (index into ranges) and `offset` (in that upstream)."""

    offset: int
    stamp: Stamp
    rows: pl.DataFrame


class Positions:
    """Where a stage stands: the next record of its own partition, and the next row of every upstream behind it."""

    def __init__(self, own: Upstream, next_offset: int = 0, expected: dict[tuple[str, int], tuple[str, int]] | None = None):
        self.own = own
        self.next_offset = next_offset
        self._expected = expected or {}  # (topic, partition) -> (topic id, next position)
        self.skipped_rows = 0

    def admit(self, record: Record) -> pl.DataFrame | None:
        """The rows of `record` not yet seen, in order; None where the record itself was already applied.

        Raises:
            GapError: the record, or one of its ranges, starts behind the next expected position.
            PositionLostError: a range comes from another topic of the same name.
        """
        if record.offset < self.next_offset:
            return None
        if record.offset > self.next_offset:
            raise GapError(f"{self.own}: expected offset {self.next_offset}, got {record.offset}; {REBUILD}")
        floors = [self._floor(r) for r in record.stamp.ranges]
        rows = self._above(record, floors)
        for r, floor in zip(record.stamp.ranges, floors, strict=True):
            self._expected[r.upstream.topic, r.upstream.partition] = (r.upstream.topic_id, max(floor, r.end))
        self.next_offset = record.offset + 1
        return rows

    def _floor(self, r: Range) -> int:
        """The lowest position of this range's upstream that still counts."""
        key = (r.upstream.topic, r.upstream.partition)
        topic_id, expected = self._expected.get(key, (r.upstream.topic_id, r.start))
        if topic_id != r.upstream.topic_id:
            raise PositionLostError(f"{r.upstream} was made anew (id {topic_id} became {r.upstream.topic_id}); {REBUILD}")
        if r.start > expected:
            raise GapError(f"{self.own} at {self.next_offset}: {r.upstream} goes on at {r.start}, expected {expected}; {REBUILD}")
        return expected

    def _above(self, record: Record, floors: Sequence[int]) -> pl.DataFrame:
        starts = [r.start for r in record.stamp.ranges]
        if all(floor <= start for floor, start in zip(floors, starts, strict=True)) or record.rows.is_empty():
            return record.rows
        floor_of = pl.col("source").replace_strict(range(len(floors)), floors, return_dtype=pl.Int64)
        rows = record.rows.filter(pl.col("offset") >= floor_of)
        self.skipped_rows += record.rows.height - rows.height
        return rows

    def to_json(self) -> bytes:
        """A canonical text: equal positions give equal bytes."""
        expected = [[*key, *value] for key, value in sorted(self._expected.items())]
        return msgspec.json.encode({"own": self.own, "next_offset": self.next_offset, "expected": expected})

    @classmethod
    def from_json(cls, raw: bytes) -> "Positions":
        stored = msgspec.json.decode(raw)
        expected = {(t, p): (topic_id, at) for t, p, topic_id, at in stored["expected"]}
        return cls(msgspec.convert(stored["own"], Upstream), stored["next_offset"], expected)


REBUILD = "to rebuild from the retained events, set `namespace` (FRESHET_NAMESPACE) to a new name and start again"
