"""`freshet simulate`: a log of a made-up world whose truth is known."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from polars.io.plugins import register_io_source

from core.errors import SettingsError
from evaluation.world import EVENTS, LABELS, WorldConfig, entries, frames, label_frames, make_world, read_settings, save_world
from streams.cli.common import Bootstrap, Namespace, console, create_topics, need_cluster, progress, settings
from streams.cli.replay import at_ms
from streams.logs.reader import messages
from streams.producing import Sender, read_items, send_all
from streams.settings import Settings

ROW_GROUP_ROWS = 1 << 17
EVENTS_FILE, ITEMS_FILE, LABELS_FILE = "events.parquet", "items.ndjson", "labels.parquet"


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="A new directory for the log and its truth.")],
    events: Annotated[int, typer.Option(min=1, help="Length of the log.")] = 100_000,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same log.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Bots not counted; 300 if not given.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Live at any time; 500 if not given.")] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(help="Pages that users ask for, in event time; about 13 events each. 0.04 if not given.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Event time of the beginning: RFC 3339 or epoch ms; 2026-01-01 if not given.")] = None,
    settings_file: Annotated[Path | None, typer.Option("--settings", help="All settings of the world: TOML (docs/simulator.md).")] = None,
    truth_labels: Annotated[
        bool, typer.Option("--truth-labels", help="Write the true probability of each impression's click and conversion too.")
    ] = False,
    to_kafka: Annotated[bool, typer.Option("--to-kafka", help="Then send catalogue and events to Kafka.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="With --to-kafka: events per second; 0 as fast as it goes.")] = 0.0,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Simulate users, items and what happens between them, so that lists can be judged by the truth.

    Example: freshet simulate world --events 100000
    """
    given = {"seed": seed, "users": users, "items": items, "requests_per_second": requests_per_second, "start_ms": at_ms(start, "--start")}
    told = read_settings(settings_file) if settings_file else {}
    world = make_world(told | {name: value for name, value in given.items() if value is not None})
    s = settings(bootstrap_servers, namespace=namespace)
    if to_kafka:
        s = need_cluster(s, ", or leave --to-kafka out")
    if out.exists() and any(out.iterdir()):
        raise SettingsError(f"{out} is not empty: name a new directory")
    out.mkdir(parents=True, exist_ok=True)
    _write(world, out, events, truth_labels)
    if to_kafka:
        _send(s, world, out, events, rate)


def _write(world: WorldConfig, out: Path, events: int, truth_labels: bool) -> None:
    """Events, labels, catalogue, and world.json last: a directory that has it is whole."""
    last_ms = world.start_ms

    def told() -> Iterator[pl.DataFrame]:
        nonlocal last_ms
        for frame in frames(world, events):
            last_ms = int(frame["ts_ms"][-1])
            yield frame

    with progress() as bar:

        def counted(name: str, total: int | None, made: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
            task = bar.add_task(name, total=total, note="")
            for frame in made:
                yield frame
                bar.advance(task, frame.height)

        _sink(counted("events", events, told()), EVENTS, out / EVENTS_FILE)
        if truth_labels:
            _sink(counted("impressions", None, label_frames(world, events)), LABELS, out / LABELS_FILE)
        with (out / ITEMS_FILE).open("wb") as file:
            for frame in counted("items", None, entries(world, last_ms)):
                frame.write_ndjson(file)
    save_world(world, out, {"events": events, "last_ms": last_ms})
    hours = (last_ms - world.start_ms) / 3_600_000
    console.print(f"{events:,} events over {hours:,.1f} hours of event time are in {out}", soft_wrap=True)


def _sink(made: Iterable[pl.DataFrame], schema: pl.Schema, path: Path) -> None:
    """Write frames as one Parquet file, without holding them all."""

    def source(columns: object, predicate: object, rows: object, batch: object) -> Iterator[pl.DataFrame]:
        yield from made

    register_io_source(source, schema=schema).sink_parquet(path, row_group_size=ROW_GROUP_ROWS)


def _send(s: Settings, world: WorldConfig, out: Path, events: int, rate: float) -> None:
    create_topics(s)
    with closing(Sender(s)) as sender, progress() as bar:

        def sent(name: str, topic: str, total: int | None) -> Callable[[int], None]:
            task = bar.add_task(name, total=total, note=f"to {topic}")
            return lambda count: bar.advance(task, count)

        send_all(sender, s.items_topic, read_items(out / ITEMS_FILE), 0.0, sent("items", s.items_topic, None))
        made: Iterator[Any] = chain.from_iterable(map(messages, frames(world, events)))
        send_all(sender, s.events_topic, made, rate, sent("events", s.events_topic, events))
