"""Long-running commands: everything at once (`up`), or one process each."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen

import typer
from prometheus_client import CollectorRegistry, start_http_server

from core.errors import FreshetError, PositionLostError, SnapshotError
from monitoring import prometheus
from monitoring.metrics import Metrics
from streams import processes
from streams.broker import EmbeddedBroker
from streams.cli.common import (
    Bootstrap,
    DataDir,
    Namespace,
    cluster,
    complain,
    console,
    create_topics,
    errors,
    need_cluster,
    resolving,
    settings,
    tell,
)
from streams.processes import address, bound, free_port, free_port_from
from streams.settings import Settings
from streams.signals import interrupts
from streams.supervisor import NEEDS_HELP, Supervisor, supervised
from streams.warm import warm_up

READY_SECONDS = 90.0
METRICS_PORTS = 9101  # the first that `freshet up` gives to /metrics


def up(bootstrap_servers: Bootstrap = None, data_dir: DataDir = None, namespace: Namespace = None) -> None:
    """Start everything on this machine: broker (unless one is given), ingest, features, learner, server, and a page to watch them on.

    Example: freshet up, then: freshet produce --demo, then open the page: http://127.0.0.1:8090
    """
    s = with_ports(settings(bootstrap_servers, data_dir, namespace))
    registry = CollectorRegistry()
    metrics, own = Metrics(registry, "up"), free_port_from(s.http_host, METRICS_PORTS)
    start_http_server(own, s.http_host, registry)
    ports = metrics_ports(s, own + 1)
    targets = {name: address(s.http_host, port) for name, port in scraped(s, {**ports, "up": own}).items()}
    s = s.model_copy(update={"metrics_targets": {name: f"http://{at}/metrics" for name, at in targets.items()}})
    with (
        interrupts() as stop,
        cluster(s, metrics.restarted) as s,
        running(s, {**ports, "server": 0, "page": 0}, metrics.restarted) as (base, children),
    ):
        for line in (
            f"page        http://{targets['page']}",
            f"server      {base}/v1/recommend/USER   {base}/docs",
            f"prometheus  {prometheus.write(s.data_dir / 'prometheus', targets)} finds all processes",
            f"logs        {s.data_dir / 'logs'}",
            f"Ready. Send events: freshet produce --demo --bootstrap-servers {s.bootstrap_servers}   Ctrl-C stops all.",
        ):
            console.print(line, soft_wrap=True)
        while not stop.wait(0.5):
            children.check_help()
        console.print("stopping")


def with_ports(s: Settings) -> Settings:
    """The settings with a free port for each of server and page that may have any.

    Raises:
        SettingsError: another process listens on one that was asked for.
    """
    chosen: dict[str, int] = {}
    for setting in ("http_port", "page_port"):
        port = int(getattr(s, setting))
        if port:
            bound(s.http_host, port, setting).close()
        chosen[setting] = port or free_port()
    return s.model_copy(update={**chosen, "server_url": f"http://{address(s.http_host, chosen['http_port'])}"})


def metrics_ports(s: Settings, first: int) -> dict[str, int]:
    """A port for the /metrics of each stage, from `first` on."""
    ports: dict[str, int] = {}
    for name in ("ingest", "features", "learner"):
        ports[name] = first = free_port_from(s.http_host, first)
        first += 1
    return ports


def scraped(s: Settings, ports: dict[str, int]) -> dict[str, int]:
    """Process -> port of its /metrics."""
    return {**ports, "server": s.http_port, "page": s.page_port}


@contextlib.contextmanager
def running(s: Settings, names: dict[str, int], restarted: Callable[[str], None] = lambda name: None) -> Iterator[tuple[str, Supervisor]]:
    """Topics made, children started and the server ready; yields the server's address and the children. All are gone after the block.

    `s`: with its ports, as `with_ports` chooses them.
    """
    create_topics(s)
    with console.status("compiling kernels (the first time about a minute)"):
        warm_up(s)
    with supervised(Supervisor(s, names, tell, restarted)) as children:
        wait_ready(s.server_url, children)
        yield s.server_url, children


def wait_ready(base: str, children: Supervisor) -> None:
    """Until the server says that its cache caught up.

    Raises:
        FreshetError: a child keeps dying, or it takes too long.
    """
    deadline, why = time.monotonic() + READY_SECONDS, "no answer yet"
    while time.monotonic() < deadline:
        children.check()
        try:
            with urlopen(f"{base}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError) as error:
            why = str(error)
        time.sleep(0.1)
    raise FreshetError(f"{base}/readyz is not ready after {READY_SECONDS:.0f} s: {why}")


def broker(data_dir: DataDir = None, port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 9092) -> None:
    """Run the embedded Kafka broker alone.

    Example: freshet broker --port 9092
    """
    s = settings(data_dir=data_dir)
    with interrupts() as stop:
        with resolving():
            embedded = EmbeddedBroker(s.data_dir / "broker", port or None)
            embedded.start()
        with embedded_until(embedded):
            create_topics(s.model_copy(update={"bootstrap_servers": embedded.bootstrap_servers}))
            console.print(f"Kafka listens on {embedded.bootstrap_servers}; Ctrl-C stops it")
            while not stop.wait(0.5):
                if not embedded.alive:
                    raise FreshetError(f"the broker died; its log is {s.data_dir / 'broker'}")


@contextlib.contextmanager
def embedded_until(embedded: EmbeddedBroker) -> Iterator[None]:
    try:
        yield
    finally:
        embedded.stop()


def ingest(bootstrap_servers: Bootstrap = None, data_dir: DataDir = None, namespace: Namespace = None) -> None:
    """Run ingest: events and items in, batches by user out.

    Example: freshet ingest --bootstrap-servers 127.0.0.1:9092
    """
    _run("ingest", settings(bootstrap_servers, data_dir, namespace))


def worker(bootstrap_servers: Bootstrap = None, data_dir: DataDir = None, namespace: Namespace = None) -> None:
    """Run a feature worker (Faust). Several share the partitions of `batches`, and `data_dir`.

    Example: freshet worker --bootstrap-servers 127.0.0.1:9092
    """
    _run("features", settings(bootstrap_servers, data_dir, namespace))


def learn(bootstrap_servers: Bootstrap = None, data_dir: DataDir = None, namespace: Namespace = None) -> None:
    """Run the learner (Faust): item features, SUPA, tokenizer.

    Example: freshet learn --bootstrap-servers 127.0.0.1:9092
    """
    _run("learner", settings(bootstrap_servers, data_dir, namespace))


def serve(
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
    port: Annotated[int | None, typer.Option(help="Port of the HTTP server.")] = None,
    data_dir: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the server: recommendations over HTTP from the in-process cache.

    Example: freshet serve --bootstrap-servers 127.0.0.1:9092 --port 8080
    """
    _run("server", settings(bootstrap_servers, data_dir, namespace, http_port=port))


def page(
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
    port: Annotated[int | None, typer.Option(help="Port of the page.")] = None,
    data_dir: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the live page: what the processes measure, a user's list, events to send, dead letters.

    Example: freshet page --bootstrap-servers 127.0.0.1:9092 --port 8090
    """
    _run("page", settings(bootstrap_servers, data_dir, namespace, page_port=port))


def _run(name: str, s: Settings) -> None:
    """One process; it ends at once where it ends, since what hangs in a client's threads has no state worth waiting for."""
    s = need_cluster(s, ", or run everything with `freshet up`")
    status = 0
    try:
        processes.run(name, s)
    except FreshetError as error:
        complain(str(error))
        status = NEEDS_HELP if isinstance(error, SnapshotError | PositionLostError) else 1
    except Exception:  # noqa: BLE001  # told whole: nobody foresaw it
        errors.print_exception()
        status = 1
    sys.stdout.flush()
    os._exit(status)
