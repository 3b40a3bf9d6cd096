"""Sends events as a producer would: the bytes as they are given, whatever ingest will say of them."""

import asyncio
import logging
from typing import NoReturn

import msgspec
from aiokafka.errors import KafkaError

from core.errors import FreshetError
from streams.settings import Settings
from streams.writer import Producer, producer

log = logging.getLogger(__name__)
SEND_SECONDS, STOP_SECONDS = 8.0, 5.0


class Event(msgspec.Struct, forbid_unknown_fields=True):
    """What the page's form sends: the record's value as text, valid or not, and its key."""

    value: str
    key: str | None = None


class EventSender:
    """One producer, made with the first event; a failed one is let go of, and the next event makes another."""

    def __init__(self, s: Settings) -> None:
        self._s = s
        self._client: Producer | None = None
        self._starting = asyncio.Lock()

    async def send(self, event: Event) -> dict[str, object]:
        """Where Kafka put it.

        Raises:
            FreshetError: it was not acknowledged.
        """
        key = event.key.encode() if event.key else None
        try:
            async with asyncio.timeout(SEND_SECONDS):
                client = await self._started()
                sent = await client.send(self._s.events_topic, event.value.encode(), key, None, None, [])
                record = await sent
        except TimeoutError:
            await self._fail(f"Kafka did not acknowledge the event within {SEND_SECONDS:.0f} s; it may have arrived all the same")
        except (KafkaError, OSError) as error:
            await self._fail(f"Kafka at {self._s.bootstrap_servers} did not take the event: {error!r}")
        return {"topic": record.topic, "partition": record.partition, "offset": record.offset}

    async def _started(self) -> Producer:
        async with self._starting:
            if self._client is None:
                client = producer(self._s)
                try:
                    await client.start()
                except BaseException:
                    await _stopped(client)
                    raise
                self._client = client
            return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _stopped(client)

    async def _fail(self, why: str) -> NoReturn:
        await self.close()
        raise FreshetError(why)


async def _stopped(client: Producer) -> None:
    """What Kafka does not acknowledge is not waited for."""
    try:
        await asyncio.wait_for(client.stop(), STOP_SECONDS)
    except (TimeoutError, KafkaError) as error:
        log.warning("the producer did not stop in order: %r", error)
