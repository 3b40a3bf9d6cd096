"""One send fails in the middle of a run: the writer stops there, and the next start leaves every event in the logs once."""

import asyncio
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiokafka.errors import KafkaTimeoutError

from core.errors import SendError
from core.schemas import EVENT, ITEM
from streams import bundled, processes
from streams.broker import EmbeddedBroker
from streams.settings import Settings
from streams.writer import Headers, Producer, Writer, producer
from tests import live, streams_support

pytestmark = pytest.mark.kafka
EVENTS, ITEMS, FAILING = 1_200, 40, 9


class FailsOnce:
    """A real producer, of which the n-th send to a topic fails; those after it would succeed.

    `how`: "raised" by send itself, "lost" through its future, "late": the record arrives all the same.
    """

    def __init__(self, client: Producer, topic: str, failing: int, how: str) -> None:
        self._client, self.topic, self.failing, self.how = client, topic, failing, how
        self.sent: list[tuple[str, int]] = []  # of every topic, (topic, partition)
        self.failed_at: int | None = None  # index in `sent`

    async def start(self) -> None:
        await self._client.start()

    async def stop(self) -> None:
        await self._client.stop()

    async def send(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, timestamp_ms: int | None, headers: Headers
    ) -> "asyncio.Future[Any]":
        self.sent.append((topic, partition))
        if sum(name == self.topic for name, _ in self.sent) != self.failing or topic != self.topic:
            return await self._client.send(topic, value, key, partition, timestamp_ms, headers)
        self.failed_at = len(self.sent) - 1
        if self.how == "raised":
            raise KafkaTimeoutError
        if self.how == "late":
            await (await self._client.send(topic, value, key, partition, timestamp_ms, headers))
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(KafkaTimeoutError())
        return failed


@pytest.mark.parametrize("how", ["raised", "lost", "late"])
def test_ingest_stops_at_the_first_failed_send(
    how: str, broker: EmbeddedBroker, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"events_partitions": 2, "batches_partitions": 3, "ingest_max_rows": 100, "ingest_linger_ms": 0}
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path, **more)
    live.produce(s, list(islice(bundled.item_messages(), ITEMS)), s.items_topic)
    live.produce(s, list(islice(bundled.event_messages(), EVENTS)), s.events_topic)
    made: list[FailsOnce] = []

    def failing(s: Settings) -> FailsOnce:
        made.append(FailsOnce(producer(s), s.batches_topic, FAILING, how))
        return made[-1]

    with monkeypatch.context() as patch, pytest.raises(SendError, match="goes on from the log"):
        patch.setattr(processes, "producer", failing)
        streams_support.ingest_all(s)
    [client] = made
    _nothing_behind_it(client)
    assert not live.ingested(s)
    streams_support.ingest_all(s)
    _everything_once(s)


def _nothing_behind_it(client: FailsOnce) -> None:
    """Until its failure is known, other partitions may be sent to, once each; the partition itself never again."""
    assert client.failed_at is not None
    failed, behind = client.sent[client.failed_at], client.sent[client.failed_at + 1 :]
    assert failed not in behind
    assert len(set(behind)) == len(behind)
    assert client.how != "raised" or not behind


def _everything_once(s: Settings) -> None:
    """Each source offset is in one row of `batches` that counts; `live.once` raises where a range is missing."""
    [items] = live.upstreams(s, s.items_topic)
    seen: list[tuple[int, int]] = []
    for upstream in live.upstreams(s, s.batches_topic):
        kept = live.once(live.retained(s, upstream), upstream)
        catalogue = [offset for _, rows in kept for offset in rows.filter(pl.col("kind") == ITEM)["offset"]]
        assert catalogue == list(range(live.end(s, items)))
        for record, rows in kept:
            partitions = [r.upstream.partition for r in record.stamp.ranges]
            events = rows.filter(pl.col("kind") == EVENT)
            seen += [(partitions[source], offset) for source, offset in events.select("source", "offset").iter_rows()]
    assert sorted(seen) == [(u.partition, at) for u in live.upstreams(s, s.events_topic) for at in range(live.end(s, u))]
    assert len(seen) == EVENTS


def test_after_a_failure_the_writer_sends_nothing_more(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path)
    asyncio.run(_send_on(s))
    ends = [live.end(s, u) for u in live.upstreams(s, s.batches_topic)]
    assert ends == [1, 1, 0, 0]


async def _send_on(s: Settings) -> None:
    client = FailsOnce(producer(s), s.batches_topic, 2, "lost")
    writer = Writer(client)
    await writer.start()
    for partition in (0, 0, 1):  # the second fails, which nobody has looked at when the third goes out
        await writer.send(s.batches_topic, partition, b"x", [])
    refused: Sequence[Any] = [
        lambda: writer.settle(s.batches_topic, 0),
        *(lambda p=p: writer.send(s.batches_topic, p, b"x", []) for p in range(3)),
        lambda: writer.post(s.parameters_topic, 0, b"x", []),
        lambda: writer.send_all(f"{s.events_topic}-dlt", [(None, b"x", 0, [])]),
    ]
    for attempt in refused:
        with pytest.raises(SendError):
            await attempt()
    assert client.sent == [(s.batches_topic, p) for p in (0, 0, 1)]
    await writer.stop()
