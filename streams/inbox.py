"""Messages on their way from Faust's agent to the stages: by partition, in order, bounded."""

import asyncio
from typing import Any


class Inbox:
    """One agent puts, one task per partition takes. Whatever has arrived meanwhile is taken in one piece."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: messages of all partitions that wait at most; then `put` waits."""
        self._capacity = capacity
        self._waiting: dict[int, list[Any]] = {}  # of the partitions that are ours
        self._rebalances = 0
        self._changed = asyncio.Condition()

    def open(self, partition: int) -> None:
        """From now on `take` waits for this partition's messages."""
        self._waiting.setdefault(partition, [])

    async def put(self, message: Any) -> None:
        """Hand over a message, once there is room. One that waited while partitions changed hands comes again from the log."""
        rebalances = self._rebalances
        async with self._changed:
            await self._changed.wait_for(lambda: self._count() < self._capacity)
            if rebalances == self._rebalances and message.partition in self._waiting:
                self._waiting[message.partition].append(message)
                self._changed.notify_all()

    async def take(self, partition: int) -> list[Any]:
        """All messages of a partition that have arrived, at least one; none once the partition was closed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting.get(partition) != [])
            if partition not in self._waiting:
                return []
            messages, self._waiting[partition] = self._waiting[partition], []
            self._changed.notify_all()
            return messages

    async def close(self, partitions: set[int]) -> None:
        """What waits for them is dropped, and `take` returns nothing more."""
        async with self._changed:
            self._rebalances += 1
            for partition in partitions:
                self._waiting.pop(partition, None)
            self._changed.notify_all()

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))
