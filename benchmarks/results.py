"""`python -m benchmarks results DATA`: Freshet beside every baseline on each log that is there, written to docs/results.md.

DATA holds a folder per log. A log takes from half a minute to a quarter of an hour; what was judged is kept in --work, and only what
is missing there is judged again.
"""

import argparse
import datetime
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import machine
from evaluation.report.content import headline
from evaluation.report.markdown import plain, table
from evaluation.report.tables import score_table
from learners.baselines.registry import DEFAULT, EXTRA_LABELS, EXTRA_LISTS

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
WITHIN = 0.005  # of a published or prototype figure


@dataclass(frozen=True)
class Known:
    """A figure from elsewhere under the same protocol: where it stands in the result, and what it is."""

    path: tuple[str, ...]
    figure: float


@dataclass(frozen=True)
class Log:
    """A log, how it is judged, and what is known of it."""

    name: str
    about: str
    file: str
    mapping: str
    catalogue: str = ""
    options: tuple[str, ...] = ()
    known: tuple[Known, ...] = ()
    remark: str = ""


def _list(name: str, metric: str, figure: float) -> Known:
    return Known(("lists", name, "old_user", metric), figure)


def _label(label: str, name: str, metric: str, figure: float) -> Known:
    return Known(("labels", label, name, "all", metric), figure)


LOGS = (
    Log(
        "Globo", "Clicks on news articles of Globo.com, new articles all day.", "globo/clicks.parquet", "globo",
        known=(
            _list("popular-30m", "hr@20", 0.646), _list("popular-30m", "mrr@20", 0.238),
            _list("covisitation", "hr@20", 0.634), _list("covisitation", "mrr@20", 0.253),
        ),
        remark="The known figures are those of users with an earlier click.",
    ),
    Log(
        "KuaiRand", "Short videos shown at random, with what came of each impression.", "kuairand_pure/events.parquet", "kuairand",
        "kuairand_pure/videos.parquet", ("--burn-in", "0"),
        (
            _label("click", "counters", "auc", 0.7285), _label("click", "online-fm", "gauc", 0.6248),
            _label("long_view", "counters", "auc", 0.7274), _label("long_view", "online-fm", "gauc", 0.6264),
        ),
        "Videos were drawn at random, so lists can hit few of them. Every impression counts, as for the known figures.",
    ),
    Log("MovieTweetings", "Ratings of films.", "movietweetings/ratings.parquet", "movietweetings", "movietweetings/movies.parquet"),
    Log("Wikipedia", "Edits of pages (JODIE).", "jodie_wikipedia/edges.parquet", "jodie"),
    Log("UCI", "Messages between students (SUPA's graph, training part).", "supa_uci/train.txt", "supa"),
    Log("Taobao graph", "Behaviours in a shop (SUPA's graph, training part).", "supa_Taobao/train.txt", "supa"),
    Log("Taobao CML", "Carts, favourites and purchases.", "taobao_cml/events.parquet", "taobao_cml"),
    Log("Taobao UserBehavior", "Views, carts, favourites and purchases.", "taobao_userbehavior/events.parquet", "taobao_userbehavior"),
)  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks results", description=__doc__, epilog="Example: results data")
    parser.add_argument("data", type=Path, help="a folder per log; those that are missing are told and left out")
    parser.add_argument("--work", type=Path, default=Path(".freshet/results"), help="one JSON file per log that was judged")
    parser.add_argument("--page", type=Path, default=PAGE, help="written anew")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    found = [(log, told) for log in LOGS if (told := judged(log, given.data, given.work)) is not None]
    given.page.write_text(page(found))
    print(json.dumps({"logs": len(found), "page": given.page.name}))


def command(log: Log, data: Path) -> list[str]:
    """The evaluation, all baselines and extras included."""
    words = ["freshet", "evaluate", str(data / log.file), "--mapping", log.mapping]
    words += ["--catalogue", str(data / log.catalogue)] if log.catalogue else []
    return [*words, *(f"--baseline={name}" for name in (*DEFAULT, *EXTRA_LISTS, *EXTRA_LABELS)), *log.options]


def judged(log: Log, data: Path, work: Path) -> dict[str, Any] | None:
    """The result, from `work` or by judging now; None where the log is not there."""
    asked = hashlib.sha256(shlex.join(command(log, Path())).encode()).hexdigest()[:8]  # other options are another result
    kept = work / f"{log.mapping}-{Path(log.file).parent.name}-{asked}.json"
    if not (data / log.file).exists():
        print(f"{log.name}: left out, there is no {log.file}", file=sys.stderr)
        return None
    if not kept.exists():
        print(f"{log.name}: {log.file}", file=sys.stderr)
        pending = kept.with_suffix(".pending")
        subprocess.run([sys.executable, "-m", *command(log, data), "--json", str(pending)], check=True, stdout=subprocess.DEVNULL)
        pending.rename(kept)
    told: dict[str, Any] = json.loads(kept.read_text())
    return told


def page(found: Sequence[tuple[Log, Mapping[str, Any]]]) -> str:
    """Markdown: what it is, then a section for each log."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    head = [
        "# Results",
        "Freshet beside every baseline, log by log, each event judged before it is learned. [evaluation.md](evaluation.md) is the "
        "protocol, [baselines.md](baselines.md) the baselines. `served` is what the server would have answered, `supa` its "
        "score over all items; the best of a column is bold, so it shows where Freshet loses. Settings are the defaults for all logs.",
        f"Made by `python -m benchmarks results DATA` on {date}; {machine().partition(', load')[0]}.",
    ]
    sections = [part for log, told in found for part in _section(log, told)]
    return "\n\n".join([*head, *sections]) + "\n"


def _section(log: Log, told: Mapping[str, Any]) -> Iterator[str]:
    run, of = told["run"], told["log"]
    yield f"## {log.name}"
    yield " ".join(filter(None, [log.about, log.remark]))
    yield plain(headline(told))
    yield (
        f"{of['events']:,} events, {of['dead_letters']:,} dead letters, judged on {run['date']} by version {run['version']} in "
        f"{run['seconds']:,.0f} s; no state that answered was older than {run['staleness_max_ms'] / 1000:g} s of event time. "
        f"`{shlex.join(command(log, Path('DATA'))[:5])}` and every baseline{', ' + shlex.join(log.options) if log.options else ''}."
    )
    lists = told["lists"]
    yield table(score_table("Lists", lists, ("hr@20", "mrr@20", "ndcg@20", "hr@5"), ("n",)), intervals=False)
    old = {name: {"all": parts["old_user"]} for name, parts in lists.items()}
    yield table(score_table("Lists, users with an earlier event", old, ("hr@20", "mrr@20", "ndcg@20", "hr@5"), ("n",)), intervals=False)
    if told["ranks"]:
        yield table(score_table("Full ranks, sampled", told["ranks"], ("mrr", "hit@20", "hit@50"), ("n",)), intervals=False)
    for label, scores in told["labels"].items():
        models = {name: of for name, of in scores.items() if name != "delay_seconds"}
        yield table(score_table(f"Label {label}", models, ("auc", "gauc", "log_loss", "calibration"), ("n",)), intervals=False)
    if log.known:
        yield _known(log, told)


def _known(log: Log, told: Mapping[str, Any]) -> str:
    lines = ["| Known figure | here | known | |", "|---|---:|---:|---|"]
    for known in log.known:
        value: Any = told
        for key in known.path:
            value = value[key]
        verdict = f"within {WITHIN}" if abs(value - known.figure) <= WITHIN else f"{value - known.figure:+.4f}"
        lines.append(f"| {' '.join(known.path[1:])} | {value:.4f} | {known.figure:.4f} | {verdict} |".replace("_", " "))
    return "\n".join(lines)
