"""`freshet replay`: a logged stream through the same stages, without a broker, or through Kafka."""

import datetime
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from core.errors import SettingsError
from streams import bundled
from streams.cli.common import Bootstrap, Namespace, console, progress, settings
from streams.evaluation import K, Prequential
from streams.logs.mapping import NAMES, Mapping, load_mapping
from streams.logs.reader import EVERYTHING, Log, MemoryLog, Span, open_log, read_catalogue
from streams.pipeline import PARTS
from streams.producing import Message, Sender, send_all
from streams.replay import LocalPipeline
from streams.settings import Settings


def replay(
    log: Annotated[Path | None, typer.Argument(help="Parquet, NDJSON or CSV, a file or a directory; none given: the bundled log.")] = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Kafka.")] = False,
    mapping: Annotated[str, typer.Option(help=f"How rows become events: a file, or {', '.join(NAMES)}.")] = "freshet",
    catalogue: Annotated[Path | None, typer.Option(help="Catalogue entries, taken first: NDJSON, or what the mapping reads.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="Event time of the first event: RFC 3339 or epoch ms.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Event time that ends it, itself left out.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Sort a log that is not in order of time, in memory.")] = False,
    parts: Annotated[str, typer.Option(help="With --local: features, or features,supa, or all (features,supa,tokenizer).")] = "all",
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
    rule = load_mapping(mapping)
    s = s.model_copy(update={"event_types": tuple(dict.fromkeys((*s.event_types, *rule.types)))})
    items, opened = opened_log(log, rule, catalogue, Span(at_ms(first, "--from"), at_ms(until, "--to")), sort)
    messages: Iterable[Message] = (message for part in opened.batches() for message in part.messages)
    messages, total = (islice(messages, events), events) if events else (messages, opened.rows)
    if not local:
        _through_kafka(s, items, messages, total, rate)
        return
    one = s.model_copy(update={"batches_partitions": 1})
    result = replay_locally(one, items, messages, batch, sample, total, parts_of(parts))
    console.print_json(json.dumps(result)) if as_json else console.print(_table(result))


def opened_log(
    log: Path | None, mapping: Mapping, catalogue: Path | None, span: Span = EVERYTHING, sort: bool = False
) -> tuple[list[Message], Log]:
    """Catalogue messages and the log: files, or the bundled ones where no log is named."""
    if log is None:
        return list(bundled.item_messages()), MemoryLog(list(bundled.event_messages()), span)
    return read_catalogue(catalogue, mapping) if catalogue else [], open_log(log, mapping, span, sort)


def at_ms(text: str | None, option: str) -> int | None:
    """A time of the command line, ms.

    Raises:
        SettingsError: it is neither RFC 3339 nor a number of ms.
    """
    if text is None or text.isdigit():
        return None if text is None else int(text)
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"{option} {text}: give epoch ms, or a time such as 2017-10-02T08:00:00Z") from error
    return round((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp() * 1000)


def parts_of(text: str) -> tuple[str, ...]:
    """Parts of the learner stage by the names of `--parts`.

    Raises:
        SettingsError: it names none of them, or one without what it reads.
    """
    known = {"features": 1, "features,supa": 2, "features,supa,tokenizer": 3, "all": 3}
    if text not in known:
        raise SettingsError(f"--parts {text}: give one of {'; '.join(known)}")
    return PARTS[: known[text]]


def replay_locally(
    s: Settings,
    items: Sequence[Message],
    messages: Iterable[Message],
    batch: int,
    share: float,
    total: int,
    parts: Sequence[str] = PARTS,
) -> dict[str, object]:
    """Run all stages here with a bar; what came of it, with a digest of each stage's state."""
    with tempfile.TemporaryDirectory(prefix="freshet-") as directory, progress() as bar:
        local = LocalPipeline(s, Path(directory), parts)
        judge = Prequential(lambda user, links: [i.item_id for i in local.cache.recommend(user, K, links).items], share)
        task = bar.add_task("replaying", total=total, note="")
        local.feed_items(items)
        started, done, rest = time.monotonic(), 0, iter(messages)
        while taken := list(islice(rest, batch)):
            if share:
                judge_all(judge, done, taken)
            local.feed_events(taken, batch)
            done += len(taken)
            bar.update(task, completed=done, note=f"{done / (time.monotonic() - started):,.0f} events/s")
        seconds = time.monotonic() - started
        digests = local.digests()
        local.close()
    return {
        **local.counts,
        "seconds": round(seconds, 2),
        "events_per_second": round(done / seconds) if seconds else 0,
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


def _through_kafka(s: Settings, items: Sequence[Message], messages: Iterable[Message], total: int, rate: float) -> None:
    if not s.bootstrap_servers:
        raise SettingsError("no cluster: give --bootstrap-servers (FRESHET_BOOTSTRAP_SERVERS), or --local for a replay without one")
    sender = Sender(s)
    try:
        with progress() as bar:
            task = bar.add_task("replaying", total=len(items) + total, note=f"to {s.events_topic}")
            send_all(sender, s.items_topic, items, 0.0, lambda sent: bar.advance(task, sent))
            send_all(sender, s.events_topic, messages, rate, lambda sent: bar.advance(task, sent))
    finally:
        sender.close()
