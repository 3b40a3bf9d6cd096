"""Every upstream position takes effect exactly once, whatever was written twice, redelivered or restored."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from core.errors import GapError, PositionLostError
from core.position import FORMAT, Positions, Range, Record, Stamp, Upstream

EVENTS = (Upstream("events", 0, "id-a"), Upstream("events", 1, "id-a"))
ITEMS = Upstream("items", 0, "id-b")
OWN = Upstream("freshet.batches", 0, "id-c")


def record(offset: int, *ranges: tuple[Upstream, int, int], rows: list[tuple[int, int]] | None = None) -> Record:
    """A record whose rows (source, offset) are every position of its ranges, unless given."""
    made = [(source, at) for source, (_, start, end) in enumerate(ranges) for at in range(start, end)] if rows is None else rows
    frame = pl.DataFrame(made, schema={"source": pl.UInt16, "offset": pl.Int64}, orient="row")
    return Record(offset, Stamp("writer", tuple(Range(*r) for r in ranges)), frame)


def offsets(rows: pl.DataFrame | None) -> list[int]:
    assert rows is not None
    return rows["offset"].to_list()


def test_records_in_order_are_admitted_whole() -> None:
    positions = Positions(OWN)
    assert offsets(positions.admit(record(0, (ITEMS, 5, 8)))) == [5, 6, 7]
    assert offsets(positions.admit(record(1, (ITEMS, 8, 8)))) == []
    assert offsets(positions.admit(record(2, (ITEMS, 8, 10)))) == [8, 9]
    assert (positions.next_offset, positions.skipped_rows) == (3, 0)


def test_a_record_seen_before_is_skipped() -> None:
    positions = Positions(OWN)
    positions.admit(record(0, (ITEMS, 0, 3)))
    before = positions.to_json()
    assert positions.admit(record(0, (ITEMS, 0, 3))) is None
    assert positions.to_json() == before


def test_rows_seen_before_are_skipped_and_counted() -> None:
    positions = Positions(OWN)
    positions.admit(record(0, (ITEMS, 0, 5)))
    assert offsets(positions.admit(record(1, (ITEMS, 2, 7)))) == [5, 6]
    assert positions.skipped_rows == 3
    assert offsets(positions.admit(record(2, (ITEMS, 3, 6)))) == []  # wholly below: the expectation must not fall back
    assert offsets(positions.admit(record(3, (ITEMS, 7, 8)))) == [7]


def test_each_upstream_is_skipped_by_itself() -> None:
    positions = Positions(OWN)
    positions.admit(record(0, (EVENTS[0], 0, 4), (EVENTS[1], 10, 12)))
    rows = positions.admit(record(1, (EVENTS[1], 11, 14), (EVENTS[0], 4, 6)))
    assert rows is not None
    assert rows.rows() == [(0, 12), (0, 13), (1, 4), (1, 5)]


def test_a_missing_record_is_a_gap() -> None:
    positions = Positions(OWN)
    positions.admit(record(0, (ITEMS, 0, 3)))
    with pytest.raises(GapError, match=r"freshet\.batches/0: expected offset 1, got 2; .*FRESHET_NAMESPACE"):
        positions.admit(record(2, (ITEMS, 3, 4)))


def test_missing_rows_are_a_gap_and_change_nothing() -> None:
    positions = Positions(OWN)
    positions.admit(record(0, (EVENTS[0], 0, 3), (ITEMS, 0, 3)))
    before = positions.to_json()
    with pytest.raises(GapError, match="items/0 goes on at 4, expected 3"):
        positions.admit(record(1, (EVENTS[0], 3, 5), (ITEMS, 4, 5)))
    assert positions.to_json() == before


def test_an_empty_range_behind_a_hole_is_a_gap_too() -> None:
    positions = Positions(OWN)
    positions.admit(record(0, (ITEMS, 0, 3)))
    with pytest.raises(GapError):
        positions.admit(record(1, (ITEMS, 4, 4)))


def test_a_topic_made_anew_is_lost() -> None:
    positions = Positions(OWN)
    positions.admit(record(0, (ITEMS, 0, 3)))
    anew = Upstream(ITEMS.topic, ITEMS.partition, "id-new")
    with pytest.raises(PositionLostError, match=r"items/0 was made anew \(id id-b became id-new\)"):
        positions.admit(record(1, (anew, 3, 4)))


def test_positions_survive_the_snapshot_and_have_one_text() -> None:
    one, other = Positions(OWN), Positions(OWN)
    one.admit(record(0, (ITEMS, 0, 3), (EVENTS[1], 2, 4)))
    other.admit(record(0, (EVENTS[1], 2, 4), (ITEMS, 0, 3)))
    assert one.to_json() == other.to_json() == Positions.from_json(one.to_json()).to_json()
    restored = Positions.from_json(one.to_json())
    assert (restored.own, restored.next_offset) == (OWN, 1)
    assert offsets(restored.admit(record(1, (ITEMS, 1, 5)))) == [3, 4]


def test_stamps_survive_the_header() -> None:
    stamp = Stamp("features/0", (Range(ITEMS, 3, 9), Range(EVENTS[1], 4, 4)))
    assert Stamp.decode(stamp.encode()) == stamp
    assert stamp.format == FORMAT


# Writers that crash, start again too early, and overlap.


@dataclass
class Writer:
    """Goes on from `at`, in contiguous ranges of random length."""

    at: dict[Upstream, int]

    def ranges(self, rng: np.random.Generator, ends: dict[Upstream, int]) -> list[tuple[Upstream, int, int]]:
        chosen = [u for u in ends if rng.random() < 0.8] or list(ends)
        out = []
        for i in rng.permutation(len(chosen)):
            start = self.at[chosen[i]]
            self.at[chosen[i]] = min(ends[chosen[i]], start + int(rng.integers(0, 6)))
            out.append((chosen[i], start, self.at[chosen[i]]))
        return out


def written_log(rng: np.random.Generator, ends: dict[Upstream, int], present: dict[Upstream, set[int]]) -> list[Record]:
    """Two writers at a time; each may be replaced by one that starts at or below what the log already covers."""
    writers, log, covered = [Writer(dict.fromkeys(ends, 0)) for _ in range(2)], [], dict.fromkeys(ends, 0)
    while any(covered[u] < ends[u] for u in ends):
        who = int(rng.integers(0, 2))
        if rng.random() < 0.15:
            writers[who] = Writer({u: int(rng.integers(max(0, covered[u] - 9), covered[u] + 1)) for u in ends})
        ranges = writers[who].ranges(rng, ends)
        rows = [
            (s, at) for s, (u, start, end) in enumerate(ranges) for at in range(start, end) if at in present[u] for _ in range(1 + at % 2)
        ]
        log.append(record(len(log), *ranges, rows=rows))
        covered = {u: max([covered[u], *(end for v, _, end in ranges if v == u)]) for u in ends}
    return log


def delivered(rng: np.random.Generator, log: list[Record], positions: Positions) -> Iterator[tuple[Upstream, int]]:
    """What takes effect, with records redelivered and the stage restored from its snapshot now and then."""
    at, snapshot, since = 0, positions.to_json(), []
    while at < len(log):
        rows = positions.admit(log[at])
        since += [] if rows is None else [(log[at].stamp.ranges[source].upstream, offset) for source, offset in rows.rows()]
        at += 1
        chance = rng.random()
        if chance < 0.1:  # checkpoint
            yield from since
            snapshot, since = positions.to_json(), []
        elif chance < 0.2:  # crash: effects since the checkpoint are gone with the state
            positions, since = Positions.from_json(snapshot), []
            at = int(rng.integers(max(0, positions.next_offset - 3), positions.next_offset + 1))
    yield from since


@pytest.mark.parametrize("seed", range(60))
def test_every_position_takes_effect_once_and_in_order(seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    ends = {u: int(rng.integers(0, 60)) for u in (*EVENTS, ITEMS)}
    present = {u: {at for at in range(end) if rng.random() < 0.8} for u, end in ends.items()}  # the rest: dead letters, compaction
    log = written_log(rng, ends, present)
    effects = list(delivered(rng, log, Positions(OWN)))
    for upstream, there in present.items():
        expected = [at for at in sorted(there) for _ in range(1 + at % 2)]  # a position may give several rows
        assert [at for u, at in effects if u == upstream] == expected


def test_the_property_test_meets_what_it_is_about() -> None:
    """Its logs do hold rows twice, and without the skipping they would take effect twice."""
    rng = np.random.Generator(np.random.Philox(0))
    ends = dict.fromkeys((*EVENTS, ITEMS), 60)
    log = written_log(rng, ends, {u: set(range(60)) for u in ends})
    positions = Positions(OWN)
    for entry in log:
        positions.admit(entry)
    assert positions.skipped_rows > 20
    assert sum(entry.rows.height for entry in log) == positions.skipped_rows + 3 * 90
