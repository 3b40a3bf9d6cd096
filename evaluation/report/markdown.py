"""The report as Markdown: the same tables as the HTML, without its plots."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from evaluation.report.content import heading, headline, sections
from evaluation.report.tables import Cell, Table

SPECIAL = re.compile(r"([\\`*\[\]<>|~])")


def to_markdown(told: Mapping[str, Any]) -> str:
    """Of the result of an evaluation, or of a comparison of two."""
    return "\n\n".join(part for part in _parts(told) if part) + "\n"


def to_short_markdown(told: Mapping[str, Any]) -> str:
    """The headline and the first table of each section that has scores: what a terminal has room for."""
    first = [table(section.tables[0], intervals=False) for section in sections(told)[:-1] if section.tables]
    return "\n\n".join(part for part in (plain(headline(told)), *first) if part) + "\n"


def _parts(told: Mapping[str, Any]) -> Iterator[str]:
    title, below = map(plain, heading(told))
    yield f"# {title}\n\n{below}"
    yield plain(headline(told))
    for section in sections(told):
        yield f"## {plain(section.title)}"
        yield from map(plain, section.prose)
        yield from map(table, section.tables)


def table(told: Table, intervals: bool = True) -> str:
    """A pipe table with its caption in the corner; the best of a column is bold."""
    head = [f"| {' | '.join(map(plain, (told.caption, *told.head[1:])))} |", f"|---|{'---:|' * (len(told.head) - 1)}"]
    rows = (" | ".join([plain(name), *(_cell(cell, intervals) for cell in cells)]) for name, cells in told.rows)
    return "\n".join([*head, *(f"| {row} |" for row in rows)])


def plain(text: str) -> str:
    """Text that Markdown takes as it stands."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _cell(cell: Cell, intervals: bool) -> str:
    text = f"**{plain(cell.text)}**" if cell.best else plain(cell.text)
    return f"{text} ({plain(cell.interval)})" if cell.interval and intervals else text
