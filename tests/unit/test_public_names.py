"""What `import freshet` offers, and what it costs."""

import subprocess
import sys

import pytest

import freshet

NAMES = ["CacheConfig", "EmbeddedBroker", "ParameterCache", "Settings", "__version__", "replay"]


def test_exactly_these_names_are_public() -> None:
    assert freshet.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves(name: str) -> None:
    found = getattr(freshet, name)
    assert isinstance(found, str) if name == "__version__" else found.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cache'"):
        _ = freshet.Cache


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_importing_freshet_loads_nothing_heavy() -> None:
    loaded = run("import sys, freshet; print(*sorted(set(sys.modules) & {'torch', 'numba', 'polars', 'faust', 'kafka', 'aiokafka'}))")
    assert loaded == ""


def test_embedding_the_cache_loads_neither_kafka_nor_torch() -> None:
    loaded = run(
        "import sys; from freshet import ParameterCache; print(*sorted(set(sys.modules) & {'torch', 'faust', 'kafka', 'aiokafka'}))"
    )
    assert loaded == ""
