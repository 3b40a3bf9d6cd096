"""A stage with its position: the unit that every host drives, checkpoints and restores."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from core.errors import PositionLostError
from core.frames import stack
from core.position import REBUILD, Positions, Record, Upstream
from core.snapshot import Snapshot
from core.stage import Stage

_POSITIONS = "positions.json"


class StageDriver:
    """Feeds records to a stage once each, in order, and keeps state and position in one snapshot.

    In: records of one partition. Out: rows for the next log. State: the stage's, and the next position per upstream.
    """

    def __init__(self, stage: Stage, own: Upstream) -> None:
        self.stage = stage
        self.positions = Positions(own)

    def apply(self, record: Record) -> pl.DataFrame | None:
        """The stage's output rows; None where the record was applied before or gives nothing.

        Raises:
            GapError, PositionLostError: see `Positions.admit`.
        """
        rows = self.positions.admit(record)
        return None if rows is None else self.stage.apply(rows, record.offset)

    def apply_all(self, records: Sequence[Record]) -> list[tuple[Record, pl.DataFrame]]:
        """Apply consecutive records; the outputs, each with the record that it comes from. A sink takes them as one."""
        if not self.stage.sink:
            return [(record, rows) for record in records if (rows := self.apply(record)) is not None]
        admitted = [rows for record in records if (rows := self.positions.admit(record)) is not None and rows.height]
        if admitted:
            alike = all(rows.columns == admitted[0].columns for rows in admitted)
            self.stage.apply(stack(admitted) if alike else pl.concat(admitted, how="diagonal"), records[-1].offset)
        return []

    def snapshot(self, into: Snapshot) -> None:
        into.write(_POSITIONS, self.positions.to_json())
        self.stage.snapshot(into)

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            PositionLostError: it belongs to another topic than the one that is read now.
        """
        stored = Positions.from_json((directory / _POSITIONS).read_bytes())
        if stored.own != self.positions.own:
            raise PositionLostError(
                f"the checkpoint {directory.name} is of {stored.own} with id {stored.own.topic_id}, "
                f"but the topic's id is now {self.positions.own.topic_id}; {REBUILD}"
            )
        self.positions = stored
        self.stage.restore(directory)
