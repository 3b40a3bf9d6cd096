"""The pages say what the code does: their Python runs, their links lead somewhere, their tables are complete, their commands exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from features.documentation import tables
from monitoring.metrics import BulkHistogram, Metrics
from streams import pipeline, topics
from streams.cli import app
from streams.contract import EVENT_FIELDS, ITEM_FIELDS, REJECTIONS
from streams.dead_letters import NAMES
from streams.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NO_RUN = "python no-run"
PRODUCER = "python producer"  # tests/integration/test_producers.py runs these against a broker
REASON = "# Not run by the tests: "


class Block(NamedTuple):
    """A fenced block: where it stands, what it says it is, its text."""

    name: str
    info: str
    text: str


def page(name: str) -> str:
    return (ROOT / name).read_text()


def blocks() -> list[Block]:
    found = ((path, number, match) for path in PAGES for number, match in enumerate(FENCE.finditer(path.read_text())))
    return [Block(f"{path.relative_to(ROOT)}-{number}", match[1], match[2]) for path, number, match in found]


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in PAGES}
    guides = {
        f"docs/{name}.md"
        for name in (
            "baselines",
            "design",
            "evaluation",
            "features",
            "labels",
            "mappings",
            "operators",
            "producers",
            "recording",
            "replay",
            "results",
            "simulator",
            "testing",
        )
    }
    assert names >= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", *guides}


@pytest.mark.parametrize("block", [b for b in blocks() if b.info == "python"], ids=lambda b: b.name)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.name, "exec"), {"__name__": "__main__"})


NOT_HERE = [b for b in blocks() if b.info.startswith("python") and b.info not in ("python", PRODUCER)]


@pytest.mark.parametrize("block", NOT_HERE, ids=lambda b: b.name)
def test_python_that_does_not_run_says_why_and_its_imports_resolve(block: Block) -> None:
    assert block.info == NO_RUN
    assert block.text.startswith(REASON)
    compile(block.text, block.name, "exec")
    imports = re.findall(r"^(?:from|import) .+$", block.text, re.MULTILINE)
    exec("\n".join(imports), {})


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(prose(path)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_test_that_proves_a_guarantee_exists() -> None:
    named = set(re.findall(r"tests/[\w/]+\.py", "".join(map(prose, PAGES))))
    assert len(named) > 10
    assert not {name for name in named if not (ROOT / name).exists()}


def shown(value: object) -> str:
    """A default as the settings table gives it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value) if str(value) else "empty"


def test_the_settings_table_is_complete() -> None:
    rows = [f"| `{name}` | {shown(field.default)} | {field.description} |" for name, field in Settings.model_fields.items()]
    assert table(page("docs/operators.md"), "| Setting |") == rows


def test_the_features_are_those_declared() -> None:
    assert "\n".join(tables(pipeline.features(Settings()))) in page("docs/features.md")


def metric_rows() -> Iterator[str]:
    """A row for each metric, in the order of their definition."""
    for metric in vars(Metrics(CollectorRegistry())).values():
        if isinstance(metric, (MetricWrapperBase, BulkHistogram)):
            [family] = metric.describe()
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = ", ".join(getattr(metric, "_labelnames", ()))
            yield f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


def test_the_metrics_table_is_complete() -> None:
    rows = list(metric_rows())
    assert len(rows) >= 25
    assert table(page("docs/operators.md"), "| Metric |") == rows


def test_the_topics_table_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        f"| `{name}` | {partitions} | {'compacted' if hours is None else f'{hours:g}'} | {size_bytes} | {about} |"
        for name, partitions, hours, size_bytes, about in topics.table(Settings())
    ]
    assert table(page("docs/producers.md"), "| Topic | Partitions |") == rows


def test_the_contract_is_complete() -> None:
    told = page("docs/producers.md")
    for name in [*(field.name for field in (*EVENT_FIELDS, *ITEM_FIELDS)), *NAMES]:
        assert f"`{name}`" in told, name
    for rejection in REJECTIONS:
        assert f"| `{rejection.__name__}` | `{rejection.category}` |" in told


def table(text: str, head: str) -> list[str]:
    """The rows of the table whose first line starts so."""
    _, _, rest = text.partition(f"\n{head}")
    return re.findall(r"^\|.*\|$", rest.partition("\n\n")[0], re.MULTILINE)[1:]


def commands() -> set[str]:
    """Every `freshet ...` of the pages: from code within lines, and from lines of shell blocks."""
    spans = [span for path in PAGES for span in re.findall(r"`(freshet [^`]+)`", prose(path))]
    lines = [line for block in blocks() if block.info == "sh" for line in block.text.splitlines()]
    return {*spans, *(line for line in lines if line.startswith("freshet "))}


def test_every_command_and_option_exists() -> None:
    found = commands()
    assert len(found) > 10
    for command in sorted(found):
        _, *words = shlex.split(command)
        known: Any = typer.main.get_command(app)
        while words and hasattr(known, "commands"):
            assert words[0] in known.commands, command
            known = known.commands[words.pop(0)]
        options = {option for parameter in known.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, command
