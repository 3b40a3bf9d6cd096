"""The learner stage: one order of parts, cuts at fixed positions, and the same answer whatever the batches were."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from core.clock import MergedClock
from core.composite import CompositeStage
from core.driver import StageDriver
from core.errors import GapError, PositionLostError
from core.ids import SEGMENT_ROWS
from core.position import Range, Record, Stamp, Upstream
from core.schemas import EVENT, EXAMPLE_BASE, ITEM, TICK
from core.snapshot import Snapshot
from core.stage import Examples, Learner
from tests.snapshots import save

ROWS = 900


class Recorder:
    """A learner whose state is all that it was told, row by row, so that any difference in what it sees shows."""

    def __init__(self, name: str, reads: str | None = None) -> None:
        self.name, self.reads = name, reads
        self.seen: list[str] = []
        self.changed: dict[str, int] = {}

    def learn_many(self, examples: Examples) -> None:
        assert examples.first_ordinal // SEGMENT_ROWS == (examples.first_ordinal + examples.rows.height - 1) // SEGMENT_ROWS
        other = examples.columns[self.reads] if self.reads else np.zeros(examples.rows.height)
        for i, row in enumerate(examples.rows.iter_rows(named=True)):
            ordinal = examples.first_ordinal + i
            self.seen.append(f"{ordinal} {row['kind']} {row['user_id']} {row['item_id']} {examples.clock_ms[i]} {other[i]}")
            self.changed[row["item_id"]] = ordinal
        examples.columns[self.name] = np.arange(examples.rows.height) + examples.first_ordinal

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        self.seen.append(f"segment ends at {ordinal} {clock_ms}")

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        return np.full(len(item_ids), np.nan, dtype=np.float32)

    def touched(self) -> dict[str, pl.DataFrame]:
        rows = pl.DataFrame({"id": list(self.changed), "version": list(self.changed.values())})
        self.changed = {}
        return {self.name: rows}

    def snapshot(self, into: Snapshot) -> None:
        linked = [] if into.previous is None else ["previous"]
        into.write("seen", "\n".join(self.seen).encode())
        into.write("links", ",".join(linked).encode())

    def restore(self, directory: Path) -> None:
        self.seen = (directory / "seen").read_text().split("\n")

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.seen).encode()).hexdigest()


def stage() -> CompositeStage:
    parts: list[Learner] = [Recorder("first"), Recorder("second", reads="first")]
    return CompositeStage(parts, upstreams=2)


def log() -> pl.DataFrame:
    """`examples` rows: events of two upstreams, the catalogue between them, and ticks."""
    rng = np.random.Generator(np.random.Philox(1))
    kind = rng.choice([EVENT, EVENT, EVENT, ITEM, TICK], ROWS)
    columns = {
        "kind": kind,
        "upstream": np.where(kind == ITEM, -1, rng.integers(0, 2, ROWS)),
        "clock_ms": np.where(kind == ITEM, 0, 1_000 * np.arange(ROWS) + rng.integers(-5_000, 5_000, ROWS)),
        "sent_ms": 10**9 + np.arange(ROWS),
        "user_id": [f"u{i}" for i in rng.integers(0, 50, ROWS)],
        "item_id": [f"v{i}" for i in rng.integers(0, 50, ROWS)],
    }
    return pl.DataFrame({name: pl.Series(columns.get(name, [None] * ROWS), dtype=dtype) for name, dtype in EXAMPLE_BASE.items()})


def cuts(seed: int) -> Iterator[tuple[int, int]]:
    """Adjoining slices of the log, empty ones and ones across several segments among them."""
    rng, at = np.random.Generator(np.random.Philox(seed)), 0
    while at < ROWS:
        stop = min(ROWS, at + int(rng.choice([0, 1, 7, 100, 600])))
        yield at, stop
        at = stop


def seen(composite: CompositeStage) -> list[list[str]]:
    return [part.seen for part in composite.parts if isinstance(part, Recorder)]


@pytest.fixture(scope="module")
def whole() -> CompositeStage:
    composite = stage()
    composite.apply(log(), 0)
    return composite


def test_parts_see_every_event_and_item_once_with_its_clock(whole: CompositeStage) -> None:
    rows = log()
    clock_ms = MergedClock(2).advance(rows["upstream"].to_numpy(), rows["clock_ms"].to_numpy())
    kept = rows.with_columns(clock=pl.Series(clock_ms)).filter(pl.col("kind") != TICK)
    expected = [f"{i} {r['kind']} {r['user_id']} {r['item_id']} {r['clock']}" for i, r in enumerate(kept.iter_rows(named=True))]
    first, second = seen(whole)
    assert [line.removesuffix(" 0.0") for line in first if not line.startswith("segment")] == expected
    assert [line for line in second if not line.startswith("segment")] == [f"{line} {i}" for i, line in enumerate(expected)]


def test_maintenance_comes_at_fixed_positions(whole: CompositeStage) -> None:
    for lines in seen(whole):
        ends = [line.split()[3] for line in lines if line.startswith("segment")]
        assert ends == [str(k * SEGMENT_ROWS) for k in range(1, whole.ordinal // SEGMENT_ROWS + 1)]
        assert len(ends) >= 2


@pytest.mark.parametrize("seed", range(5))
def test_the_state_does_not_depend_on_the_cut(whole: CompositeStage, seed: int) -> None:
    composite = stage()
    for at, stop in cuts(seed):
        composite.apply(log()[at:stop], 0)
    assert seen(composite) == seen(whole)
    assert composite.digest() == whole.digest()


def test_the_state_survives_a_restore_at_any_point(whole: CompositeStage, tmp_path: Path) -> None:
    composite, previous = stage(), None
    for number, (at, stop) in enumerate(cuts(9)):
        composite.apply(log()[at:stop], 0)
        directory = tmp_path / str(number)
        directory.mkdir()
        save(composite, directory, previous)
        restored, previous = stage(), directory
        restored.restore(directory)
        assert restored.digest() == composite.digest()
        composite = restored
    assert number >= 5
    assert composite.digest() == whole.digest()
    assert (directory / "second" / "links").read_text() == "previous"


def test_the_digest_covers_clock_ordinal_and_parts() -> None:
    composite = stage()
    digests = {composite.digest()}
    composite.clock.advance(np.array([0, 1]), np.array([10, 20]))
    digests.add(composite.digest())
    composite.ordinal += 1
    digests.add(composite.digest())
    composite.parts[1].maintain(0, 0)
    digests.add(composite.digest())
    assert len(digests) == 4


def test_a_publication_holds_what_changed_since_the_last() -> None:
    composite, rows = stage(), log()
    assert composite.publish() is None
    composite.apply(rows[:50], 0)
    composite.apply(rows[50:80], 1)
    publication = composite.publish()
    assert publication is not None
    kept = rows[:80].filter(pl.col("kind") != TICK)
    newest = {item: i for i, item in enumerate(kept["item_id"])}
    assert {name: dict(table.iter_rows()) for name, table in publication.tables.items()} == {"first": newest, "second": newest}
    assert publication.sent_ms.tolist() == rows[:80].filter(pl.col("kind") == EVENT)["sent_ms"].to_list()
    assert (publication.version, publication.clock_ms) == (kept.height, composite.clock.ms)
    assert composite.publish() is None


# A stage with its position.

INPUT = Upstream("freshet.examples", 0, "id-a")
BATCHES = Upstream("freshet.batches", 0, "id-b")


def records() -> list[Record]:
    """The log in records of 90 rows; each row is its own upstream position."""
    rows = log().with_columns(source=pl.lit(0, dtype=pl.UInt16), offset=pl.int_range(ROWS, dtype=pl.Int64))
    return [Record(k, Stamp("w", (Range(BATCHES, 90 * k, 90 * k + 90),)), rows[90 * k : 90 * k + 90]) for k in range(ROWS // 90)]


def test_a_driver_applies_each_record_once_across_restores(whole: CompositeStage, tmp_path: Path) -> None:
    driver = StageDriver(stage(), INPUT)
    for entry in records()[:6]:
        driver.apply(entry)
        driver.apply(entry)  # redelivered
    save(driver, tmp_path)
    restored = StageDriver(stage(), INPUT)
    restored.restore(tmp_path)
    with pytest.raises(GapError):
        restored.apply(records()[7])
    for entry in records()[3:]:
        restored.apply(entry)
    assert restored.stage.digest() == whole.digest()


def test_a_driver_refuses_a_checkpoint_of_another_topic(tmp_path: Path) -> None:
    save(StageDriver(stage(), INPUT), tmp_path)
    anew = StageDriver(stage(), Upstream(INPUT.topic, INPUT.partition, "id-new"))
    with pytest.raises(PositionLostError, match=r"id-a.*id-new"):
        anew.restore(tmp_path)
