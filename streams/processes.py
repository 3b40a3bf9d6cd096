"""The five processes of a running Freshet, each a function of the settings that ends when it is told to.

ingest     events, items -> batches, examples
features   batches -> examples, parameters
learner    examples -> parameters
server     parameters -> HTTP
page       what the others measure, and dead letters -> HTTP
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from core.errors import SettingsError
from core.position import Upstream
from core.stage import Stage
from monitoring.metrics import Metrics
from streams import pipeline, topics
from streams.feed import ParameterFeed
from streams.http import create_app
from streams.ingest import Ingest, open_packer
from streams.judge import Judge
from streams.observers import FeatureObserver, LearnerObserver
from streams.page.app import create_page
from streams.reading import consumer, release
from streams.settings import SUPERVISED, Settings
from streams.warm import warm_up
from streams.work import work_directory
from streams.worker import StageWorker, require_one_partition
from streams.writer import Writer, producer

log = logging.getLogger(__name__)
GRACE_SECONDS = 15.0
PORTS_TRIED = 200
SWITCH_SECONDS = 0.001  # a stage computes beside the event loop: at the default of 5 ms every hop between them costs that much


async def ingest(s: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    """Decode, validate, route by user."""
    with topics.admin(s) as cluster:
        sources = [*cluster.upstreams(s.events_topic), *cluster.upstreams(s.items_topic)]
        partitions = len(cluster.upstreams(s.batches_topic))
    check_partitions(s, partitions)
    reader, writer = consumer(s), Writer(producer(s))
    await reader.start()
    try:
        await writer.start()
        packer = await open_packer(s, reader, sources, partitions)
        await Ingest(s, reader, writer, packer, metrics).run(stop)
    finally:
        await writer.stop()
        await release(reader)


async def features(s: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    """User features: one stage per partition of `batches` that Kafka gives this worker."""
    await asyncio.to_thread(warm_up, s)
    with work_directory(s.data_dir / "work", f"{s.state_dir.name}-{pipeline.FEATURES}-") as directory:

        def stage(upstream: Upstream) -> Stage:
            return pipeline.user_stage(s, upstream, directory / str(upstream.partition))

        worker = StageWorker(s, pipeline.FEATURES, s.batches_topic, stage, metrics, FeatureObserver, s.history_publish_ms)
        await worker.run(stop)


async def learner(s: Settings, metrics: Metrics, stop: asyncio.Event) -> None:
    """Item features, SUPA and the tokenizer, over the one order of `examples`."""
    await asyncio.to_thread(warm_up, s)
    with topics.admin(s) as cluster:
        require_one_partition(cluster.upstreams(s.examples_topic))
        partitions = len(cluster.upstreams(s.batches_topic))

    def stage(_: Upstream) -> Stage:
        return pipeline.learner_stage(s, partitions)

    await StageWorker(s, pipeline.LEARNER, s.examples_topic, stage, metrics, LearnerObserver, s.publish_ms).run(stop)


async def server(s: Settings, metrics: Metrics, stop: asyncio.Event, registry: CollectorRegistry) -> None:
    """The cache, kept up to date from `parameters`, behind HTTP."""
    listening = bound(s.http_host, s.http_port, "http_port")
    await asyncio.to_thread(warm_up, s)
    cache = pipeline.cache(s)
    feed, judge = ParameterFeed(s, cache, metrics), Judge(s, cache, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        feed.start()
        judge.start()
        yield
        await asyncio.to_thread(judge.stop)
        await asyncio.to_thread(feed.stop)

    app = create_app(cache, registry, feed.waiting, lifespan, metrics.served, feed.status)
    log.info("the server listens at http://%s:%d", *listening.getsockname()[:2])
    await _serve(app, listening, stop)


async def page(s: Settings, metrics: Metrics, stop: asyncio.Event, registry: CollectorRegistry) -> None:
    """The live page. It holds no state, and costs next to nothing while nobody looks at it."""
    listening = bound(s.http_host, s.page_port, "page_port")
    log.info("the page is at http://%s:%d", *listening.getsockname()[:2])
    await _serve(create_page(s, registry), listening, stop)


async def _serve(app: FastAPI, listening: socket.socket, stop: asyncio.Event) -> None:
    """Answer at that socket until told to stop."""
    http = _Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
    ended = asyncio.create_task(http.serve([listening]))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    http.should_exit = True
    stopped.cancel()
    await ended


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check_partitions(s: Settings, found: int) -> None:
    """The number of `batches` partitions is part of the data.

    Raises:
        SettingsError: the topic has another number than the settings.
    """
    if found != s.batches_partitions:
        raise SettingsError(
            f"{s.batches_topic} has {found} partitions, `batches_partitions` (FRESHET_BATCHES_PARTITIONS) is {s.batches_partitions}; "
            f"set it to {found}, or rebuild under a new `namespace`"
        )


Process = Callable[[Settings, Metrics, asyncio.Event, CollectorRegistry], Awaitable[None]]
PROCESSES: dict[str, Process] = {
    "ingest": lambda s, metrics, stop, registry: ingest(s, metrics, stop),
    "features": lambda s, metrics, stop, registry: features(s, metrics, stop),
    "learner": lambda s, metrics, stop, registry: learner(s, metrics, stop),
    "server": server,
    "page": page,
}
OWN_METRICS = {"server", "page"}  # they serve /metrics at the port that they have anyway


def run(name: str, s: Settings) -> None:
    """Run one process until a signal, or until its parent is gone. Raises what it failed with."""
    sys.setswitchinterval(SWITCH_SECONDS)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = Metrics(registry, name)
    if s.metrics_port and name not in OWN_METRICS:
        bound(s.http_host, s.metrics_port, "metrics_port").close()
        start_http_server(s.metrics_port, s.http_host, registry)
    uvloop.run(_until_told(lambda stop: PROCESSES[name](s, metrics, stop, registry)))


async def _until_told(process: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop_soon, loop, stop)
    if os.environ.get(SUPERVISED):
        threading.Thread(target=_stop_with_parent, args=(loop, stop), daemon=True, name="parent").start()
    await process(stop)


def _stop_soon(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """In order where that is possible; without Kafka it may not be."""
    stop.set()
    loop.call_later(GRACE_SECONDS, os._exit, 1)


def _stop_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Standard input ends when the parent does, however it ended."""
    while os.read(sys.stdin.fileno(), 4096):  # not through the buffer, whose lock would be held when the interpreter ends
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed: we are on our way out
        loop.call_soon_threadsafe(stop.set)
    threading.Event().wait(GRACE_SECONDS)
    os._exit(1)


def bound(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens there.

    Raises:
        SettingsError: another process does.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        name = f"`{setting}` (FRESHET_{setting.upper()})"
        raise SettingsError(
            f"port {port} at {host} cannot be used ({error.strerror}): set {name} to another one, 0 for a free one"
        ) from error


def address(host: str, port: int) -> str:
    """How this machine reaches a port that listens at `host`, which may stand for all addresses."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def free_port_from(host: str, first: int) -> int:
    """The first port from `first` on that is free now. Low ones stay free: the ports that connections take by themselves are high."""
    for port in range(first, first + PORTS_TRIED):
        with contextlib.suppress(OSError):
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
            return port
    raise SettingsError(f"none of the ports {first} to {first + PORTS_TRIED - 1} at {host} is free: `freshet up` needs some for /metrics")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
