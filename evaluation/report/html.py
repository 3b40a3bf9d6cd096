"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Mapping
from typing import Any

from evaluation.report.charts import swatch
from evaluation.report.content import Section, heading, headline, sections
from evaluation.report.markup import Markup, element
from evaluation.report.plots import Figure
from evaluation.report.style import STYLE
from evaluation.report.tables import OURS, Cell, Table, fact, words

FACTS = ("events", "events_per_second", "seconds", "staleness_seconds")


def to_html(told: Mapping[str, Any]) -> str:
    """Of the result of an evaluation, or of a comparison of two: a page with plots and tables, light or dark as the reader has it."""
    title, below = heading(told)
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", f"{title}: {below}"),
        element("style", Markup(STYLE)),
    )
    top = element("header", element("h1", title), element("p", below, class_="about"))
    said = headline(told)
    parts = [(f"part-{at}", section) for at, section in enumerate(sections(told))]
    main = element(
        "main", element("p", said, class_="headline") if said else [], _facts(told), _contents(parts), [_section(*part) for part in parts]
    )
    return f"<!doctype html>\n{element('html', head, element('body', top, main), lang='en')}\n"


def _facts(told: Mapping[str, Any]) -> Markup:
    known = {**told.get("log", {}), **told.get("run", {})}
    facts = [element("div", element("dt", words(name)), element("dd", fact(known[name]))) for name in FACTS if name in known]
    return element("dl", facts, class_="facts") if facts else Markup("")


def _contents(parts: list[tuple[str, Section]]) -> Markup:
    links = [element("li", element("a", section.title, href=f"#{name}")) for name, section in parts]
    return element("nav", element("ul", links), aria_label="Sections")


def _section(name: str, section: Section) -> Markup:
    prose = [element("p", text) for text in section.prose]
    figures = element("div", [_figure(figure) for figure in section.figures], class_="figures") if section.figures else []
    return element(
        "section", element("h2", section.title, id=f"{name}-title"), prose, figures, [_table(table) for table in section.tables],
        id=name, aria_labelledby=f"{name}-title",
    )  # fmt: skip


def _figure(figure: Figure) -> Markup:
    legend = [element("li", swatch(style), name) for name, style in figure.legend]
    return element(
        "figure", element("figcaption", figure.caption), element("ul", legend, class_="legend") if legend else [], figure.picture
    )


def _table(table: Table) -> Markup:
    """Scrolls sideways in a box of its own, which the keyboard reaches."""
    head = element("tr", [element("th", name, scope="col") if name else element("td") for name in table.head])
    rows = [_row(name, cells) for name, cells in table.rows]
    told = element("table", element("caption", table.caption), element("thead", head), element("tbody", rows))
    return element("div", told, class_="scroll", tabindex="0", role="region", aria_label=table.caption)


def _row(name: str, cells: list[Cell]) -> Markup:
    return element("tr", element("th", name, scope="row"), [_cell(cell) for cell in cells], class_="ours" if name in OURS else None)


def _cell(cell: Cell) -> Markup:
    told = element("strong", cell.text) if cell.best else cell.text
    return element("td", told, element("small", cell.interval) if cell.interval else [])
