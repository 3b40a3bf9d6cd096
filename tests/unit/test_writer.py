"""The writer: one unacknowledged record per partition, and nothing after the first failure."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from core.errors import SendError
from streams.writer import MAX_POSTED, Headers, Writer


class Held:
    """A producer whose acknowledgements the test gives: `sent` holds a future per record, in order."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, bytes | None, asyncio.Future[Any]]] = []
        self.raises: Exception | None = None
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")

    async def send(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, timestamp_ms: int | None, headers: Headers
    ) -> "asyncio.Future[Any]":
        if self.raises is not None:
            raise self.raises
        self.sent.append((topic, partition, value, asyncio.get_running_loop().create_future()))
        return self.sent[-1][3]

    def acknowledge(self, index: int) -> None:
        self.sent[index][3].set_result(None)

    def fail(self, index: int) -> None:
        self.sent[index][3].set_exception(KafkaTimeoutError())

    @property
    def values(self) -> list[bytes | None]:
        return [value for _, _, value, _ in self.sent]


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_record_in_flight_per_partition() -> None:
    async def scenario() -> None:
        held = Held()
        writer = Writer(held)
        await writer.send("t", 0, b"a", [])
        await writer.send("t", 1, b"b", [])
        third = asyncio.create_task(writer.send("t", 0, b"c", []))
        await settled()
        assert held.values == [b"a", b"b"]
        held.acknowledge(0)
        await third
        assert held.values == [b"a", b"b", b"c"]

    asyncio.run(scenario())


def test_flush_waits_for_what_another_waits_for() -> None:
    """A checkpoint may not be durable while a record that belongs before it is only about to be acknowledged."""

    async def scenario() -> None:
        held = Held()
        writer = Writer(held)
        await writer.send("t", 0, b"a", [])
        await writer.post("p", 0, b"b", [])
        waiting = [asyncio.create_task(coroutine) for coroutine in (writer.flush(), writer.flush(), writer.settle("t", 0))]
        await settled()
        waiting[0].cancel()
        await settled()
        held.acknowledge(0)
        await settled()
        assert waiting[2].done()
        assert not waiting[1].done()
        second = asyncio.create_task(writer.flush())
        await settled()
        held.fail(1)
        await settled()
        for flushed in (waiting[1], second):
            assert isinstance(flushed.exception(), SendError)

    asyncio.run(scenario())


def test_flush_waits_for_everything() -> None:
    async def scenario() -> None:
        held = Held()
        writer = Writer(held)
        await writer.send("t", 0, b"a", [])
        await writer.post("p", 0, b"b", [])
        flushed = asyncio.create_task(writer.flush())
        for index in range(2):
            await settled()
            assert not flushed.done()
            held.acknowledge(index)
        await flushed
        await writer.flush()  # nothing left

    asyncio.run(scenario())


def test_send_all_waits_for_every_acknowledgement() -> None:
    async def scenario() -> None:
        held = Held()
        async with asyncio.TaskGroup() as tasks:
            letters = tasks.create_task(Writer(held).send_all("dlt", [(None, b"x", 7, []) for _ in range(3)]))
            await settled()
            assert [(topic, p) for topic, p, _, _ in held.sent] == [("dlt", None)] * 3
            for index in (2, 0, 1):
                assert not letters.done()
                held.acknowledge(index)
                await settled()

    asyncio.run(scenario())


def test_posts_do_not_wait_until_there_are_many() -> None:
    async def scenario() -> None:
        held = Held()
        writer = Writer(held)
        for _ in range(MAX_POSTED):
            await writer.post("p", 0, b"x", [])
        one_more = asyncio.create_task(writer.post("p", 0, b"x", []))
        await settled()
        assert len(held.sent) == MAX_POSTED
        held.acknowledge(0)
        await one_more
        assert len(held.sent) == MAX_POSTED + 1

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["settle", "send", "flush", "post", "send_all"])
def test_a_failed_record_is_the_last(how: str) -> None:
    """Whatever first looks at the failure raises, and from then on nothing reaches the client."""

    async def scenario() -> None:
        held = Held()
        writer = Writer(held)
        if how == "post":
            await writer.post("t", 0, b"a", [])
        elif how != "send_all":
            await writer.send("t", 0, b"a", [])
        looks: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "settle": lambda: writer.settle("t", 0),
            "send": lambda: writer.send("t", 0, b"b", []),
            "flush": writer.flush,
            "post": lambda: writer.post("t", 0, b"b", []),
            "send_all": lambda: writer.send_all("t", [(None, b"a", 0, [])]),
        }
        look = asyncio.create_task(looks[how]())
        await settled()
        if how == "post":  # it went out beside the first, whose failure the next one meets
            await look
            held.fail(0)
            look = asyncio.create_task(looks[how]())
        else:
            held.fail(0)
        with pytest.raises(SendError, match="started again") as failed:
            await look
        assert isinstance(failed.value.__cause__, KafkaTimeoutError)
        sent = len(held.sent)
        for again in (looks["post"], looks["send_all"], lambda: writer.send("other", 3, b"c", [])):
            with pytest.raises(SendError, match="nothing more is sent"):
                await again()
        assert len(held.sent) == sent

    asyncio.run(scenario())


def test_what_the_client_refuses_is_a_failure_too() -> None:
    async def scenario() -> None:
        held = Held()
        writer = Writer(held)
        held.raises = MessageSizeTooLargeError("too large")
        with pytest.raises(SendError, match="too large"):
            await writer.send("t", 0, b"x", [])
        held.raises = None
        with pytest.raises(SendError, match="nothing more"):
            await writer.send("t", 1, b"x", [])
        assert held.sent == []

    asyncio.run(scenario())


def test_start_and_stop_are_the_clients() -> None:
    async def scenario() -> list[str]:
        held = Held()
        writer = Writer(held)
        await writer.start()
        await writer.stop()
        return held.calls

    assert asyncio.run(scenario()) == ["start", "stop"]
