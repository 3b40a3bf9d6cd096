"""Compile the kernels that tests use and a server does not: baselines, scores, the simulated world."""

import subprocess
import sys
import tempfile
from pathlib import Path

from learners.baselines.registry import DEFAULT, EXTRA_LISTS

EVENTS = 4_000


def main() -> None:
    """A small simulated log, judged beside every baseline that is compiled."""
    with tempfile.TemporaryDirectory(prefix="freshet-warm-") as directory:
        world = Path(directory) / "world"
        _freshet("simulate", str(world), "--events", str(EVENTS), "--truth-labels")
        files = (str(world / "events.parquet"), "--catalogue", str(world / "items.ndjson"), "--world", str(world))
        compared = Path(directory) / "run"
        baselines = (f"--baseline={name}" for name in (*DEFAULT, *EXTRA_LISTS))
        _freshet("evaluate", *files, "--sample", "0.1", "--save", str(compared), *baselines)
        _freshet("evaluate", "--compare", str(compared), str(compared))


def _freshet(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "freshet", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
