"""`freshet record`: live topics to a recording on disk, and a recording through the stages."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress as Bar
from rich.table import Table

from core.errors import SettingsError
from streams.cli.common import Bootstrap, Namespace, console, need_cluster, progress, settings
from streams.record import Limits, Position, Progress, RecordedPartition, partitions, replay_recording, topic_named
from streams.record import record as record_topics
from streams.settings import Settings
from streams.signals import interrupts


def record(
    out: Annotated[Path, typer.Argument(help="The recording: a new folder, or one to go on with.")],
    topics: Annotated[
        str, typer.Option(help="batches, examples, parameters, events, items, events-dlt, items-dlt, or a topic's own name.")
    ] = "batches,examples",
    from_start: Annotated[
        bool, typer.Option("--from-start/--from-now", help="Where a new recording begins: with what is retained, or with what comes.")
    ] = True,
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop at what the topics hold now.")] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so long; 0 goes on until Ctrl-C or SIGTERM.")] = 0.0,
    round_rows: Annotated[int, typer.Option(min=1, help="Write files after so many records.")] = Limits().rows,
    round_mib: Annotated[int, typer.Option(min=1, help="Or after so many bytes; memory is about four times that.")] = Limits().bytes >> 20,
    round_seconds: Annotated[float, typer.Option(min=0.1, help="Or after so long.")] = Limits().seconds,
    replay: Annotated[bool, typer.Option("--replay", help="Read the recording back through the stages; no Kafka.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Record live topics to Parquet, byte for byte and each record once, whenever the recorder is killed and started again.

    With --replay, drive fresh stages over a recording of batches and examples, and print a digest of each one's state: that of the live
    stages, if the recording begins at offset 0 and the settings are the same.

    Example: freshet record out --topics batches,examples --until-end, then: freshet record out --replay
    """
    s = settings(bootstrap_servers, namespace=namespace)
    names = [name.strip() for name in topics.split(",") if name.strip()]
    if replay:
        digests = replay_recording(s, out)
        held = _held(s, out, ("batches", "examples"))
    else:
        digests = {}
        bar = progress()
        bar.disable = as_json
        limits = Limits(round_rows, round_mib << 20, round_seconds)
        held = _record(s, out, names, from_start, until_end, seconds, limits, bar)
    result = {"recorded": {str(p.upstream): _told(p) for p in held}} | ({"digests": digests} if replay else {})
    console.print_json(json.dumps(result)) if as_json else console.print(_table(held, digests))


def _record(
    s: Settings, out: Path, names: Sequence[str], from_start: bool, until_end: bool, seconds: float, limits: Limits, bar: Bar
) -> list[Position]:
    s = need_cluster(s)
    if not names:
        raise SettingsError("--topics names no topic")
    deadline = time.monotonic() + seconds if seconds else float("inf")
    with interrupts() as stop, bar:
        task = bar.add_task("recording", total=None, note="")
        told = _telling(lambda done, total, note: bar.update(task, completed=done, total=total, note=note))
        return record_topics(s, out, names, from_start, until_end, limits, lambda: stop.is_set() or time.monotonic() >= deadline, told)


def _telling(show: Callable[[int, int, str], None]) -> Callable[[Progress], None]:
    started = time.monotonic()

    def told(at: Progress) -> None:
        rate = at.records / max(time.monotonic() - started, 1e-9)
        size = f"{at.bytes / (1 << 20):,.1f} MiB"
        show(at.records, at.records + at.lag, f"{rate:,.0f} records/s, {size}, lag {at.lag:,}, not on disk yet {at.unwritten:,}")

    return told


def _held(s: Settings, out: Path, names: Sequence[str]) -> list[Position]:
    topics = [topic_named(s, name) for name in names]
    return [RecordedPartition(out, topic, p).begun() for topic in topics for p in partitions(out, topic)]


def _told(position: Position) -> dict[str, Any]:
    return {"first_offset": position.first_offset, "next_offset": position.next_offset, "records": position.records}


def _table(held: Sequence[Position], digests: dict[str, str]) -> Table:
    table = Table("recorded", "from offset", "to", "records", title_justify="left")
    for position in held:
        table.add_row(str(position.upstream), f"{position.first_offset:,}", f"{position.next_offset:,}", f"{position.records:,}")
    for name, digest in digests.items():
        table.add_row(f"digest of {name}", digest[:16], "", "")
    return table
