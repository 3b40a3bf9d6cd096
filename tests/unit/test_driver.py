"""The driver: records together or one by one give the same, and nothing is applied twice."""

from pathlib import Path

import polars as pl
import pytest

from core.driver import StageDriver
from core.errors import GapError, PositionLostError
from core.position import Range, Record, Stamp, Upstream
from core.snapshot import Snapshot
from core.stage import Publication
from tests.snapshots import save

OWN = Upstream("examples", 0, "e")
UPSTREAM = Upstream("batches", 0, "b")


class Notes:
    """A stage that writes down what it is given; as one that is no sink, it passes rows on."""

    def __init__(self, sink: bool) -> None:
        self.sink = sink
        self.seen: list[int | None] = []
        self.calls = 0

    def apply(self, rows: pl.DataFrame, offset: int) -> pl.DataFrame | None:
        self.calls += 1
        self.seen += rows["offset"].to_list()
        return None if self.sink else rows

    def publish(self) -> Publication | None:
        return None

    def snapshot(self, into: Snapshot) -> None:
        into.write("seen", ",".join(map(str, self.seen)).encode())

    def restore(self, directory: Path) -> None:
        self.seen = [int(number) for number in (directory / "seen").read_text().split(",")]

    def digest(self) -> str:
        return repr(self.seen)

    def close(self) -> None:
        pass


def record(offset: int, start: int, end: int, extra: bool = False, upstream: Upstream = UPSTREAM) -> Record:
    rows = pl.DataFrame(
        {"source": [0] * (end - start), "offset": list(range(start, end))}, schema={"source": pl.UInt16, "offset": pl.Int64}
    )
    return Record(offset, Stamp("w", (Range(upstream, start, end),)), rows.with_columns(user=pl.lit(1.0)) if extra else rows)


# A tick (no rows), a repeated range, an overlapping one, and rows with and without the user columns.
LOG = [record(0, 0, 3), record(1, 3, 3), record(2, 3, 5, extra=True), record(3, 3, 5, extra=True), record(4, 4, 8), record(5, 8, 9)]


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize("cut", range(len(LOG) + 1))
def test_together_as_one_by_one(sink: bool, cut: int) -> None:
    single, together = StageDriver(Notes(sink), OWN), StageDriver(Notes(sink), OWN)
    outputs = [(r.offset, rows.rows()) for r in LOG if (rows := single.apply(r)) is not None]
    found = [*together.apply_all(LOG[:cut]), *together.apply_all(LOG[cut:])]
    assert together.stage.digest() == single.stage.digest() == repr(list(range(9)))
    assert together.positions.to_json() == single.positions.to_json()
    assert together.positions.skipped_rows == single.positions.skipped_rows == 3
    assert [(r.offset, rows.rows()) for r, rows in found] == outputs


def test_a_sink_takes_records_in_one_call() -> None:
    notes = Notes(sink=True)
    StageDriver(notes, OWN).apply_all(LOG)
    assert notes.calls == 1


@pytest.mark.parametrize("sink", [True, False])
def test_records_applied_before_are_skipped(sink: bool) -> None:
    notes = Notes(sink)
    driver = StageDriver(notes, OWN)
    driver.apply_all(LOG)
    calls = notes.calls
    assert driver.apply_all(LOG) == []
    assert (notes.calls, driver.positions.next_offset) == (calls, 6)
    assert driver.apply(LOG[0]) is None


@pytest.mark.parametrize("sink", [True, False])
def test_a_hole_is_an_error(sink: bool) -> None:
    for hole in ([record(1, 0, 3)], [record(0, 0, 3), record(1, 4, 5)], [record(0, 0, 3), record(2, 3, 5)]):
        with pytest.raises(GapError, match="set `namespace`"):
            StageDriver(Notes(sink), OWN).apply_all(hole)


def test_another_topic_of_the_same_name_is_an_error() -> None:
    anew = Upstream("batches", 0, "other")
    with pytest.raises(PositionLostError, match="made anew"):
        StageDriver(Notes(True), OWN).apply_all([record(0, 0, 3), record(1, 3, 5, upstream=anew)])


def test_a_snapshot_goes_on_where_it_was_taken(tmp_path: Path) -> None:
    driver, restored = StageDriver(Notes(True), OWN), StageDriver(Notes(True), OWN)
    driver.apply_all(LOG[:3])
    save(driver, tmp_path)
    restored.restore(tmp_path)
    for each in (driver, restored):
        each.apply_all(LOG)
    assert restored.stage.digest() == driver.stage.digest() == repr(list(range(9)))
    assert restored.positions.to_json() == driver.positions.to_json()
    with pytest.raises(PositionLostError, match="set `namespace`"):
        StageDriver(Notes(True), Upstream("examples", 0, "anew")).restore(tmp_path)
