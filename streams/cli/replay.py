"""`freshet replay`: a logged stream through the same stages, without a broker, or through Kafka."""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from core.errors import SettingsError
from streams import bundled
from streams.cli.common import Bootstrap, Namespace, console, progress, settings
from streams.evaluation import K, Prequential
from streams.producing import Message, Sender, read_log, send_all
from streams.replay import LocalPipeline
from streams.settings import Settings


def replay(
    log: Annotated[Path | None, typer.Argument(help="Parquet or NDJSON events in order; none given: the bundled log.")] = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Kafka.")] = False,
    catalogue: Annotated[Path | None, typer.Option(help="NDJSON catalogue entries, taken first.")] = None,
    events: Annotated[int, typer.Option(help="Events at most; 0 takes all.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Events per batch: judged lists are up to that old.")] = 1_000,
    rate: Annotated[float, typer.Option(help="Events per second through Kafka; 0 as fast as it goes.")] = 0.0,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of clicks judged, by a hash of the position.")] = 0.2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Replay a log through the stages that run live: the same events give the same state.

    Example: freshet replay --local --events 10000
    """
    s = settings(bootstrap_servers, namespace=namespace)
    items, messages = _messages(log, catalogue)
    messages = messages[:events] if events else messages
    if not local:
        _through_kafka(s, items, messages, rate)
        return
    result = replay_locally(s.model_copy(update={"batches_partitions": 1}), items, messages, batch, sample)
    console.print_json(json.dumps(result)) if as_json else console.print(_table(result))


def _messages(log: Path | None, catalogue: Path | None) -> tuple[Sequence[Message], Sequence[Message]]:
    if log is None:
        return list(bundled.item_messages()), list(bundled.event_messages())
    items = [(None, value) for _, value in read_log(catalogue)] if catalogue else []
    return items, list(read_log(log))


def replay_locally(s: Settings, items: Sequence[Message], messages: Sequence[Message], batch: int, share: float) -> dict[str, object]:
    """Run all stages here with a bar; what came of it, with a digest of each stage's state."""
    with tempfile.TemporaryDirectory(prefix="freshet-") as directory, progress() as bar:
        local = LocalPipeline(s, Path(directory))
        judge = Prequential(lambda user, links: [i.item_id for i in local.cache.recommend(user, K, links).items], share)
        task = bar.add_task("replaying", total=len(messages), note="")
        local.feed_items(items)
        started = time.monotonic()
        for at in range(0, len(messages), batch):
            judge_all(judge, at, messages[at : at + batch])
            local.feed_events(messages[at : at + batch], batch)
            done = at + len(messages[at : at + batch])
            bar.update(task, completed=done, note=f"{done / (time.monotonic() - started):,.0f} events/s")
        seconds = time.monotonic() - started
        digests = local.digests()
        local.close()
    return {
        **local.counts,
        "seconds": round(seconds, 2),
        "events_per_second": round(len(messages) / seconds) if seconds else 0,
        "judged": judge.served.judged,
        "sample": share,
        "hit_rate_20": round(judge.served.hit_rate, 4),
        "mrr_20": round(judge.served.mrr, 4),
        "popular_hit_rate_20": round(judge.popular.hit_rate, 4),
        "popular_mrr_20": round(judge.popular.mrr, 4),
        "digests": digests,
    }


def judge_all(judge: Prequential, first: int, messages: Sequence[Message]) -> None:
    """Judge a batch before it is learned. What cannot be read is a dead letter, and nobody's click."""
    for position, (_, value) in enumerate(messages, first):
        event = as_event(value)
        if event is not None:
            judge.judge(position, *event)


def as_event(value: bytes | None) -> tuple[str, str, str] | None:
    """(type, user_id, item_id) of a plain JSON event, None for anything else."""
    try:
        event = json.loads(value or b"")
        return str(event["type"]), str(event["user_id"]), str(event["item_id"])
    except (ValueError, KeyError, TypeError):
        return None


def _table(result: dict[str, object]) -> Table:
    table = Table("replayed without a broker", "", show_header=True, title_justify="left")
    for name, value in result.items():
        if name != "digests":
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    return table


def _through_kafka(s: Settings, items: Sequence[Message], messages: Sequence[Message], rate: float) -> None:
    if not s.bootstrap_servers:
        raise SettingsError("no cluster: give --bootstrap-servers (FRESHET_BOOTSTRAP_SERVERS), or --local for a replay without one")
    sender = Sender(s)
    try:
        with progress() as bar:
            task = bar.add_task("replaying", total=len(items) + len(messages), note=f"to {s.events_topic}")
            send_all(sender, s.items_topic, items, 0.0, lambda sent: bar.advance(task, sent))
            send_all(sender, s.events_topic, messages, rate, lambda sent: bar.advance(task, sent))
    finally:
        sender.close()
