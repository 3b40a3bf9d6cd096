"""The declared features as tables: what docs/features.md is made of, and `freshet features` prints."""

from collections.abc import Sequence

from features.declarations import Feature

TYPES_SHOWN = 8  # more are "any"
HEAD = ("| Feature | Kind | Event types | Unit | What it says |", "|---|---|---|---|---|")


def tables(features: Sequence[Feature]) -> list[str]:
    """Markdown: a heading and a table for each entity. Features that differ in their time alone share a row."""
    lines: list[str] = []
    for entity in dict.fromkeys(feature.entity for feature in features):
        lines += ["", f"### {entity}", "", *HEAD, *_rows([feature for feature in features if feature.entity == entity])]
    return lines[1:]


def _rows(features: Sequence[Feature]) -> list[str]:
    families: dict[tuple[str, ...], list[Feature]] = {}
    for feature in features:
        families.setdefault((_stem(feature), feature.kind, feature.says), []).append(feature)
    return [_row(family) for family in families.values()]


def _stem(feature: Feature) -> str:
    """The name without its time."""
    return feature.name.removesuffix(f"_{feature.seconds}s")


def _row(family: Sequence[Feature]) -> str:
    first = family[0]
    times = ",".join(str(feature.seconds) for feature in family)
    name = f"{_stem(first)}_{{{times}}}s" if len(family) > 1 else first.name
    types = "any" if len(first.types) > TYPES_SHOWN else ", ".join(first.types) or "-"
    return f"| `{name}` | {first.kind} | {types} | {first.unit} | {first.says} |"
