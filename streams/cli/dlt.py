"""`freshet dlt`: dead letters, counted by reason, shown, and sent back to their topic."""

import asyncio
import base64
import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from core.errors import SettingsError
from streams import dead_letter_box
from streams.cli.common import Bootstrap, Namespace, console, need_cluster, settings
from streams.dead_letter_box import Choice, Count, Letter, Sent, readable
from streams.settings import Settings

SHOWN_BYTES = 2_000  # of a value, on a terminal

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

Topic = Annotated[str, typer.Option(help="events, items, or both.")]
Reason = Annotated[str | None, typer.Option(help="A category or a kind, such as malformed_json or MalformedJson.")]
Partition = Annotated[int | None, typer.Option(min=0, help="Of the message in its topic.")]
Offset = Annotated[int | None, typer.Option(min=0, help="Of the message in its topic.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def dlt() -> None:
    """Dead letters: count them by reason, look at them, send them back.

    Example: freshet dlt list --bootstrap-servers 127.0.0.1:9092
    """


@app.command("list")
def list_(topic: Topic = "both", as_json: AsJson = False, bootstrap_servers: Bootstrap = None, namespace: Namespace = None) -> None:
    """Count the dead letters by reason: how many, how many were sent back, the first and the last.

    Example: freshet dlt list --bootstrap-servers 127.0.0.1:9092
    """
    s = _settings(bootstrap_servers, namespace)
    counts = [count for name in _topics(s, topic) for count in asyncio.run(_counts(s, name))]
    if as_json:
        console.print_json(json.dumps([count._asdict() for count in counts]))
    else:
        console.print(_table(counts))


@app.command()
def show(
    topic: Topic = "both",
    reason: Reason = None,
    partition: Partition = None,
    offset: Offset = None,
    limit: Annotated[int, typer.Option(min=1, help="Letters at most.")] = 20,
    raw: Annotated[Path | None, typer.Option(help="Write the value of the one chosen letter, byte for byte; `-`: standard output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with key and value in Base64.")] = False,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Show dead letters: where each message was, what is wrong with it, and what it holds.

    Example: freshet dlt show --reason malformed_json --limit 5, or the bytes: freshet dlt show --partition 0 --offset 17 --raw letter.bin
    """
    s = _settings(bootstrap_servers, namespace)
    choice = dead_letter_box.checked(Choice(reason, partition, offset))
    if raw is not None:
        chosen: list[Letter] = []
        _each(s, topic, choice, 2, chosen.append)
        _write_raw(chosen, raw)
        return
    _each(s, topic, choice, limit, lambda letter: typer.echo(json.dumps(_as_json(letter)) if as_json else _as_text(letter)))


@app.command()
def replay(
    topic: Topic = "both",
    reason: Reason = None,
    partition: Partition = None,
    offset: Offset = None,
    limit: Annotated[int, typer.Option(min=0, help="Letters at most, of each topic; 0: all.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be sent; send nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Those that were sent back before, too.")] = False,
    as_json: AsJson = False,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Send dead letters back to the topic that they came from, each once however often this is run.

    Key, value and headers are the producer's, byte for byte. What is wrong with them is judged anew.

    Example: freshet dlt replay --reason unknown_type --dry-run
    """
    s = _settings(bootstrap_servers, namespace)
    choice = dead_letter_box.checked(Choice(reason, partition, offset))
    done = [asyncio.run(dead_letter_box.send_back(s, name, choice, again, limit, dry_run)) for name in _topics(s, topic)]
    if as_json:
        console.print_json(json.dumps({"dry_run": dry_run, "topics": [sent._asdict() for sent in done]}))
    else:
        for sent in done:
            console.print(_sentence(sent, dry_run), markup=False)


def _settings(bootstrap_servers: str | None, namespace: str | None) -> Settings:
    return need_cluster(settings(bootstrap_servers, namespace=namespace))


def _topics(s: Settings, name: str) -> list[str]:
    known = {"events": [s.events_topic], "items": [s.items_topic], "both": [s.events_topic, s.items_topic]}
    if name not in known:
        raise SettingsError(f"--topic {name}: give one of {', '.join(known)}")
    return known[name]


async def _counts(s: Settings, topic: str) -> list[Count]:
    async with dead_letter_box.opened(s, topic) as box:
        return await box.counts()


def _each(s: Settings, topic: str, choice: Choice, limit: int, take: Callable[[Letter], None]) -> None:
    """The first chosen letters of the topics, one by one."""

    async def go(name: str, left: int) -> int:
        count = 0
        async with dead_letter_box.opened(s, name) as box:
            async for letter in box.letters(choice, left):
                take(letter)
                count += 1
        return count

    for name in _topics(s, topic):
        limit -= asyncio.run(go(name, limit)) if limit else 0


def _write_raw(chosen: list[Letter], to: Path) -> None:
    if len(chosen) != 1:
        many = "none" if not chosen else "several"
        raise SettingsError(f"--raw writes one letter, and {many} were chosen: give --topic, --partition and --offset")
    value = chosen[0].message.value
    if value is None:
        raise SettingsError("this message has no value: it is a tombstone")
    if str(to) == "-":
        sys.stdout.buffer.write(value)
        sys.stdout.flush()
    else:
        to.write_bytes(value)


def _place(letter: Letter) -> str:
    at = letter.context
    return f"{at.topic}/{at.partition}/{at.offset}" if at else f"(no letter of ours, at offset {letter.message.offset} of its topic)"


def _as_text(letter: Letter) -> str:
    message = letter.message
    lines = [
        f"{_place(letter)}  {_time(message.timestamp_ms)}  {letter.kind or letter.reason}: {_safe(letter.error.encode())}",
        f"  key    {_safe(message.key)}",
        *(f"  header {_safe(name.encode())}: {_safe(value)}" for name, value in message.headers),
        f"  value  {_safe(message.value)}",
    ]
    return "\n".join(lines)


def _safe(raw: bytes | None) -> str:
    return readable(raw, SHOWN_BYTES)


def _as_json(letter: Letter) -> dict[str, Any]:
    message, at = letter.message, letter.context
    return {
        "topic": at.topic if at else None,
        "partition": at.partition if at else None,
        "offset": at.offset if at else None,
        "reason": letter.reason,
        "kind": letter.kind,
        "error": letter.error,
        "timestamp_ms": message.timestamp_ms,
        "key": _base64(message.key),
        "headers": [[name, _base64(value)] for name, value in message.headers],
        "value": _base64(message.value),
    }


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _time(ms: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # Kafka takes any number
        return f"{ms} ms"


def _table(counts: list[Count]) -> Table:
    table = Table("topic", "reason", "kind", "letters", "sent back", "first", "last", title_justify="left")
    for count in counts:
        numbers = f"{count.letters:,}", f"{count.sent_back:,}"
        table.add_row(count.topic, count.reason, count.kind, *numbers, _time(count.first_ms), _time(count.last_ms))
    return table


def _sentence(sent: Sent, dry_run: bool) -> str:
    said = f"{sent.topic}: {sent.sent:,} letters {'would be' if dry_run else 'were'} sent back"
    before = f", {sent.sent_before:,} left out that were sent before (--again sends them)" if sent.sent_before else ""
    return said + before + (f", {sent.foreign:,} left out that are no letters of Freshet's" if sent.foreign else "")
