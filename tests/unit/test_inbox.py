"""The inbox: messages by partition and in order, bounded, and none from before a rebalance."""

import asyncio
from typing import NamedTuple

from streams.inbox import Inbox


class Message(NamedTuple):
    partition: int
    offset: int


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_has_arrived_is_taken_in_one_piece() -> None:
    async def scenario() -> None:
        inbox = Inbox(8)
        for partition in (0, 1):
            inbox.open(partition)
        for offset in range(3):
            await inbox.put(Message(0, offset))
        await inbox.put(Message(1, 7))
        assert await inbox.take(1) == [Message(1, 7)]
        assert await inbox.take(0) == [Message(0, offset) for offset in range(3)]
        waiting = asyncio.create_task(inbox.take(0))
        await settled()
        assert not waiting.done()
        await inbox.put(Message(0, 3))
        assert await waiting == [Message(0, 3)]

    asyncio.run(scenario())


def test_put_waits_for_room() -> None:
    async def scenario() -> None:
        inbox = Inbox(2)
        inbox.open(0)
        inbox.open(1)
        await inbox.put(Message(0, 0))
        await inbox.put(Message(1, 0))
        third = asyncio.create_task(inbox.put(Message(1, 1)))
        await settled()
        assert not third.done()
        assert await inbox.take(0) == [Message(0, 0)]
        await third
        assert await inbox.take(1) == [Message(1, 0), Message(1, 1)]

    asyncio.run(scenario())


def test_nothing_from_before_a_rebalance() -> None:
    """It comes again from the log, after what was dropped here: taken now it would be a gap."""

    async def scenario() -> None:
        inbox = Inbox(1)
        for partition in (0, 1):
            inbox.open(partition)
        await inbox.put(Message(0, 0))
        held = asyncio.create_task(inbox.put(Message(0, 1)))
        other = asyncio.create_task(inbox.take(1))
        await settled()
        await inbox.close({0, 1})
        await held
        assert await other == []
        assert await inbox.take(0) == []
        inbox.open(0)
        await inbox.put(Message(1, 5))  # not ours any more
        await inbox.put(Message(0, 0))
        assert await inbox.take(0) == [Message(0, 0)]

    asyncio.run(scenario())
