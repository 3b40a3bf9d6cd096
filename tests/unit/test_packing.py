"""The packer against an obvious account of what it was given: every row once, in its user's partition, under contiguous ranges."""

import itertools
from collections.abc import Sequence

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from core.hashing import partition_of
from core.position import Positions, Record, Upstream
from core.schemas import BATCHES, EVENT, EXAMPLE_BASE, ITEM, TICK
from streams.decode import ROWS
from streams.packing import WRITER, Chunk, Output, Packed, Packer

SOURCES = [Upstream("events", 0, "e"), Upstream("events", 1, "e"), Upstream("items", 0, "i")]
EXAMPLES = Output("examples", 0)
START = 100  # so that ranges do not begin at 0
T0 = 1_714_564_800_000


def chunk(source: Upstream, offsets: Sequence[int], end: int) -> Chunk:
    """One row per offset: events of a few users, or catalogue entries."""
    kind = ITEM if source.topic == "items" else EVENT
    rows = [
        {
            "kind": kind,
            "offset": at,
            "sent_ms": T0 + at,
            "ts_ms": T0 + at,
            "user_id": f"u{at % 7}" if kind == EVENT else None,
            "item_id": f"i{at}",
        }
        for at in offsets
    ]
    return Chunk(pl.DataFrame(rows, schema=ROWS), end)


def packer(batches: int) -> Packer:
    return Packer([Output("batches", p) for p in range(batches)], EXAMPLES, dict.fromkeys(SOURCES, START))


@st.composite
def rounds(draw: st.DrawFn) -> list[dict[Upstream, tuple[list[int], int]]]:
    """Rounds of input: per source, which offsets of the next stretch became rows (the rest are dead letters or compacted)."""
    ends = dict.fromkeys(SOURCES, START)
    found = []
    for _ in range(draw(st.integers(1, 6))):
        taken = {}
        for source in SOURCES:
            length = draw(st.integers(0, 5))
            if length:
                kept = draw(st.lists(st.booleans(), min_size=length, max_size=length))
                first, ends[source] = ends[source], ends[source] + length
                taken[source] = ([first + i for i in range(length) if kept[i]], ends[source])
        found.append(taken)
    return found


def pack_all(own: Packer, given_rounds: list[dict[Upstream, tuple[list[int], int]]], ticks: Sequence[bool]) -> list[Packed]:
    packed: list[Packed] = []
    for taken, tick in zip(given_rounds, itertools.cycle(ticks), strict=False):
        packed += own.pack({source: chunk(source, *stretch) for source, stretch in taken.items()})
        packed += own.tick() if tick else []
    return [*packed, *own.tick()]


@given(rounds(), st.integers(1, 4), st.lists(st.booleans(), min_size=1, max_size=4))
def test_every_row_once_under_contiguous_ranges(
    given_rounds: list[dict[Upstream, tuple[list[int], int]]], batches: int, ticks: list[bool]
) -> None:
    own = packer(batches)
    packed = pack_all(own, given_rounds, ticks)
    sent = {source: [at for taken in given_rounds for at in taken.get(source, ([], 0))[0]] for source in SOURCES}
    events = {(source, at) for source in SOURCES[:2] for at in sent[source]}
    seen: list[tuple[Upstream, int]] = []
    for output in (*own.batches, EXAMPLES):
        records = [p for p in packed if p.output == output]
        _contiguous(records, own.ends)
        catalogue = _rows(records, ITEM)
        assert catalogue == [(SOURCES[2], at) for at in sent[SOURCES[2]]]
        found = _rows(records, EVENT)
        seen += found
        assert all(partition_of(f"u{at % 7}", batches) == output.partition for _, at in found)
        for source in SOURCES[:2]:
            assert [at for of, at in found if of == source] == sorted(at for of, at in found if of == source)
    assert len(seen) == len(events)
    assert set(seen) == events


def _contiguous(records: Sequence[Packed], ends: dict[Upstream, int]) -> None:
    """From the start to the end, with no hole; and a reader that checks finds none."""
    for index, source in enumerate(sorted(SOURCES)):
        bounds = [(p.stamp.ranges[index].start, p.stamp.ranges[index].end) for p in records]
        assert [p.stamp.ranges[index].upstream for p in records] == [source] * len(records)
        assert bounds[0][0] == START
        assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
        assert bounds[-1][1] == ends[source]
    positions = Positions(Upstream("out", 0, "o"))
    for at, p in enumerate(records):
        assert p.stamp.writer == WRITER
        admitted = positions.admit(Record(at, p.stamp, p.rows))
        assert admitted is not None
        assert admitted.equals(p.rows)


def _rows(records: Sequence[Packed], kind: int) -> list[tuple[Upstream, int]]:
    """(source, offset) of the rows of a kind, in order; each lies in its range."""
    found = []
    for p in records:
        for source, at in p.rows.filter(pl.col("kind") == kind).select("source", "offset").iter_rows():
            covered = p.stamp.ranges[source]
            assert covered.start <= at < covered.end
            found.append((covered.upstream, at))
    return found


def test_schemas_of_what_flows_out() -> None:
    own = packer(3)
    packed = [*own.pack({s: chunk(s, [START, START + 1], START + 2) for s in SOURCES}), *own.tick()]
    for p in packed:
        expected = EXAMPLE_BASE if p.output == EXAMPLES else BATCHES
        assert p.rows.schema == expected
    [items] = [p.rows for p in packed if p.output == EXAMPLES and p.rows.height]
    assert items.select("kind", "upstream", "row").rows() == [(ITEM, -1, 0), (ITEM, -1, 1)]


def test_the_catalogue_stands_ahead_of_its_rounds_events() -> None:
    packed = packer(1).pack({s: chunk(s, [START], START + 1) for s in SOURCES})
    [batch] = [p.rows for p in packed if p.output.topic == "batches"]
    assert batch["kind"].to_list() == [ITEM, EVENT, EVENT]


def test_silence_costs_no_record_until_the_tick() -> None:
    own = packer(2)
    assert own.pack({SOURCES[0]: chunk(SOURCES[0], [], START + 9)}) == []
    ticks = own.tick()
    assert [p.output for p in ticks] == [*own.batches, EXAMPLES]
    assert all(p.stamp.ranges[0].end == START + 9 for p in ticks)


def test_ticks_tell_the_time_once_the_clock_is_sure_of_it() -> None:
    own = packer(1)
    own.pack({SOURCES[0]: chunk(SOURCES[0], range(START, START + 14), START + 14)})
    assert own.tick()[0].rows.select("kind", "ts_ms").rows() == [(TICK, 0)]
    own.pack({SOURCES[0]: chunk(SOURCES[0], [START + 14], START + 15)})
    assert own.tick()[0].rows.select("kind", "ts_ms").rows() == [(TICK, own.clock.ms)]
    assert own.clock.ms > T0
