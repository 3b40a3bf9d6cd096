"""The report says what the result says, stands alone, can be read without seeing it, and takes no markup from a log."""

import copy
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from evaluation.compare import compare
from evaluation.judgements import Judgements
from evaluation.report import axes
from evaluation.report.hours import merged, step_of
from evaluation.report.html import to_html
from evaluation.report.markdown import to_markdown, to_short_markdown
from evaluation.report.markup import Markup, element
from evaluation.report.style import STYLE
from evaluation.summary import result

HOUR_MS = 3_600_000
HOSTILE = '<script>alert("x")</script>&|`*]\x00\n'
VOID = {"meta", "br", "hr", "img", "link", "input"}


def made_up(n: int = 900, names: tuple[str, ...] = ("served", "popular-2h", "recent"), label: str = "long_view") -> Judgements:
    rng = np.random.default_rng(4)
    base = {
        "position": np.arange(n),
        "ts_ms": 1_651_363_200_000 + np.sort(rng.integers(0, 30 * HOUR_MS, n)),
        "user": rng.integers(0, 90, n).astype(np.int32),
        "item": rng.integers(0, 50, n).astype(np.int32),
        **{name: rng.random(n) < 0.5 for name in ("new_pair", "new_user", "new_item", "head")},
    }
    y = (rng.random(n) < 0.3).astype(np.uint8)
    ours = np.where(rng.random(n) < 0.1, np.nan, 0.5 * rng.random(n) + 0.3 * y).astype(np.float32)
    return Judgements(
        pl.DataFrame({**base, **{name: rng.integers(0, 21, n) // (1 + at) for at, name in enumerate(names)}}),
        pl.DataFrame({**base, "candidates": np.full(n, 99), **{name: rng.integers(1, 99, n).astype(np.float32) for name in names}}),
        pl.DataFrame({**base, "label": label, "y": y, "revealed_ms": base["ts_ms"] + 5_000, "supa": ours, "counters": rng.random(n)}),
        {"log": {"mapping": "made-up", "events": n}, "run": {"version": "0", "date": "2026-01-01", "staleness_seconds": 1.0, "k": 20}},
    )


def told_of(found: Judgements) -> dict[str, Any]:
    return {"format": 1, **found.meta, **result(found, 0)}


HALF = {"0.5": {"seconds": {"p50": 12.5, "p90": None}, "lists": {"p50": 3.0, "p90": None}, "never": 0.25}}
TRUTH = {
    "gain": 0.5, "best": 0.5625, "regret": 0.0625, "relative_regret": 0.125, "lists": 90, "changes": {"n": 8, "regained": HALF},
    "by_hour": {"ts_ms": [0, 3_600_000], "n": [40, 50], "gain": [0.25, 0.75], "best": [0.5, 0.625]},
}  # fmt: skip
TOLD = told_of(made_up()) | {"truth": {"served": TRUTH}, "label_outcomes": {"click": {"late": 7}}}


def compared() -> dict[str, Any]:
    a = made_up()
    better = a.lists.with_columns(served=pl.when(pl.col("position") % 3 == 0).then(1).otherwise("served"))
    return compare(a, Judgements(better, a.ranks, a.labels, a.meta))


@dataclass
class Node:
    name: str
    attributes: dict[str, str | None]
    children: list["Node"] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> list["Node"]:
        return [found for child in self.children for found in ([child] if child.name == name else []) + child.all(name)]

    def words(self) -> str:
        return self.text + "".join(child.words() for child in self.children)


class Tree(HTMLParser):
    """The elements of a page; every one must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(page)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs), "an attribute twice"
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].text += data


PAGES = {"one": TOLD, "two": compared()}


@pytest.fixture(params=PAGES, scope="module")
def page(request: pytest.FixtureRequest) -> str:
    return to_html(PAGES[request.param])


def test_the_page_needs_nothing_else(page: str) -> None:
    tree = Tree(page).root
    assert not [node for name in ("script", "link", "img", "iframe", "object", "use", "image") for node in tree.all(name)]
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_ids_are_unique_and_every_reference_has_one(page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r' (?:aria-labelledby|aria-describedby|href)="#?([^"]+)"', page)
    assert len(referred) > 10
    assert set(referred) <= set(ids)


def test_every_plot_has_a_title_and_says_what_it_shows(page: str) -> None:
    plots = [node for node in Tree(page).root.all("svg") if node.attributes.get("aria-hidden") != "true"]
    assert len(plots) >= 3
    for plot in plots:
        assert plot.attributes["role"] == "img"
        assert [child.name for child in plot.children[:2]] == ["title", "desc"]
        assert all(child.words().strip() for child in plot.children[:2])
        assert not re.search(
            r"nan|inf",
            " ".join(f"{value}" for node in (plot, *plot.all("path"), *plot.all("circle")) for value in node.attributes.values()),
        )


def test_every_table_has_a_caption_and_heads_with_a_scope(page: str) -> None:
    tables = Tree(page).root.all("table")
    assert len(tables) >= 3
    for table in tables:
        assert table.all("caption")[0].words()
        assert all(head.attributes["scope"] in ("col", "row") for head in table.all("th"))
        assert len({len(row.children) for row in table.all("tr")}) == 1
        assert [row.children[0].attributes.get("scope") for row in table.all("tbody")[0].children] == ["row"] * len(
            table.all("tbody")[0].children
        )


def cells(table: Node) -> dict[str, list[tuple[str, str]]]:
    """Row name -> (text, interval) of its cells."""
    found = {}
    for row in table.all("tbody")[0].children:
        texts = []
        for cell in row.children[1:]:
            small = "".join(node.words() for node in cell.all("small"))
            texts.append((cell.words().removesuffix(small), small))
        found[row.children[0].words()] = texts
    return found


def table_of(page: str, caption: str) -> dict[str, list[tuple[str, str]]]:
    return next(cells(table) for table in Tree(page).root.all("table") if table.all("caption")[0].words() == caption)


def test_the_numbers_of_the_tables_are_those_of_the_result() -> None:
    page = to_html(TOLD)
    lists = table_of(page, "Lists")
    order = sorted(TOLD["lists"], key=lambda name: -TOLD["lists"][name]["all"]["hr@20"])
    assert list(lists) == order
    for name in order:
        of = TOLD["lists"][name]["all"]
        low, high = of["ci95"]["hr@20"]
        assert lists[name][0] == (f"{of['hr@20']:.4f}", f"{low:.4f} to {high:.4f}")
        assert [text for text, _ in lists[name][3:]] == [f"{of[m]:.4f}" for m in ("hr@10", "hr@5", "hr@1")] + [f"{of['n']:,}"]
        parts = table_of(page, "HR@20 by kind of event")[name]
        assert parts[1][0] == f"{TOLD['lists'][name]['new_pair']['hr@20']:.4f}"
        assert parts[8][0] == f"{TOLD['lists'][name]['tail']['hr@20']:.4f}"
    pair = TOLD["paired"]["lists"]["recent"]["mrr@20"]
    assert table_of(page, "Served less each baseline, on the same events")["less recent"][2][0] == f"{pair['difference']:+.4f}"
    label = TOLD["labels"]["long_view"]["supa"]["all"]
    told = table_of(page, "Label long view")["supa"]
    assert [text for text, _ in told[:4]] == [f"{label[name]:.4f}" for name in ("auc", "gauc", "log_loss", "calibration")]
    truth = table_of(page, "By the truth")
    expected = ("0.5000", "0.5625", "0.0625", "0.1250", "12.5000", "3.0000", "0.2500", "8", "90")
    assert truth == {"served": [(cell, "") for cell in expected]}
    assert table_of(page, "Label outcomes") == {"click: late": [("7", "")]}
    assert "Share of all rows: supa" in page
    assert "50 % within 5.0 s" in page


def test_markdown_has_the_same_tables() -> None:
    for told in PAGES.values():
        tables = Tree(to_html(told)).root.all("table")
        rows = [line for line in to_markdown(told).splitlines() if line.startswith("|") and not line.startswith("|---")]
        texts = [re.sub(r"[*\\]", "", line) for line in rows]
        for table in tables:
            assert sum(line.startswith(f"| {table.all('caption')[0].words()} |") for line in texts) == 1
            for name, of in cells(table).items():
                line = " | ".join([name, *(f"{text} ({interval})" if interval else text for text, interval in of)])
                assert f"| {line} |" in texts
    short = to_short_markdown(TOLD)
    assert short.count("\n|---") == 4
    assert " to " not in short.split("\n\n", 1)[1], "no intervals"


def test_the_headline_says_where_it_loses() -> None:
    told = copy.deepcopy(TOLD)
    pair = told["paired"]["lists"]["popular-2h"]["hr@20"]
    for difference, bounds, words in (
        (-0.02, [-0.03, -0.01], "behind"),
        (0.02, [0.01, 0.03], "ahead of"),
        (0.0, [-0.1, 0.1], "not clearly different from"),
    ):
        pair |= {"difference": difference, "ci95": bounds}
        text = to_markdown(told)
        assert f"That is {words} the best baseline, popular-2h" in text
        assert f"{100 * difference:+.2f} points, 95 % interval {100 * bounds[0]:+.2f} to {100 * bounds[1]:+.2f}" in text


def test_names_from_a_log_are_text() -> None:
    found = made_up(names=("served", HOSTILE, "b"), label=HOSTILE)
    told = told_of(found)
    told["log"] = {"mapping": HOSTILE, HOSTILE: HOSTILE}
    told["truth"] = {HOSTILE: TRUTH}
    page = to_html(told)
    assert not Tree(page).root.all("script")
    assert "\x00" not in page
    assert page.count("&lt;script&gt;") > 20
    pages = Tree(to_html(compare(found, found))).root
    assert not pages.all("script")
    markdown = to_markdown(told)
    assert not re.search(r"(?<!\\)<script", markdown)
    heads = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(heads) > 20
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in heads]
    assert all(a == b for (a, b), (line, _) in zip(pairwise(columns), pairwise(heads), strict=True) if line.startswith("|---"))


def test_markup_escapes_all_but_itself() -> None:
    assert (
        element("a", "<b>", Markup("<i></i>"), title='"&', class_="x", data_y=None)
        == '<a title="&quot;&amp;" class="x">&lt;b&gt;<i></i></a>'
    )


def test_sparse_results_have_a_page_too() -> None:
    """Nothing judged, one hour alone, no labels, no baselines: sections are left out, and no plot is empty."""
    empty, found = told_of(Judgements(*(frame.clear() for frame in (made_up().lists, made_up().ranks, made_up().labels)))), made_up()
    hour = pl.col("ts_ms") < int(found.lists["ts_ms"][0]) + 60_000
    short = told_of(Judgements(found.lists.filter(hour), found.ranks.clear(), found.labels.clear()))
    alone = told_of(Judgements(found.lists.drop("popular-2h", "recent"), found.ranks.clear(), found.labels.clear()))
    for told in (empty, short, alone, {"format": 1, "log": {}, "run": {}}, json.loads(json.dumps(TOLD))):
        page = to_html(told)
        assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
        Tree(page)
        assert to_markdown(told).startswith("# Freshet evaluation\n")


def test_hours_are_put_together_and_gaps_break_the_curve() -> None:
    hours = {"ts_ms": [0, HOUR_MS, 9 * HOUR_MS], "n": [1, 3, 2]}
    assert step_of({"ts_ms": [at * HOUR_MS for at in range(2_000)], "n": [500] * 2_000}) == 24 * HOUR_MS
    assert step_of({"ts_ms": [at * HOUR_MS for at in range(90)], "n": [500] * 90}) == HOUR_MS
    assert step_of({"ts_ms": [at * HOUR_MS for at in range(90)], "n": [40] * 90}) == 3 * HOUR_MS
    points = merged(hours, [1.0, 0.0, 0.5], 2 * HOUR_MS)
    assert points == [(HOUR_MS, 0.25), (9 * HOUR_MS, None), (9 * HOUR_MS, 0.5)]
    assert merged(hours, [None, 0.0, None], HOUR_MS) == [(1.5 * HOUR_MS, 0.0)]


@pytest.mark.parametrize("values", [[0.1, 0.12], [0.0, 0.0], [-3.0, 5e-9], [0.5], [1e6, 2e6], [0.09, 0.1144], [-0.02]])
def test_scales_hold_their_values_between_round_ticks(values: list[float]) -> None:
    scale = axes.numbers(values, 10.0, 110.0)
    assert 10.0 <= scale(min(values)) <= scale(max(values)) <= 110.0
    ticks = [tick.at for tick in scale.ticks]
    assert 2 <= len(ticks) <= 8
    assert [scale(ticks[0]), scale(ticks[-1])] == [10.0, 110.0]
    assert all(float(tick.text) == pytest.approx(tick.at) for tick in scale.ticks)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1.0}


def test_times_are_marked_at_round_utc_times() -> None:
    start = 1_651_363_200_000  # 1 May 2022, 00:00
    assert [tick.text for tick in axes.times([start, start + 24 * HOUR_MS], 0, 1).ticks] == ["1 May", "06:00", "12:00", "18:00", "2 May"]
    assert axes.times([start, start + 90 * 24 * HOUR_MS], 0, 1).ticks[0].text.endswith("2022")


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    whole = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    channels = [int(whole[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_have_contrast_in_light_and_in_dark() -> None:
    """WCAG 2.2: 4.5 for text, 3 for graphics."""
    light, dark = STYLE.split("prefers-color-scheme: dark", 1)[0], STYLE.split("prefers-color-scheme: dark", 1)[1]
    for theme in (light, dark):
        colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]+);", theme))
        for name, least in {"ink": 4.5, "soft": 4.5, "c0": 4.5, **{f"c{at}": 3.0 for at in range(1, 6)}, "other": 3.0}.items():
            for ground in ("ground", "mark", "raised"):
                high, low = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= least, (name, ground)
