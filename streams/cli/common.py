"""What several commands share: the console, common options, a cluster to talk to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.errors import SettingsError
from streams import topics
from streams.broker import EmbeddedBroker
from streams.broker_address import running_on
from streams.settings import Settings, load
from streams.supervisor import kept_running

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

Bootstrap = Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="Kafka to use instead of the embedded broker.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where broker data, checkpoints and logs are.")]
Namespace = Annotated[str | None, typer.Option("--namespace", help="Prefix of derived topics and checkpoints.")]


def progress() -> Progress:
    """A bar with rate, count and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
    )


@contextmanager
def cluster(s: Settings, restarted: Callable[[str], None] = lambda name: None) -> Iterator[Settings]:
    """Settings with `bootstrap_servers` filled in: the given cluster, or an embedded broker that lives as long as the block.

    `restarted` is told "broker" each time that it died and was started again.
    """
    if s.bootstrap_servers:
        yield s
        return
    with resolving():
        broker = EmbeddedBroker(s.data_dir / "broker", s.broker_port or None)
        broker.start()
    console.print(f"broker      {broker.bootstrap_servers} (embedded, data in {s.data_dir / 'broker'})")
    with kept_running(broker, tell, restarted):
        yield s.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})


def need_cluster(s: Settings, else_: str = ", or start one with `freshet up`") -> Settings:
    """Settings with `bootstrap_servers` filled in: the given cluster, or the embedded broker that runs on this `data_dir`.

    Raises:
        SettingsError: there is neither; `else_` says what else the user may do.
    """
    found = s.bootstrap_servers or running_on(s.data_dir / "broker")
    if not found:
        raise SettingsError(f"no cluster: give --bootstrap-servers (FRESHET_BOOTSTRAP_SERVERS){else_}")
    return s.model_copy(update={"bootstrap_servers": found})


def complain(sentence: str) -> None:
    """An error, in one line however narrow the terminal or the log file; brackets in it are text."""
    errors.print(f"freshet: {sentence}", markup=False, soft_wrap=True)


def tell(line: str) -> None:
    """A line about something that died."""
    errors.print(line, style="yellow", markup=False, soft_wrap=True)


@contextmanager
def resolving() -> Iterator[None]:
    """A spinner while jars are fetched and the broker comes up; the first time takes half a minute."""
    with console.status("starting Kafka (the first time its jars are fetched, about half a minute)"):
        yield


def create_topics(s: Settings) -> list[str]:
    """Make the topics that are missing; returns their names."""
    with topics.admin(s) as admin:
        return admin.create(topics.table(s), s.replication_factor)


def settings(bootstrap_servers: str | None = None, data_dir: Path | None = None, namespace: str | None = None, **more: object) -> Settings:
    """The settings with this command's options on top."""
    return load(bootstrap_servers=bootstrap_servers, data_dir=data_dir, namespace=namespace, **more)
