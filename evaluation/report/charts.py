"""Plots as SVG. Colours and line styles come from the page's style sheet, by class, so that light and dark need one picture.

Every plot has a width of WIDTH units, which is a phone's, so that its text stays readable there.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

from evaluation.report.axes import Scale, numbers, times
from evaluation.report.markup import Markup, element, joined

WIDTH = 400
ROW, TOP, BOTTOM = 24, 12, 34
NAMES, FIGURES = 134, 64  # room left of a row's line for its name, and right of it for its figure
LEFT, RIGHT, HEIGHT = 44, 12, 220  # of line plots
STYLES = 6  # classes s0 to s5 of the style sheet: a colour, a dash and a mark each
LONGEST = 19


class Mark(NamedTuple):
    """A value in a row, its interval, and its class."""

    value: float
    bounds: Sequence[float] | None
    style: str
    about: str


class Row(NamedTuple):
    name: str
    marks: list[Mark]
    figure: str = ""


class Line(NamedTuple):
    """A curve; where y is None it is broken."""

    name: str
    points: list[tuple[float, float | None]]
    style: str


def dot_plot(title: str, about: str, rows: Sequence[Row], zero: bool = False) -> Markup:
    """A row per name: marks with intervals on one scale, a figure at the right. `zero`: 0 is on the scale and has a line."""
    told = [mark for row in rows for mark in row.marks]
    values = [value for mark in told for value in (mark.value, *(mark.bounds or ()))] + ([0.0] if zero else [])
    scale = numbers(values, NAMES + 6, WIDTH - FIGURES, most=4)
    height = TOP + ROW * len(rows) + BOTTOM
    body = [*_columns(scale, height), *(joined(_row(row, TOP + ROW * (at + 0.5), scale)) for at, row in enumerate(rows))]
    if zero:
        body.insert(0, element("line", x1=scale(0), x2=scale(0), y1=TOP, y2=height - BOTTOM, class_="zero"))
    return _picture(title, about, height, body)


def line_plot(title: str, about: str, lines: Sequence[Line]) -> Markup:
    """Curves over event time, x being ms."""
    xs, ys = _values(lines)
    x, y = times([int(at) for at in xs], LEFT, WIDTH - RIGHT), numbers(ys, HEIGHT - BOTTOM, TOP)
    return _picture(title, about, HEIGHT, [*_rows(y), *_bottom(x, HEIGHT), *(_curve(line, x, y) for line in reversed(lines))])


def square_plot(title: str, about: str, lines: Sequence[Line], x_name: str, y_name: str) -> Markup:
    """Curves with marks, x and y on one scale, and the diagonal on which both are equal."""
    xs, ys = _values(lines)
    height = WIDTH - RIGHT - LEFT + TOP + BOTTOM
    x, y = numbers([0.0, *xs, *ys], LEFT, WIDTH - RIGHT), numbers([0.0, *xs, *ys], height - BOTTOM, TOP)
    diagonal = element("line", x1=x(x.low), y1=y(x.low), x2=x(x.high), y2=y(x.high), class_="zero")
    names = [
        element("text", x_name, x=WIDTH - RIGHT, y=height - BOTTOM - 8, class_="axis", text_anchor="end"),
        element("text", y_name, x=LEFT + 6, y=TOP + 12, class_="axis"),
    ]
    marks = [
        _point(x(at), y(of), line.style, f"{line.name}: {at:.3f}, {of:.3f}")
        for line in lines for at, of in line.points if of is not None
    ]  # fmt: skip
    return _picture(
        title, about, height, [*_rows(y), *_bottom(x, height), diagonal, *(_curve(line, x, y) for line in lines), *marks, *names]
    )


def swatch(style: str) -> Markup:
    """A legend's sample of a style."""
    line = element("line", x1=1, x2=27, y1=6, y2=6, class_=f"curve {style}")
    return element("svg", line, _point(14, 6, style), viewBox="0 0 28 12", width=28, height=12, aria_hidden="true")


def _picture(title: str, about: str, height: float, body: Sequence[Markup], class_: str | None = None) -> Markup:
    """`title` and `about` (what the picture shows, in words) are read to who cannot see it."""
    name = f"p{zlib.crc32((title + about).encode()):08x}"
    told = [element("title", title, id=f"{name}t"), element("desc", about, id=f"{name}d")]
    size, described = f"0 0 {WIDTH} {height:g}", f"{name}d"
    return element("svg", told, body, viewBox=size, role="img", class_=class_, aria_labelledby=f"{name}t", aria_describedby=described)


def _columns(scale: Scale, height: float) -> list[Markup]:
    """Upright lines at the ticks, numbers below."""
    lines = [element("line", x1=scale(t.at), x2=scale(t.at), y1=TOP, y2=height - BOTTOM, class_="grid") for t in scale.ticks]
    return [*lines, *_below(scale, height)]


def _below(scale: Scale, height: float) -> list[Markup]:
    return [element("text", t.text, x=scale(t.at), y=height - BOTTOM + 16, text_anchor="middle", class_="axis") for t in scale.ticks]


def _rows(y: Scale) -> list[Markup]:
    """Level lines at the ticks, numbers at the left."""
    lines = [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(t.at), y2=y(t.at), class_="grid") for t in y.ticks]
    return [*lines, *(element("text", t.text, x=LEFT - 6, y=y(t.at) + 4, text_anchor="end", class_="axis") for t in y.ticks)]


def _bottom(x: Scale, height: float) -> list[Markup]:
    marks = [element("line", x1=x(t.at), x2=x(t.at), y1=height - BOTTOM, y2=height - BOTTOM + 4, class_="axis-tick") for t in x.ticks]
    return [*marks, *_below(x, height)]


def _row(row: Row, y: float, scale: Scale) -> list[Markup]:
    short = row.name if len(row.name) <= LONGEST else row.name[: LONGEST - 1] + "…"
    name = element("text", short, x=NAMES - 8, y=y + 4, text_anchor="end")
    figure = element("text", row.figure, x=WIDTH - 2, y=y + 4, text_anchor="end")
    return [name, *(_mark(mark, y, scale) for mark in row.marks), figure]


def _mark(mark: Mark, y: float, scale: Scale) -> Markup:
    about = element("title", mark.about)
    whisker = []
    if mark.bounds:
        low, high = mark.bounds
        whisker = [element("line", x1=scale(low), x2=scale(high), y1=y, y2=y, class_="whisker")]
    return element("g", about, whisker, _point(scale(mark.value), y, mark.style), class_=mark.style)


def _curve(line: Line, x: Scale, y: Scale) -> Markup:
    """Its pieces; a piece of one point is a dot."""
    drawn, joined_on = "", False
    for at, of in line.points:
        if of is not None:
            drawn += f"L{x(at):g} {y(of):g}" if joined_on else f"M{x(at):g} {y(of):g}h0"
        joined_on = of is not None
    return element("path", element("title", line.name), d=drawn, class_=f"curve {line.style}")


def _point(x: float, y: float, style: str, about: str | None = None) -> Markup:
    """Each style has a shape of its own, so that colour is not all that tells it."""
    shape = {"s1": _square, "s2": _diamond, "s3": _triangle, "tick": _stroke}.get(style, _round)
    return shape(x, y, f"point {style}", element("title", about) if about else Markup(""))


def _round(x: float, y: float, style: str, about: Markup) -> Markup:
    return element("circle", about, cx=x, cy=y, r=4.5, class_=style)


def _square(x: float, y: float, style: str, about: Markup) -> Markup:
    return element("rect", about, x=x - 4, y=y - 4, width=8, height=8, class_=style)


def _diamond(x: float, y: float, style: str, about: Markup) -> Markup:
    return element("path", about, d=f"M{x:g} {y - 5.5:g}l5.5 5.5l-5.5 5.5l-5.5-5.5z", class_=style)


def _triangle(x: float, y: float, style: str, about: Markup) -> Markup:
    return element("path", about, d=f"M{x:g} {y - 5:g}l5 9h-10z", class_=style)


def _stroke(x: float, y: float, style: str, about: Markup) -> Markup:
    return element("line", about, x1=x, x2=x, y1=y - 6, y2=y + 6, class_=style)


def _values(lines: Sequence[Line]) -> tuple[list[float], list[float]]:
    known = [(x, y) for line in lines for x, y in line.points if y is not None]
    return [x for x, _ in known], [y for _, y in known]
