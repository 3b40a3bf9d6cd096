"""`freshet produce`: send events as a producer would."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from core.errors import SettingsError
from streams import bundled
from streams.cli.common import Bootstrap, Namespace, console, create_topics, need_cluster, progress, settings
from streams.producing import Message, Sender, lines, read_items, read_log, send_all


def produce(
    log: Annotated[Path | None, typer.Argument(help="Parquet or NDJSON events; `-` reads NDJSON from standard input.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Send the bundled catalogue and events.")] = False,
    items: Annotated[bool, typer.Option("--items", help="The file holds catalogue entries, not events.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Events per second; 0 as fast as it goes.")] = 0.0,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Send events (or catalogue entries) to Kafka.

    Example: freshet produce --demo --rate 1000 --bootstrap-servers 127.0.0.1:9092, or a file: freshet produce log.ndjson -b HOST:PORT
    """
    s = need_cluster(settings(bootstrap_servers, namespace=namespace))
    if (log is None) != demo or (demo and items):
        raise SettingsError("give a file to send, or --demo alone for the bundled log")
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


def _send(sender: Sender, topic: str, name: str, messages: Sequence[Message], rate: float) -> None:
    with progress() as bar:
        task = bar.add_task(name, total=len(messages), note=f"to {topic}")
        count = send_all(sender, topic, messages, rate, lambda sent: bar.advance(task, sent))
    console.print(f"{count:,} messages are in {topic}")
