"""`freshet evaluate`: how good the served lists are over a log, beside simple baselines, each event judged before it is learned."""

import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from core.errors import SettingsError
from evaluation.summary import result, to_markdown
from learners.baselines.registry import LISTS, check
from monitoring.metrics import version
from streams.cli.common import console, progress, settings
from streams.cli.replay import at_ms, opened_log
from streams.evaluate import Evaluation, Options
from streams.evaluate.host import K
from streams.logs.mapping import NAMES, Mapping, load_mapping
from streams.logs.reader import Log, Span
from streams.producing import Message

DEFAULT = ("popular-5m", "popular-30m", "popular-2h", "popular-12h", *LISTS)


def evaluate(
    log: Annotated[Path | None, typer.Argument(help="Parquet, NDJSON or CSV, a file or a directory; none given: the bundled log.")] = None,
    mapping: Annotated[str, typer.Option(help=f"How rows become events: a file, or {', '.join(NAMES)}.")] = "freshet",
    catalogue: Annotated[Path | None, typer.Option(help="Catalogue entries, taken first: NDJSON, or what the mapping reads.")] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="A baseline, as often as you like; none given: all.")] = None,
    staleness: Annotated[float, typer.Option(min=0, help="Event time in seconds: age of the state that answers, at most.")] = 1.0,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of events with full ranks, by a hash of the position.")] = 0.01,
    burn_in: Annotated[float, typer.Option(min=0, max=0.99, help="Share of the events, the first ones, that no score counts.")] = 0.25,
    first: Annotated[str | None, typer.Option("--from", help="Event time of the first event: RFC 3339 or epoch ms.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Event time that ends it, itself left out.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Sort a log that is not in order of time, in memory.")] = False,
    served: Annotated[bool, typer.Option("--served/--no-served", help="Judge Freshet's lists, or baselines alone.")] = True,
    batch: Annotated[int, typer.Option(min=1, help="Events read at a time; changes no result.")] = 4_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result there.")] = None,
) -> None:
    """Judge the lists that would have been served, test then train, over a log.

    Example: freshet evaluate --baseline popular-30m --json result.json
    """
    rule = load_mapping(mapping)
    check(baseline or DEFAULT)
    types = settings().event_types
    s = settings(batches_partitions=1, event_types=tuple(dict.fromkeys((*types, *rule.types))))
    if missing := set(rule.judge) - set(s.event_types):
        raise SettingsError(f"mapping {rule.name} judges {', '.join(sorted(missing))}, which `event_types` does not have")
    items, opened = opened_log(log, rule, catalogue, Span(at_ms(first, "--from"), at_ms(until, "--to")), sort)
    options = Options(rule.judge, staleness, sample, tuple(baseline or DEFAULT), served)
    with tempfile.TemporaryDirectory(prefix="freshet-") as directory:
        told = _run(Evaluation(s, options, Path(directory)), items, opened, rule, batch, burn_in)
    if json_file is not None:
        json_file.write_text(json.dumps(told, indent=1))
    console.print(to_markdown(told), markup=False, soft_wrap=True)


def _run(evaluation: Evaluation, items: list[Message], log: Log, rule: Mapping, batch: int, burn_in: float) -> dict[str, Any]:
    started = time.monotonic()
    evaluation.items(items)
    with progress() as bar:
        task = bar.add_task("judging", total=log.rows, note="")
        for part in log.batches():
            evaluation.feed(part.messages, batch)
            bar.update(task, completed=part.next_row, note=f"{evaluation.events / (time.monotonic() - started):,.0f} events/s")
    found = evaluation.finish()
    seconds = time.monotonic() - started
    cutoff = int(burn_in * evaluation.events)
    run = {
        "version": version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        "events_per_second": round(evaluation.events / seconds) if seconds else 0,
        "k": K,
        "staleness_seconds": evaluation.options.staleness_seconds,
        "staleness_max_ms": evaluation.staleness_max_ms,
        "sample": evaluation.options.sample,
        "burn_in": burn_in,
        "judged_types": list(rule.judge),
    }
    return {"format": 1, "log": {"mapping": rule.name, "rows": log.rows, **evaluation.front.counts}, "run": run, **result(found, cutoff)}
