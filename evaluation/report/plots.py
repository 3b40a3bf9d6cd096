"""Which plots the report has, and what each says in words to those who cannot see it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.judgements import PARTS
from evaluation.report import hours as pieces
from evaluation.report.charts import STYLES, Line, Mark, Row, dot_plot, line_plot, square_plot
from evaluation.report.markup import Markup
from evaluation.report.tables import OURS, by_quality, interval, number, title, words

SIDES = [("interval above 0", "above"), ("below 0", "below"), ("across 0", "unsure")]
CURVES = 5  # of a plot at most: more cannot be told apart


class Figure(NamedTuple):
    """A plot, its caption, and its legend: (name, style) each."""

    caption: str
    picture: Markup
    legend: list[tuple[str, str]]


def field(caption: str, scores: Mapping[str, Any], metric: str) -> Figure | None:
    """All contenders with their intervals, the best first."""
    rows = []
    for name in by_quality(scores, metric):
        of = scores[name]["all"]
        if of[metric] is not None:
            mark = _mark(name, of, metric, "s0" if name in OURS else "other")
            rows.append(Row(name, [mark], number(of[metric])))
    if not rows:
        return None
    about = f"Best first: {', '.join(f'{row.name} {row.figure}' for row in rows)}."
    return Figure(caption, dot_plot(caption, about, rows), [])


def changes(caption: str, changed: Mapping[str, Any], metric: str) -> Figure | None:
    """Differences with their intervals, one a row: those whose interval is on one side of 0 are filled."""
    rows = []
    for name, of in changed.items():
        if metric in of and of[metric]["difference"] is not None:
            change = of[metric]
            low, high = change["ci95"] or (0.0, 0.0)
            style = "above" if low > 0 else "below" if high < 0 else "unsure"
            told = f"{name}: {number(change['difference'], True)}, {interval(change['ci95'], True)}"
            rows.append(Row(name, [Mark(change["difference"], change["ci95"], style, told)], number(change["difference"], True)))
    if not rows:
        return None
    about = f"{title(metric)}, difference and 95 % interval. {'; '.join(row.marks[0].about for row in rows)}."
    return Figure(caption, dot_plot(caption, about, rows, zero=True), SIDES)


def parts(caption: str, scores: Mapping[str, Any], metric: str) -> Figure | None:
    """Per kind of event: ours, the best of the others overall, and the rest as strokes."""
    order = by_quality(scores, metric)
    ours, best = ([name for name in order if (name in OURS) == own][:1] for own in (True, False))
    styles = {**dict.fromkeys(order, "tick"), **dict.fromkeys(best, "s1"), **dict.fromkeys(ours, "s0")}
    rows = [row for part in PARTS[1:] if (row := _part(part, scores, metric, styles)).marks]
    if not rows:
        return None
    about = " ".join(f"{row.name}: {'; '.join(mark.about for mark in row.marks if mark.style != 'tick')}." for row in rows)
    legend = [(name, styles[name]) for name in (*ours, *best)]
    return Figure(caption, dot_plot(caption, about, rows), [*legend, *([("the others", "tick")] if len(order) > len(legend) else [])])


def _part(part: str, scores: Mapping[str, Any], metric: str, styles: Mapping[str, str]) -> Row:
    """Marks of all contenders, ours drawn last; the count of rows stands at the right."""
    told = {name: of[part] for name, of in scores.items() if of[part].get(metric) is not None}
    marks = [_mark(name, told[name], metric, styles[name]) for name in sorted(told, key=lambda name: styles[name], reverse=True)]
    count = number(next(iter(scores.values()))[part]["n"])
    return Row(words(part), [mark._replace(bounds=None) if mark.style == "tick" else mark for mark in marks], count)


def over_time(caption: str, hours: Mapping[str, Any], scores: Mapping[str, Any], metric: str, by: str) -> Figure | None:
    """Curves of ours and the best of the others by the metric `by`."""
    chosen = [name for name in _chosen(scores, by) if name in hours]
    if not chosen or len(hours["ts_ms"]) < 2:
        return None
    step_ms = pieces.step_of(hours)
    lines = [Line(name, pieces.merged(hours, hours[name][metric], step_ms), style) for name, style in _styled(chosen)]
    lines = [line for line in lines if any(y is not None for _, y in line.points)]
    if not lines or len(lines[0].points) < 2:
        return None
    caption = f"{caption}, a point per {pieces.told(step_ms)}"
    about = f"Times are UTC. {' '.join(_course(line) for line in lines)}"
    return Figure(caption, line_plot(caption, about, lines), [(line.name, line.style) for line in lines])


def calibration(caption: str, scores: Mapping[str, Any]) -> Figure | None:
    """What share of the labels were positive where a contender said p."""
    chosen = [name for name in _chosen(scores, "log_loss") if scores[name]["all"]["bins"]]
    if not chosen:
        return None
    lines = [Line(name, [(part["p"], part["y"]) for part in scores[name]["all"]["bins"]], style) for name, style in _styled(chosen)]
    about = "Said and found, bin by bin. " + " ".join(
        f"{line.name}: {', '.join(f'{x:.3f} and {y:.3f}' for x, y in line.points)}." for line in lines
    )
    picture = square_plot(caption, about, lines, "probability said", "share found")
    return Figure(f"{caption}; on the diagonal, what was said came true", picture, [(line.name, line.style) for line in lines])


def _chosen(scores: Mapping[str, Any], metric: str) -> list[str]:
    """Ours, then the best others, CURVES in all."""
    order = by_quality(scores, metric)
    return sorted(order, key=lambda name: (name not in OURS, order.index(name)))[:CURVES]


def _styled(names: Sequence[str]) -> list[tuple[str, str]]:
    """The first style is ours alone."""
    first = 0 if names[0] in OURS else 1
    return [(name, f"s{(at + first) % STYLES}") for at, name in enumerate(names)]


def _mark(name: str, of: Mapping[str, Any], metric: str, style: str) -> Mark:
    bounds = of.get("ci95", {}).get(metric)
    between = f", {interval(bounds)}" if bounds else ""
    return Mark(of[metric], bounds, style, f"{name} {number(of[metric])}{between}")


def _course(line: Line) -> str:
    known = [y for _, y in line.points if y is not None]
    return f"{line.name}: from {known[0]:.3f} to {known[-1]:.3f}, lowest {min(known):.3f}, highest {max(known):.3f}."
