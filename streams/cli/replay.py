"""`freshet replay`: a logged stream through the same stages, without a broker, or through Kafka."""

import datetime
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from core.errors import SettingsError
from streams import bundled
from streams.cli.common import Bootstrap, Namespace, console, need_cluster, progress, settings, tell
from streams.logs.mapping import NAMES, Mapping, load_mapping
from streams.logs.parts import Part, Place
from streams.logs.reader import EVERYTHING, Log, MemoryLog, Span, open_log, read_catalogue
from streams.pipeline import FEATURE_PARTS, PARTS
from streams.producing import Message, Sender, send_all
from streams.replay.judged import JudgedReplay
from streams.replay.kept import kept, shaping, told_log
from streams.replay.pace import FASTEST, pace_of
from streams.replay.running import Job, Taker, run
from streams.replay.sending import SAVE_SECONDS, Flight, Tail
from streams.settings import Settings
from streams.signals import Stop
from streams.topics import admin

SENT_AT_ONCE = 500  # events between two looks at a signal, through Kafka


def replay(
    log: Annotated[Path | None, typer.Argument(help="Parquet, NDJSON or CSV, a file or a directory; none given: the bundled log.")] = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Kafka.")] = False,
    mapping: Annotated[str, typer.Option(help=f"How rows become events: a file, or {', '.join(NAMES)}.")] = "freshet",
    catalogue: Annotated[Path | None, typer.Option(help="Catalogue entries, taken first: NDJSON, or what the mapping reads.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="Event time of the first event: RFC 3339 or epoch ms.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Event time that ends it, itself left out.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Sort a log that is not in order of time, in memory.")] = False,
    part_names: Annotated[str, typer.Option("--parts", help="With --local: features, or features,supa, or all.")] = "all",
    events: Annotated[int, typer.Option(min=0, help="Events at most; 0 takes all.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="With --local: events per batch; judged lists are up to that old.")] = 1_000,
    speed: Annotated[str, typer.Option(help="max, or how many times as fast as event time: 1x, 60x.")] = FASTEST,
    rate: Annotated[float, typer.Option(min=0, help="Events per second instead; 0 as fast as it goes.")] = 0.0,
    state: Annotated[Path | None, typer.Option(help="A directory of this replay's own: the same command goes on where it stopped.")] = None,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of clicks judged, by a hash of the position.")] = 0.2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    bootstrap_servers: Bootstrap = None,
    namespace: Namespace = None,
) -> None:
    """Replay a log through the stages that run live: the same events give the same state.

    Example: freshet replay --local --events 10000
    """
    s, rule, pace = settings(bootstrap_servers, namespace=namespace), load_mapping(mapping), pace_of(speed, rate)
    s = s.model_copy(update={"event_types": tuple(dict.fromkeys((*s.event_types, *rule.types)))})
    span = Span(at_ms(first, "--from"), at_ms(until, "--to"))
    items, opened = opened_log(log, rule, catalogue, span, sort)
    told = {} if state is None else told_log(log, rule, catalogue)
    told |= {"--from": span.from_ms, "--to": span.to_ms, "--sort": sort, "--events": events}
    if not local:
        _through_kafka(s, items, Job(opened, SENT_AT_ONCE, events, pace), state, told)
        return
    told |= {"--batch": batch, "--sample": sample, "--parts": part_names}
    one = s.model_copy(update={"batches_partitions": 1})
    result = _locally(one, items, Job(opened, batch, events, pace), sample, parts_of(part_names), state, told)
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
    if text is None or text.isdecimal():
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
    known = {"features": FEATURE_PARTS, "features,supa": (*FEATURE_PARTS, "supa"), "all": PARTS}
    if text not in known:
        raise SettingsError(f"--parts {text}: give one of {'; '.join(known)}")
    return known[text]


def replay_locally(s: Settings, items: Sequence[Message], messages: Sequence[Message], batch: int, share: float) -> dict[str, object]:
    """Run all stages here with a bar; what came of it, with a digest of each stage's state."""
    return _locally(s, items, Job(MemoryLog(list(messages)), batch), share)


def _locally(
    s: Settings,
    items: Sequence[Message],
    job: Job,
    share: float,
    part_names: Sequence[str] = PARTS,
    state: Path | None = None,
    told: dict[str, Any] | None = None,
) -> dict[str, object]:
    with ExitStack() as stack:
        keeping = stack.enter_context(kept(state, {**(told or {}), **shaping(s)}, s.checkpoint_seconds)) if state else None
        work_dir = keeping.work_dir if keeping else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-")))
        replayed = stack.enter_context(closing(JudgedReplay(s, work_dir, share, part_names, keeping)))
        place = keeping.restore(replayed) if keeping else None
        if place is None:
            replayed.items(items)
        started, first = time.monotonic(), (place or Place()).events
        end = _run(job, replayed, place or Place(), state)
        seconds = time.monotonic() - started
        speed = {"seconds": round(seconds, 2), "events_per_second": round((end.events - first) / seconds) if seconds else 0}
        return {**replayed.local.counts, **speed, **replayed.result()}


def _run(job: Job, taker: Taker, start: Place, state: Path | None, note: Callable[[], str] = str) -> Place:
    """The whole replay, under a bar.

    Raises:
        typer.Exit: it was stopped.
    """
    total, started = job.events or job.log.rows, time.monotonic()
    with Stop() as stop, progress() as bar:
        task = bar.add_task("replaying", total=total, completed=start.events if job.events else start.row, note="")

        def watch(part: Part, place: Place) -> None:
            done = place.events if job.events else part.row(place.events - part.place.events + len(part.messages))
            rate = (place.events - start.events) / max(time.monotonic() - started, 1e-9)
            behind = f", {job.pace.behind:,.1f} {job.pace.unit} behind" if job.pace.unit else ""
            bar.update(task, completed=done, note=f"{rate:,.0f} events/s{behind}{note()}")

        end = run(job, taker, start, stop, watch)
        bar.update(task, completed=total if not stop.wanted else None)
    if stop.wanted:
        on = f"the same command goes on there, --state {state} included" if state else "give --state DIR to be able to go on"
        tell(f"stopped after {end.events:,} events; {on}")
        raise typer.Exit(128 + stop.wanted)
    return end


def _table(result: dict[str, object]) -> Table:
    table = Table("replayed without a broker", "", show_header=True, title_justify="left")
    for name, value in result.items():
        if name != "digests":
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    return table


def _through_kafka(s: Settings, items: Sequence[Message], job: Job, state: Path | None, told: dict[str, Any]) -> None:
    s = need_cluster(s, ", or --local for a replay without one")
    with ExitStack() as stack:
        keeping = stack.enter_context(kept(state, {**told, **_topic(s)}, SAVE_SECONDS)) if state else None
        place, sender = keeping.restore() if keeping else None, stack.enter_context(closing(Sender(s)))
        if place is None:
            with progress() as bar:
                task = bar.add_task("catalogue", total=len(items), note=f"to {s.items_topic}")
                send_all(sender, s.items_topic, items, 0.0, lambda sent: bar.advance(task, sent))
        flight = Flight(sender, s.events_topic)
        _run(
            job, Tail(flight, keeping, s.duplicate_horizon_seconds), place or Place(), state, lambda: f", {len(flight):,} not acknowledged"
        )


def _topic(s: Settings) -> dict[str, Any]:
    """Where the events go: a topic that was made anew has none of them."""
    with admin(s) as cluster:
        return {"topic": f"{s.events_topic} with id {cluster.upstreams(s.events_topic)[0].topic_id}"}
