"""What the report tells in numbers: tables as data, the same for HTML and Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.judgements import PARTS

OURS = ("served", "supa")  # marked among contenders
NONE = "-"
TITLES = {"log_loss": "Log-loss", "calibration": "Calibration", "mean_percentile": "Mean percentile", "gauc_users": "GAUC users"}
UPPER = ("hr", "mrr", "ndcg", "auc", "gauc")
LOWER_IS_BETTER = ("log_loss", "mean_percentile")


class Cell(NamedTuple):
    """A number as text, its interval, and whether it is the best of its column."""

    text: str
    interval: str = ""
    best: bool = False


class Table(NamedTuple):
    """A caption, a head, and rows of a name and cells."""

    caption: str
    head: tuple[str, ...]
    rows: list[tuple[str, list[Cell]]]


def number(value: object, signed: bool = False) -> str:
    """Fractions with four digits, counts with separators."""
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:+.4f}" if signed else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def interval(bounds: Sequence[float] | None, signed: bool = False) -> str:
    return f"{number(bounds[0], signed)} to {number(bounds[1], signed)}" if bounds else ""


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.01" if p < 0.01 else f"{p:.2f}"


def title(metric: str) -> str:
    """How a metric is called on the page."""
    if metric in TITLES:
        return TITLES[metric]
    return metric.upper() if metric.partition("@")[0] in UPPER else metric.capitalize() if "@" in metric else metric


def words(name: str) -> str:
    return name.replace("_", " ")


def best_of(metric: str, of: Mapping[str, float | None]) -> set[str]:
    """The contenders with the best value, none where all have the same."""
    badnesses = {name: badness(metric, value) for name, value in of.items() if value is not None}
    best = min(badnesses.values(), default=0.0)
    return {name for name, value in badnesses.items() if value == best} if len(set(badnesses.values())) > 1 else set()


def badness(metric: str, value: float) -> float:
    """Less is better."""
    if metric == "calibration":
        return abs(value - 1.0)
    return value if metric in LOWER_IS_BETTER else -value


def by_quality(scores: Mapping[str, Any], metric: str) -> list[str]:
    """Contenders, the best first, those without a value last."""
    known = [name for name, of in scores.items() if of["all"].get(metric) is not None]
    return [*sorted(known, key=lambda name: badness(metric, scores[name]["all"][metric])), *(n for n in scores if n not in known)]


def score_table(caption: str, scores: Mapping[str, Any], metrics: Sequence[str], counts: Sequence[str]) -> Table:
    """A row per contender, best first by the first metric: metrics with intervals where told, then counts."""
    best = {metric: best_of(metric, {name: of["all"][metric] for name, of in scores.items()}) for metric in metrics}
    rows = []
    for name in by_quality(scores, metrics[0]):
        of = scores[name]["all"]
        cells = [Cell(number(of[m]), interval(of.get("ci95", {}).get(m)), name in best[m]) for m in metrics]
        rows.append((name, [*cells, *(Cell(number(of[count])) for count in counts if count in of)]))
    known = [count for count in counts if all(count in of["all"] for of in scores.values())]
    return Table(caption, ("", *map(title, metrics), *map(title, known)), rows)


def part_table(caption: str, scores: Mapping[str, Any], metric: str) -> Table:
    """One metric: a row per contender, a column per part of the rows."""
    first = next(iter(scores.values()))
    parts = [part for part in PARTS if part in first]
    best = {part: best_of(metric, {name: of[part][metric] for name, of in scores.items()}) for part in parts}
    rows = [
        (name, [Cell(number(of[part][metric]), interval(of[part].get("ci95", {}).get(metric)), name in best[part]) for part in parts])
        for name, of in ((name, scores[name]) for name in by_quality(scores, metric))
    ]
    counts = ("rows", [Cell(number(first[part]["n"])) for part in parts])
    return Table(caption, ("", *map(words, parts)), [*rows, counts])


def paired_table(caption: str, paired: Mapping[str, Any], metrics: Sequence[str]) -> Table:
    """A row per baseline: difference, interval and p of each metric."""
    rows = [(f"less {name}", [cell for metric in metrics for cell in change_cells(of[metric])]) for name, of in paired.items()]
    return Table(caption, ("", *(head for metric in metrics for head in (title(metric), "p"))), rows)


def change_table(caption: str, changed: Mapping[str, Any], metrics: Sequence[str]) -> Table:
    """A row per metric: before, after, difference with its interval, p."""
    rows = []
    for metric in metrics:
        if metric in changed:
            of = changed[metric]
            rows.append((title(metric), [Cell(number(of["a"])), Cell(number(of["b"])), *change_cells(of)]))
    return Table(f"{caption}, {changed['n']:,} rows", ("", "a", "b", "b less a", "p"), rows)


def change_cells(change: Mapping[str, Any]) -> list[Cell]:
    return [Cell(number(change["difference"], signed=True), interval(change["ci95"], signed=True)), Cell(p_value(change["p"]))]


def truth_table(caption: str, truth: Mapping[str, Any]) -> Table:
    """A row per kind of list that a simulated world judged."""
    head = ("", "Gain", "Best possible", "Regret", "Regret, share", "Half regained, s (p50)", "in own lists", "Never", "Changes", "n")
    rows = []
    for name, of in truth.items():
        half = of["changes"]["regained"]["0.5"]
        told = [of["gain"], of["best"], of["regret"], of["relative_regret"], half["seconds"]["p50"], half["lists"]["p50"], half["never"]]
        rows.append((name, [Cell(number(value)) for value in (*told, of["changes"]["n"], of["lists"])]))
    return Table(caption, head, rows)


def fact_table(caption: str, facts: Iterable[tuple[str, object]]) -> Table:
    """A row per fact."""
    return Table(caption, ("", "value"), [(words(name), [Cell(fact(value))]) for name, value in facts])


def fact(value: object) -> str:
    """A setting or a count as it is."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(fact, value))
    if isinstance(value, float):
        return f"{value:,.6g}"
    return "yes" if value is True else "no" if value is False else number(value)


def flat(told: Mapping[str, Any], above: str = "") -> list[tuple[str, object]]:
    """Facts of any nesting, each under the names on the way to it."""
    found: list[tuple[str, object]] = []
    for name, value in told.items():
        found += flat(value, f"{above}{name}: ") if isinstance(value, Mapping) else [(f"{above}{name}", value)]
    return found
