"""`freshet produce`: send events as a producer would."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from core.errors import SettingsError
from streams import bundled
from streams.checking import Check
from streams.cli.common import Bootstrap, Namespace, console, create_topics, need_cluster, progress, settings
from streams.producing import (
    Message,
    Numbered,
    Sender,
    lines,
    numbered_items,
    numbered_lines,
    numbered_log,
    read_items,
    read_log,
    send_all,
)
from streams.settings import Settings


def produce(
    log: Annotated[Path | None, typer.Argument(help="Parquet or NDJSON events; `-` reads NDJSON from standard input.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Send the bundled catalogue and events.")] = False,
    items: Annotated[bool, typer.Option("--items", help="The file holds catalogue entries, not events.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Events per second; 0 as fast as it goes.")] = 0.0,
    check: Annotated[bool, typer.Option("--check", help="Send nothing: tell what ingest would refuse of the file. No broker.")] = False,
    shown: Annotated[int, typer.Option(min=0, help="With --check: faults shown at most; all are counted.")] = 50,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Send events (or catalogue entries) to Kafka, or check a file against the contract.

    Example: freshet produce --demo --rate 1000 --bootstrap-servers 127.0.0.1:9092, or a file: freshet produce log.ndjson -b HOST:PORT,
    or without a broker: freshet produce --check log.ndjson
    """
    s = settings(bootstrap_servers, namespace=namespace)
    if (log is None) != demo or (demo and (items or check)):
        raise SettingsError("give a file to send or to --check, or --demo alone for the bundled log")
    if check and log is not None:
        raise typer.Exit(_check(s, log, items, shown))
    s = need_cluster(s)
    create_topics(s)
    sender = Sender(s)
    try:
        if demo:
            _send(sender, s.items_topic, "catalogue", list(bundled.item_messages()), 0.0)
            _send(sender, s.events_topic, "events", list(bundled.event_messages()), rate)
        elif log is not None:
            _send(sender, s.items_topic if items else s.events_topic, str(log), _read(log, items), rate)
    finally:
        sender.close()


def _read(log: Path, items: bool) -> list[Message]:
    if str(log) == "-":
        return list(lines(sys.stdin.buffer, "item_id" if items else "user_id"))
    return list(read_items(log) if items else read_log(log))


def _check(s: Settings, log: Path, items: bool, shown: int) -> int:
    """Tell each fault by its line, then the counts; 1 if there is a fault, else 0."""
    name, checking, left = str(log), Check(s, items), shown
    place = "row " if log.suffix == ".parquet" else ""
    with progress() as bar:
        task = bar.add_task("checked", total=None, note="")
        for faults in checking.faults(_numbered(log, items)):
            for fault in faults[: max(0, left)]:
                typer.echo(f"{name}:{place}{fault.line}: {fault.kind}: {fault.reason}")
            left -= len(faults)
            bar.update(task, completed=checking.accepted + checking.refused.total())
    if left < 0:
        typer.echo(f"{-left:,} more faults are not shown; --shown {shown - left} shows all")
    typer.echo(_verdict(name, checking))
    return int(checking.refused.total() > 0)


def _verdict(name: str, checking: Check) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in checking.refused.most_common())
    return f"{name}: {checking.accepted:,} would be accepted, {checking.refused.total():,} refused{kinds and f' ({kinds})'}"


def _numbered(log: Path, items: bool) -> Numbered:
    if str(log) == "-":
        return numbered_lines(sys.stdin.buffer, "item_id" if items else "user_id")
    return numbered_items(log) if items else numbered_log(log)


def _send(sender: Sender, topic: str, name: str, messages: Sequence[Message], rate: float) -> None:
    with progress() as bar:
        task = bar.add_task(name, total=len(messages), note=f"to {topic}")
        count = send_all(sender, topic, messages, rate, lambda sent: bar.advance(task, sent))
    console.print(f"{count:,} messages are in {topic}")
