"""`python -m benchmarks simulate`: events per second of the simulated world, on one core, by its size."""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.report import report
from evaluation.world import frames, make_world

SIZES = (10_000, 1_000_000)  # users, and items


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulate", description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for frame in frames(make_world({"users": SIZES[0], "items": SIZES[0]}), 10_000):  # compiled now
        assert frame.height
    figures = {f"events_per_second_{size}": measured(size, given.events) for size in SIZES}
    report("simulated world, one core", {**figures, "rss_mb": round(psutil.Process().memory_info().rss / 2**20)})


def measured(size: int, events: int) -> float:
    """Events per second to Arrow, then into a Parquet file each chunk."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        for number, frame in enumerate(frames(make_world({"users": size, "items": size}), events)):
            frame.write_parquet(Path(directory) / f"{number}.parquet")
    return events / (time.perf_counter() - started)
