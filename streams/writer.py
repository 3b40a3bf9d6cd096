"""The one way to write a derived log: every replica has it, in order, and the first failure is the last send."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from core.errors import SendError
from streams.settings import Settings
from streams.topics import DERIVED_RECORD_BYTES, security

log = logging.getLogger(__name__)
STOP_SECONDS = 5.0
MAX_POSTED = 32  # unacknowledged records without ranges
Headers = Sequence[tuple[str, bytes | None]]


class Producer(Protocol):
    """What the writer needs of a client; tests put a failing one in its place."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def send(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int | None, timestamp_ms: int | None, headers: Headers
    ) -> "asyncio.Future[Any]": ...


def producer(s: Settings) -> Producer:
    """An idempotent producer that waits for all replicas and does not linger: records are batches already."""
    client: Producer = AIOKafkaProducer(
        **security(s), acks="all", enable_idempotence=True, linger_ms=0, max_request_size=DERIVED_RECORD_BYTES, request_timeout_ms=15_000
    )
    return client


class Writer:
    """At most one unacknowledged record per output partition; after a failed send it refuses to go on.

    Were a later range acknowledged where an earlier one was lost, a hole would stand behind the tail for ever. Several coroutines
    share a writer: a record is let go of once it is acknowledged, not when somebody begins to wait for it.
    """

    def __init__(self, client: Producer) -> None:
        self._client = client
        self._open: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._posted: deque[asyncio.Future[Any]] = deque()
        self._failure: BaseException | None = None

    async def start(self) -> None:
        await self._client.start()

    async def stop(self) -> None:
        """Release the client. A cluster that is away is not waited for: what it did not acknowledge is in the log that it came from."""
        try:
            await asyncio.wait_for(self._client.stop(), STOP_SECONDS)
        except TimeoutError:
            log.warning("Kafka acknowledged nothing for %.0f s; the next start goes on from the log", STOP_SECONDS)

    async def send(self, topic: str, partition: int, value: bytes | None, headers: Headers, key: bytes | None = None) -> None:
        """Hand over one record, once the one before it on this partition is acknowledged.

        Raises:
            SendError: this or an earlier send failed; the process must end and recover from the log.
        """
        await self.settle(topic, partition)
        self._open[topic, partition] = await self._hand_over(topic, partition, value, headers, key, None)

    async def send_all(self, topic: str, records: Sequence[tuple[bytes | None, bytes | None, int, Headers]]) -> None:
        """Write records that carry no ranges (key, value, timestamp in ms, headers), where their keys lead, and wait for all."""
        futures = [await self._hand_over(topic, None, value, headers, key, ts) for key, value, ts, headers in records]
        for future in futures:
            await self._confirm(future)

    async def post(self, topic: str, partition: int, value: bytes, headers: Headers) -> None:
        """Hand over a record that carries no range, without waiting for the one before it; `flush` waits for all.

        Raises:
            SendError: an earlier send failed.
        """
        while len(self._posted) >= MAX_POSTED or (self._posted and self._posted[0].done()):
            await self._settle_posted(self._posted[0])
        self._posted.append(await self._hand_over(topic, partition, value, headers, None, None))

    async def flush(self) -> None:
        """Wait until everything handed over so far is acknowledged.

        Raises:
            SendError: a send failed, now or before.
        """
        self._check()
        posted = list(self._posted)
        for topic, partition in list(self._open):
            await self.settle(topic, partition)
        for future in posted:
            await self._settle_posted(future)

    async def settle(self, topic: str, partition: int) -> None:
        """Wait until the last record of this partition is acknowledged."""
        future = self._open.get((topic, partition))
        if future is not None:
            await self._confirm(future)
            if self._open.get((topic, partition)) is future:
                del self._open[topic, partition]

    async def _settle_posted(self, future: "asyncio.Future[Any]") -> None:
        await self._confirm(future)
        while self._posted and self._posted[0].done():
            await self._confirm(self._posted.popleft())

    async def _hand_over(
        self, topic: str, partition: int | None, value: bytes | None, headers: Headers, key: bytes | None, timestamp_ms: int | None
    ) -> "asyncio.Future[Any]":
        self._check()
        try:
            return await self._client.send(topic, value, key, partition, timestamp_ms, headers)
        except KafkaError as error:
            raise self._fail(error) from error

    async def _confirm(self, future: "asyncio.Future[Any]") -> None:
        self._check()
        try:
            await asyncio.shield(future)  # others wait for it too: who is cancelled must not cancel it for them
        except KafkaError as error:
            raise self._fail(error) from error

    def _check(self) -> None:
        if self._failure is not None:
            raise SendError("an earlier send failed; nothing more is sent") from self._failure

    def _fail(self, error: KafkaError) -> SendError:
        self._failure = error
        return SendError(f"a send failed ({error!r}); the process ends and goes on from the log when it is started again")
