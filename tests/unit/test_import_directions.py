"""The direction of imports (docs/design.md, layout): a folder may import only what stands below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"core", "evaluation", "features", "freshet", "learners", "monitoring", "streams"}
KAFKA = {"faust", "kafka", "aiokafka", "mode"}
ARITHMETIC = {"numba", "torch"}

MAY_IMPORT = {
    "core": set(),
    "monitoring": {"core"},
    "evaluation": {"core"},
    "features": {"core"},
    "learners": {"core"},
    "streams": {"core", "evaluation", "features", "learners", "monitoring"},
    "freshet": {"core", "learners", "monitoring", "streams"},
}
FOREIGN = dict.fromkeys(OURS - {"streams"}, KAFKA) | {"streams": ARITHMETIC}


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names that any statement of the file imports, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]


def imports_of(package: str) -> list[tuple[str, str]]:
    """(file, imported top-level name) of every import in a package."""
    files = sorted((ROOT / package).rglob("*.py"))
    return [(str(path.relative_to(ROOT)), name) for path in files for name in imported(ast.parse(path.read_text()))]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    assert (ROOT / package / "__init__.py").exists()
    forbidden = OURS - MAY_IMPORT[package] - {package}
    assert [(path, name) for path, name in imports_of(package) if name in forbidden] == []


@pytest.mark.parametrize("package", sorted(FOREIGN))
def test_a_package_keeps_to_its_libraries(package: str) -> None:
    """Kafka and Faust live in streams alone; arithmetic does not live there."""
    assert [(path, name) for path, name in imports_of(package) if name in FOREIGN[package]] == []


def test_the_rule_sees_imports_wherever_they_stand() -> None:
    code = "import faust.app\ndef f():\n    from kafka.admin import NewTopic\n    import os, torch\nfrom . import sibling\n"
    assert list(imported(ast.parse(code))) == ["faust", "kafka", "os", "torch"]
