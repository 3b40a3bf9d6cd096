"""A Freshet on the test broker: real processes to start, kill and stop, and what their logs and checkpoints hold."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from zlib import crc32

import polars as pl
from aiokafka import TopicPartition
from kafka import KafkaProducer

from core.driver import StageDriver
from core.position import Positions, Record, Upstream
from core.stage import Publication, Stage
from streams import pipeline, topics
from streams.checkpoints import Checkpoints
from streams.host import checkpoints_of
from streams.ingest import tail
from streams.packing import Output
from streams.parameters import Assembler
from streams.reading import at, consumer, release
from streams.replay import records
from streams.settings import Settings, load
from streams.supervisor import Child

Message = tuple[bytes | None, bytes | None]


def settings(bootstrap_servers: str, namespace: str, data_dir: Path, **more: object) -> Settings:
    """Everything in the test's own namespace; checkpoints often; small tables."""
    own: dict[str, object] = {
        "events_topic": f"{namespace}events",
        "items_topic": f"{namespace}items",
        "checkpoint_seconds": 0.5,
        "tick_seconds": 0.2,
        "session_timeout_seconds": 6,
        "max_users": 1 << 15,
        "max_items": 1 << 14,
        "http_port": 0,
    }
    s = load(bootstrap_servers=bootstrap_servers, namespace=namespace, data_dir=data_dir, **{**own, **more})
    with topics.admin(s) as admin:
        admin.create(topics.table(s), 1)
    return s


class Processes:
    """Children by name, of which tests kill some; a second of a kind is called KIND-2. Ends all on exit."""

    def __init__(self, s: Settings, names: Iterable[str] = ("ingest", "features", "learner")) -> None:
        logs = s.data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.children = {name: Child(name, s, logs, kind=name.partition("-")[0]) for name in names}

    def __enter__(self) -> "Processes":
        for child in self.children.values():
            child.start()
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for name in self.children:
                stack.callback(self.stop, name)

    def kill(self, name: str) -> None:
        """SIGKILL, then a new one of the same name."""
        child = self.children[name]
        assert child.process is not None and child.process.poll() is None, f"{name} died by itself:\n{child.last_lines(20)}"
        child.process.kill()
        child.process.wait()
        child.release()
        child.start()

    def stop(self, name: str) -> None:
        child = self.children[name]
        child.end()
        child.wait(time.monotonic() + 20)

    def check(self) -> None:
        """Nobody died by himself; one that was stopped is not looked at."""
        for name, child in self.children.items():
            code = child.process.poll() if child.process else None
            assert code is None, f"{name} ended with {code}:\n{child.last_lines(30)}"


def wait(condition: Callable[[], bool], what: str, seconds: float = 90, check: Callable[[], None] = lambda: None) -> None:
    """Until it holds; a test that waits for nothing fails with the reason."""
    deadline = time.monotonic() + seconds
    while not condition():
        check()
        assert time.monotonic() < deadline, f"after {seconds} s still waiting: {what}"
        time.sleep(0.1)


def produce(s: Settings, messages: Sequence[Message], topic: str, by_crc: bool = False) -> None:
    """Send in order; partitioned by kafka-python's murmur2, or by the CRC-32 of librdkafka."""
    client = KafkaProducer(bootstrap_servers=s.bootstrap_servers, acks="all", linger_ms=2, max_request_size=topics.EVENT_RECORD_BYTES)
    partitions = (crc32(key or b"") % s.events_partitions if by_crc else None for key, _ in messages)
    sent = [client.send(topic, value, key, partition=p) for (key, value), p in zip(messages, partitions, strict=True)]
    for future in sent:
        future.get(timeout=60)
    client.close()


def upstreams(s: Settings, topic: str) -> list[Upstream]:
    with topics.admin(s) as admin:
        return admin.upstreams(topic)


def end(s: Settings, upstream: Upstream) -> int:
    with topics.admin(s) as admin:
        return admin.end_offset(upstream)


def ingested(s: Settings) -> bool:
    """Whether every output answers for all that the sources hold."""
    return asyncio.run(_ingested(s))


async def _ingested(s: Settings) -> bool:
    reader = consumer(s)
    await reader.start()
    try:
        sources = [TopicPartition(s.events_topic, p) for p in range(s.events_partitions)] + [TopicPartition(s.items_topic, 0)]
        ends = {(tp.topic, tp.partition): offset for tp, offset in (await reader.end_offsets(sources)).items()}
        outputs = [*(Output(s.batches_topic, p) for p in range(s.batches_partitions)), Output(s.examples_topic, 0)]
        for output in outputs:
            stamp = await tail(reader, output)
            covered = {(r.upstream.topic, r.upstream.partition): r.end for r in stamp.ranges} if stamp else {}
            if covered != ends:
                return False
        return True
    finally:
        await release(reader)


def stores(s: Settings, name: str, topic: str) -> list[tuple[Upstream, Checkpoints]]:
    return [(u, checkpoints_of(s, name, u.partition)) for u in upstreams(s, topic)]


def drain(s: Settings, processes: Processes) -> None:
    """Wait until all that was sent is learned, stopping each process once nothing is left for it."""
    wait(lambda: ingested(s), "ingest to cover its sources", check=processes.check)
    processes.stop("ingest")
    for name, topic in ((pipeline.FEATURES, s.batches_topic), (pipeline.LEARNER, s.examples_topic)):
        ends = {u.partition: end(s, u) for u in upstreams(s, topic)}
        wait(lambda name=name, topic=topic, ends=ends: checkpointed(s, name, topic) == ends, f"{name} to checkpoint at {ends}")
        processes.stop(name)


def checkpointed(s: Settings, name: str, topic: str) -> dict[int, int]:
    """Next offset of each partition's newest checkpoint."""
    found = {u.partition: store.directories() for u, store in stores(s, name, topic)}
    return {partition: int(paths[-1].name[:20]) if paths else 0 for partition, paths in found.items()}


def restored(s: Settings, name: str, upstream: Upstream, stage: Stage) -> StageDriver:
    """A stage as its newest checkpoint has it."""
    driver = StageDriver(stage, upstream)
    path = checkpoints_of(s, name, upstream.partition).newest()
    assert path is not None
    driver.restore(path)
    return driver


def retained(s: Settings, upstream: Upstream) -> list[Record]:
    return asyncio.run(records(s, upstream.topic, upstream.partition))


def once(found: Sequence[Record], own: Upstream) -> list[tuple[Record, pl.DataFrame]]:
    """The rows that a reader takes: what was written twice is there once."""
    positions = Positions(own)
    admitted = [(record, positions.admit(record)) for record in found]
    return [(record, rows) for record, rows in admitted if rows is not None]


def publications(s: Settings) -> list[tuple[str, Publication]]:
    """(writer, publication) in the order of `parameters`."""
    return asyncio.run(_publications(s))


async def _publications(s: Settings) -> list[tuple[str, Publication]]:
    reader, assembler = consumer(s), Assembler()
    found: list[tuple[str, Publication]] = []
    await reader.start()
    try:
        tp = TopicPartition(s.parameters_topic, 0)
        last = (await reader.end_offsets([tp]))[tp]
        at(reader, await reader.beginning_offsets([tp]))
        while await reader.position(tp) < last:
            for record in (await reader.getmany(tp, timeout_ms=500)).get(tp, ()):
                whole = assembler.add(record.value, record.headers)
                if whole is not None:
                    found.append((whole[0].writer, whole[1]))
        return found
    finally:
        await release(reader)


def folded(published: Iterable[tuple[str, Publication]], writer: str) -> dict[str, pl.DataFrame]:
    """What a cache holds in the end: per table and id the row with the highest version, the later one where they are equal."""
    tables: dict[str, list[pl.DataFrame]] = {}
    for name, publication in published:
        if name == writer:
            for table, rows in publication.tables.items():
                tables.setdefault(table, []).append(rows)
    return {table: _newest(pl.concat(frames)) for table, frames in tables.items()}


def _newest(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("version", maintain_order=True).unique("id", keep="last", maintain_order=True).sort("id")
