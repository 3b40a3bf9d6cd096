"""The outbox: what several partitions hand over goes out merged, bounded, and with its failures told."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from core.errors import SendError
from core.position import Positions, Range, Record, Stamp, Upstream
from core.schemas import decode
from monitoring.metrics import Metrics
from streams import outbox as module
from streams.outbox import MAX_ROWS, Outbox, merge
from streams.writer import Headers, Writer
from tests.unit.test_writer import Held

UPSTREAMS = [Upstream("batches", p, "b") for p in range(3)]


def rows(upstream: int, offset: int, count: int) -> pl.DataFrame:
    """Rows that say where they come from; `source` is what the merge must replace."""
    schema = {"source": pl.UInt16, "offset": pl.Int64, "row": pl.Int32, "upstream": pl.Int16}
    return pl.DataFrame([{"source": 9, "offset": offset, "row": i, "upstream": upstream} for i in range(count)], schema=schema)


def handed_over(order: list[tuple[int, int]]) -> list[module._Output]:
    """Outputs of one record each, contiguous per upstream, in the given order of (upstream, rows)."""
    at = dict.fromkeys(range(3), 5)
    outputs = []
    for upstream, count in order:
        outputs.append(module._Output(Range(UPSTREAMS[upstream], at[upstream], at[upstream] + 1), rows(upstream, at[upstream], count)))
        at[upstream] += 1
    return outputs


ORDERS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=20)


@given(ORDERS, st.lists(st.integers(1, 5), min_size=1))
def test_merged_records_are_contiguous_and_hold_every_row_in_order(order: list[tuple[int, int]], sizes: list[int]) -> None:
    outputs, records = handed_over(order), []
    pending = list(outputs)
    for size in itertools.cycle(sizes):
        if not pending:
            break
        records.append(merge("features", pending[:size]))
        pending = pending[size:]
    positions, seen = Positions(Upstream("examples", 0, "e")), []
    for at, (stamp, merged) in enumerate(records):
        assert len({r.upstream for r in stamp.ranges}) == len(stamp.ranges)
        admitted = positions.admit(Record(at, stamp, merged))  # raises where a range has a hole before it
        assert admitted is not None
        assert all(stamp.ranges[source].upstream.partition == p for source, p in merged.select("source", "upstream").iter_rows())
        seen += admitted.drop("source").rows()
    assert seen == [row for output in outputs for row in output.rows.drop("source").rows()]


def run(scenario: Callable[[Outbox, Held], Awaitable[None]]) -> None:
    async def inside() -> None:
        held = Held()
        box = Outbox("features", "examples", Writer(held), Metrics(CollectorRegistry()))
        try:
            await scenario(box, held)
        finally:
            await box.close()

    asyncio.run(inside())


async def until(condition: Callable[[], bool]) -> None:
    """Encoding happens on another thread, so that turns of the loop are not enough."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0.001)


def test_what_waits_during_a_send_goes_out_as_one() -> None:
    async def scenario(box: Outbox, held: Held) -> None:
        outputs = handed_over([(0, 1), (1, 2), (0, 1), (1, 0)])
        await box.add(*outputs[0])
        await until(lambda: len(held.sent) == 1)
        for output in outputs[1:]:
            await box.add(*output)
        flushed = asyncio.create_task(box.flush())
        await asyncio.sleep(0.02)
        assert len(held.sent) == 1  # the first is not acknowledged
        held.acknowledge(0)
        await until(lambda: len(held.sent) == 2)
        assert not flushed.done()
        held.acknowledge(1)
        await flushed
        sizes = [decode(value or b"").height for value in held.values]
        assert sizes == [1, 3]

    run(scenario)


def test_flush_of_nothing_returns() -> None:
    async def scenario(box: Outbox, held: Held) -> None:
        await box.flush()
        assert held.sent == []

    run(scenario)


def test_add_waits_where_too_much_waits() -> None:
    async def scenario(box: Outbox, held: Held) -> None:
        first, many, blocked = handed_over([(0, 1), (0, MAX_ROWS), (0, 1)])
        await box.add(*first)
        await until(lambda: len(held.sent) == 1)
        await box.add(*many)
        adding = asyncio.create_task(box.add(*blocked))
        await asyncio.sleep(0.02)
        assert not adding.done()
        held.acknowledge(0)
        await until(lambda: len(held.sent) == 2)
        await adding
        held.acknowledge(1)
        await until(lambda: len(held.sent) == 3)
        held.acknowledge(2)
        await box.flush()

    run(scenario)


def test_a_record_stays_below_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORD_BYTES", 2_000)

    async def scenario(box: Outbox, held: Held) -> None:
        for output in handed_over([(0, 100)] * 6):
            await box.add(*output)
        flushed = asyncio.create_task(box.flush())
        acknowledged = 0
        while not flushed.done():
            await until(lambda: len(held.sent) > acknowledged or flushed.done())  # noqa: B023  # called at once
            for index in range(acknowledged, len(held.sent)):
                held.acknowledge(index)
            acknowledged = len(held.sent)
        await flushed
        heights = [decode(value or b"").height for value in held.values]
        assert sum(heights) == 600
        assert len(heights) > 1
        assert max(heights) < 600

    run(scenario)


def test_a_failure_is_told_to_all_and_nothing_more_is_sent() -> None:
    async def scenario(box: Outbox, held: Held) -> None:
        outputs = handed_over([(0, 1), (0, MAX_ROWS), (0, 1), (0, 1)])
        await box.add(*outputs[0])
        await until(lambda: len(held.sent) == 1)
        await box.add(*outputs[1])
        waiting = [asyncio.create_task(box.add(*outputs[2])), asyncio.create_task(box.flush())]
        await asyncio.sleep(0.01)
        held.fail(0)
        for task in waiting:
            with pytest.raises(SendError, match="nothing more goes to examples"):
                await task
        with pytest.raises(SendError):
            await box.add(*outputs[3])
        with pytest.raises(SendError):
            await box.flush()
        assert len(held.sent) == 1

    run(scenario)


def test_the_stamp_travels_in_the_header() -> None:
    sent: list[Headers] = []

    class Writes(Writer):
        async def send(self, topic: str, partition: int, value: bytes | None, headers: Headers, key: bytes | None = None) -> None:
            sent.append(headers)

    async def inside() -> None:
        box = Outbox("features", "examples", Writes(Held()), Metrics(CollectorRegistry()))
        await box.add(*handed_over([(2, 3)])[0])
        await box.flush()
        await box.close()

    asyncio.run(inside())
    [[(name, raw)]] = sent
    assert (name, Stamp.decode(raw or b"")) == ("freshet", Stamp("features", (Range(UPSTREAMS[2], 5, 6),)))
