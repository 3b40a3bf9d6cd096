"""Events per second: through Kafka with everything on this machine, and of each stage alone on one core."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl

from benchmarks.freshness import endless
from benchmarks.report import report
from core.position import Upstream
from core.stage import Stage
from streams import bundled, pipeline
from streams.cli.common import cluster
from streams.cli.demo import Run
from streams.cli.run import running, with_ports
from streams.decode import EventDecoder, RawMessage
from streams.ingest import limits_of
from streams.packing import Chunk, Output, Packed, Packer
from streams.producing import Message
from streams.replay import LocalPipeline
from streams.settings import Settings, load
from streams.warm import warm_up

SOURCE = Upstream("events", 0, "benchmark")
BATCH = 1_000
T = TypeVar("T")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks throughput", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="events of the run through Kafka (default 100000)")
    parser.add_argument("--local-only", action="store_true", help="leave the run through Kafka out")
    given = parser.parse_args(arguments)
    s = load(batches_partitions=1, bootstrap_servers="", http_port=0)
    warm_up(s)
    figures = stages(s, endless(min(given.events, 50_000)))
    if not given.local_only:
        figures = {"events_per_second": through_kafka(given.events)} | figures
    report("throughput", figures, {"batches": f"{BATCH} events a record for the stages alone"})


def stages(s: Settings, messages: list[Message]) -> dict[str, float]:
    """Each stage alone over the same events, and all of them in one process."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as directory:
        packed, figures["ingest_events_per_second"] = _timed(len(messages), lambda: _ingest(s, messages))
        upstream = Upstream(s.batches_topic, 0, "benchmark")
        users = pipeline.user_stage(s, upstream, Path(directory) / "users")
        examples, figures["features_events_per_second"] = _timed(
            len(messages), lambda: [users.apply(record.rows, at) for at, record in enumerate(packed)]
        )
        learner = pipeline.learner_stage(s, 1)
        rows = [frame for frame in examples if frame is not None]
        _, figures["learner_events_per_second"] = _timed(len(messages), lambda: _apply(learner, rows))
        local = LocalPipeline(s, Path(directory) / "local")
        local.feed_items(bundled.item_messages())
        _, figures["one_process_events_per_second"] = _timed(len(messages), lambda: local.feed_events(messages, BATCH))
        users.close()
        local.close()
    return figures


def _ingest(s: Settings, messages: list[Message]) -> list[Packed]:
    """Decode, validate, route: what ingest does between two clients."""
    decoder = EventDecoder(limits_of(s))
    packer = Packer([Output(s.batches_topic, 0)], Output(s.examples_topic, 0), {SOURCE: 0})
    packed: list[Packed] = []
    for at in range(0, len(messages), BATCH):
        raw = [RawMessage(key, value, (), 1 << 60, at + i) for i, (key, value) in enumerate(messages[at : at + BATCH])]
        packed += packer.pack({SOURCE: Chunk(decoder.decode(raw).rows, at + len(raw))})
    assert sum(record.rows.filter(pl.col("kind") == 0).height for record in packed) == len(messages)
    return packed


def _apply(stage: Stage, frames: Sequence[pl.DataFrame]) -> None:
    for frame in frames:
        stage.apply(frame, 0)


def _timed(count: int, work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = work()
    return result, round(count / (time.perf_counter() - started), 1)


def through_kafka(events: int) -> float:
    """Producer, broker, ingest, features, learner and server on this machine's cores, in a closed loop."""
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-", ignore_cleanup_errors=True) as directory:
        s = with_ports(load(data_dir=Path(directory), http_port=0, page_port=0, bootstrap_servers=""))
        with cluster(s) as s, running(s, dict.fromkeys(("ingest", "features", "learner", "server"), 0)) as (base, children):
            result = Run(s, base, 0.0, children.check).play(list(bundled.item_messages()), endless(events))
    return round(result.events / result.seconds, 1)
