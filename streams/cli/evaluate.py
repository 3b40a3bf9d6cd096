"""`freshet evaluate`: how good the served lists are over a log, beside simple baselines, each event judged before it is learned."""

import datetime
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from core.errors import SettingsError
from evaluation.compare import compare
from evaluation.join import Label
from evaluation.judgements import FORMAT, Judgements
from evaluation.report.html import to_html
from evaluation.report.markdown import to_markdown, to_short_markdown
from evaluation.summary import result
from learners.baselines.registry import DEFAULT, check
from monitoring.metrics import version
from streams.cli.common import console, progress, settings, tell
from streams.cli.replay import at_ms, opened_log
from streams.evaluate import Evaluation, Labels, Options
from streams.logs.mapping import NAMES, Mapping, load_mapping
from streams.logs.parts import Place, parts
from streams.logs.reader import Log, Span
from streams.prequential import K
from streams.producing import Message
from streams.replay.kept import Kept, kept, shaping, told_log
from streams.settings import Settings
from streams.signals import Stop


def evaluate(
    log: Annotated[Path | None, typer.Argument(help="Parquet, NDJSON or CSV, a file or a directory; none given: the bundled log.")] = None,
    mapping: Annotated[str, typer.Option(help=f"How rows become events: a file, or {', '.join(NAMES)}.")] = "freshet",
    catalogue: Annotated[Path | None, typer.Option(help="Catalogue entries, taken first: NDJSON, or what the mapping reads.")] = None,
    baseline: Annotated[list[str] | None, typer.Option(help="A baseline, as often as you like; none given: all but the extras.")] = None,
    staleness: Annotated[float, typer.Option(min=0, help="Event time in seconds: age of the state that answers, at most.")] = 1.0,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of events with full ranks, by a hash of the position.")] = 0.01,
    burn_in: Annotated[float, typer.Option(min=0, max=0.99, help="Share of the events, the first ones, that no score counts.")] = 0.25,
    first: Annotated[str | None, typer.Option("--from", help="Event time of the first event: RFC 3339 or epoch ms.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Event time that ends it, itself left out.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Sort a log that is not in order of time, in memory.")] = False,
    served: Annotated[bool, typer.Option("--served/--no-served", help="Judge Freshet's lists, or baselines alone.")] = True,
    world: Annotated[Path | None, typer.Option(help="What `freshet simulate` wrote: judge the lists by its truth too.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Events read at a time; changes no result.")] = 4_000,
    state: Annotated[Path | None, typer.Option(help="A directory of this run's own: the same command goes on where it stopped.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers there.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report there, one file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables there.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write every judgement into that directory, for --compare.")] = None,
    compared: Annotated[tuple[Path, Path] | None, typer.Option("--compare", help="Compare two saved runs; no log is read.")] = None,
) -> None:
    """Judge the lists that would have been served, test then train, over a log.

    Example: freshet evaluate --baseline popular-30m --json result.json --html report.html
    """
    for path, option in ((json_file, "--json"), (html, "--html"), (markdown, "--markdown")):
        _refuse_nowhere(path, option)
    if compared is not None:
        _write(compare(*map(Judgements.load, compared)), json_file, html, markdown)
        return
    rule = load_mapping(mapping)
    baselines = tuple(dict.fromkeys(baseline or DEFAULT))
    check(baselines)
    s = _settings(rule)
    items, opened = opened_log(log, rule, catalogue, Span(at_ms(first, "--from"), at_ms(until, "--to")), sort)
    options = Options(rule.judge, labels_of(rule), staleness, sample, baselines, served, world)
    told = {} if state is None else told_log(log, rule, catalogue)
    told |= {"--from": first, "--to": until, "--sort": sort, **_named(options)}
    found = _judged(s, options, items, opened, batch, state, told)
    found = _described(found, options, rule, opened, burn_in)
    if save is not None:
        found.save(save)
    _write({"format": FORMAT, **found.meta, **result(found, found.meta["first_position"])}, json_file, html, markdown)


def _refuse_nowhere(path: Path | None, option: str) -> None:
    """Before the work rather than after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise SettingsError(f"{option} {path}: that is no file in a directory that exists")


def labels_of(rule: Mapping) -> Labels:
    """What the mapping's [[labels]] predict."""
    labels = tuple(Label(of.name, of.positive, round(of.horizon_seconds * 1_000)) for of in rule.labels)
    return Labels(rule.impression, labels)


def _settings(rule: Mapping) -> Settings:
    types = settings().event_types
    s = settings(batches_partitions=1, event_types=tuple(dict.fromkeys((*types, *rule.types))))
    if missing := set(rule.judge) - set(s.event_types):
        raise SettingsError(f"mapping {rule.name} judges {', '.join(sorted(missing))}, which `event_types` does not have")
    return s


def _named(options: Options) -> dict[str, Any]:
    """The options by their names on the command line."""
    names = {"--staleness": options.staleness_seconds, "--sample": options.sample, "--served": options.served}
    return {**names, "--baseline": ", ".join(options.baselines), "--world": str(options.world)}


def _judged(
    s: Settings, options: Options, items: list[Message], log: Log, batch: int, state: Path | None, told: dict[str, Any]
) -> Judgements:
    with ExitStack() as stack:
        keeping = stack.enter_context(kept(state, {**told, **shaping(s)}, s.checkpoint_seconds)) if state else None
        work_dir = keeping.work_dir if keeping else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-")))
        evaluation = Evaluation(s, options, work_dir)
        stack.callback(evaluation.close)
        place = keeping.restore(evaluation) if keeping else None
        if place is None:
            evaluation.items(items)
        started, before = time.monotonic(), evaluation.counts["accepted"]
        _run(evaluation, log, batch, place or Place(), keeping)
        found = evaluation.finish()
        return replace(found, meta=_measured(evaluation, time.monotonic() - started, before))


def _run(evaluation: Evaluation, log: Log, batch: int, place: Place, keeping: Kept | None) -> None:
    """Feed the log, under a bar.

    Raises:
        typer.Exit: it was stopped.
    """
    started, first = time.monotonic(), place.events
    with Stop() as stop, progress() as bar:
        task = bar.add_task("judging", total=log.rows, completed=place.row, note="")
        for part in parts(log, place, batch):
            evaluation.feed(part.messages, batch)
            place = part.place
            rate = (place.events - first) / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=part.rows[1], note=f"{rate:,.0f} events/s")
            if keeping is not None and (stop.wanted or keeping.due()):
                keeping.save(place, evaluation)
            if stop.wanted:
                break
    if stop.wanted:
        on = f"the same command goes on there, --state {keeping.directory} included" if keeping else "give --state DIR to be able to go on"
        tell(f"stopped after {place.events:,} events; {on}")
        raise typer.Exit(128 + stop.wanted)
    if keeping is not None:
        keeping.save(place, evaluation)


def _measured(evaluation: Evaluation, seconds: float, accepted_before: int) -> dict[str, Any]:
    judged = evaluation.counts["accepted"] - accepted_before
    run = {
        "version": version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        "events_per_second": round(judged / seconds) if seconds else 0,
        "staleness_max_ms": evaluation.staleness_max_ms,
    }
    truth = {"truth": told} if (told := evaluation.truth) else {}
    return {"log": evaluation.counts, "run": run, "label_outcomes": evaluation.outcomes, **truth}


def _described(found: Judgements, options: Options, rule: Mapping, log: Log, burn_in: float) -> Judgements:
    """With what the scores depend on."""
    meta, run = found.meta, {**found.meta["run"], "k": K, "staleness_seconds": options.staleness_seconds, "sample": options.sample}
    run |= {"burn_in": burn_in, "judged_types": list(rule.judge), "baselines": list(options.baselines)}
    first_position = int(burn_in * meta["log"]["accepted"])
    return replace(
        found, meta={**meta, "log": {"mapping": rule.name, "rows": log.rows, **meta["log"]}, "run": run, "first_position": first_position}
    )


def _write(told: dict[str, Any], json_file: Path | None, html: Path | None, markdown: Path | None) -> None:
    if json_file is not None:
        json_file.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    if html is not None:
        html.write_text(to_html(told), "utf-8")
    if markdown is not None:
        markdown.write_text(to_markdown(told), "utf-8")
    console.print(to_short_markdown(told), markup=False, soft_wrap=True)
