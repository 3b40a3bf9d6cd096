"""`python -m benchmarks` told what cannot work: one line that says what to change, and no traceback."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["supa", "--graph", "nowhere"], "nowhere: no train.txt"),
        (["temporal", "--edges", "nowhere.parquet"], "nowhere.parquet cannot be read"),
        (["supa-parts", "nowhere"], "nowhere: no train.txt"),
        (["supa", "--seeds", "0"], "a whole number above 0 is wanted, got 0"),
        (["supa-scale", "--nodes", "1"], "`--nodes` must be at least 2"),
        (["supa-scale", "--edges", "many"], "a whole number above 0 is wanted, got many"),
        (["fastest"], "usage: python -m benchmarks"),
    ],
)
def test_a_wrong_option_is_answered_in_a_line(words: list[str], told: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "benchmarks", *words], capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert told in ended.stderr and "Traceback" not in ended.stderr
    assert not ended.stdout
