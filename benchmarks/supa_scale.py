"""`python -m benchmarks supa-scale`: what an edge costs SUPA by the number of nodes, its memory, and its snapshots.

Synthetic edges between users and items (half of the nodes each), both Zipf; every node has an edge before anything is measured. The sizes
take turns, so that a machine's moods are all of theirs. Then the largest is saved, restored into a new learner and compared byte by byte.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import report
from core.rows import Rows
from core.snapshot import Snapshot
from learners.supa import SupaConfig
from learners.supa.graph import SupaGraph, fields

NODES = (10_000, 100_000, 1_000_000, 5_000_000)
EDGES, TURN, EXPONENT = 200_000, 20_000, 1.0
START_MS, EDGE_MS = 1_767_225_600_000, 50


class Size:
    """A graph of so many nodes, each with an edge, and the edges that are measured on it."""

    def __init__(self, nodes: int, edges: int, threads: int) -> None:
        self.nodes, self.half, self.config = nodes, nodes // 2, SupaConfig(threads=threads)
        self.graph, self.ordinal, self.seconds, self.learned = SupaGraph(self.config, (self.half, self.half)), 0, 0.0, 0
        rows = np.arange(self.half, dtype=np.int32)
        for first in self.graph.first[:2]:
            keys = np.stack([rows.astype(np.uint64), np.full(self.half, first, np.uint64)], axis=1)
            self.graph.initialise(rows + np.int32(first), keys)
        self._learn(np.stack([rows, rows], axis=1))
        random = np.random.default_rng(0)
        chances = 1.0 / np.arange(1, self.half + 1) ** EXPONENT
        self.edges = random.choice(self.half, (edges, 2), p=chances / chances.sum()).astype(np.int32)
        self.edges = np.stack([random.permutation(self.half)[self.edges[:, 0]], random.permutation(self.half)[self.edges[:, 1]]], axis=1)

    def _learn(self, pairs: np.ndarray) -> None:
        """int [n, 2]: user, item."""
        ends = (pairs + self.graph.first[:2]).astype(np.int32)
        ts_ms = START_MS + EDGE_MS * np.arange(self.ordinal, self.ordinal + len(ends))
        self.graph.learn(ends, np.zeros(len(ends), np.int64), ts_ms, self.ordinal)
        self.ordinal += len(ends)

    def turn(self, start: int) -> None:
        """Learn, and take the time of, the edges from `start` on."""
        part, started = self.edges[start : start + TURN], time.perf_counter()
        self._learn(part)
        self.seconds += time.perf_counter() - started
        self.learned += len(part)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks supa-scale", description=__doc__, epilog="Example: supa-scale --nodes 10000"
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=list(NODES))
    parser.add_argument("--edges", type=int, default=EDGES, help=f"measured on each size (default: {EDGES:,})")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    Size(2_000, 100, given.threads)  # compiled now
    sizes = [Size(nodes, given.edges, given.threads) for nodes in given.nodes]
    for start in range(0, given.edges, TURN):
        for size in sizes:
            size.turn(start)
    rates = {f"edges_per_second_{size.nodes}": round(size.learned / size.seconds) for size in sizes}
    least = min(size.learned / size.seconds for size in sizes) / max(size.learned / size.seconds for size in sizes)
    memory = {"bytes_per_row": row_bytes(sizes[0].config), "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    report("SUPA by number of nodes", {**rates, "slowest_to_fastest": round(least, 3), **memory, **snapshots(sizes[-1])})


def row_bytes(config: SupaConfig) -> int:
    """Of all arrays."""
    return sum(int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize for dtype, shape in fields(config).values())


def snapshots(size: Size) -> dict[str, float]:
    """Seconds to save and to restore all rows, and whether they are the same bytes."""
    with tempfile.TemporaryDirectory() as name:
        started, graph = time.perf_counter(), size.graph
        for type_, arrays in enumerate(graph.arrays_of_type):
            folder = Path(name, str(type_))
            folder.mkdir()
            snapshot = Snapshot(folder)
            Rows.over(arrays, np.ones(len(arrays["alive"]) >> 12, np.bool_)).snapshot(snapshot, size.half)
            snapshot.flush()
        saved = time.perf_counter()
        back = SupaGraph(size.config, (size.half, size.half))
        for type_, arrays in enumerate(back.arrays_of_type):
            Rows.over(arrays, np.ones(len(arrays["alive"]) >> 12, np.bool_)).restore(Path(name, str(type_)))
        restored = time.perf_counter()
        same = all(np.array_equal(graph.arrays[key], back.arrays[key]) for key in graph.arrays)
    return {"snapshot_seconds": saved - started, "restore_seconds": restored - saved, "same_bytes": int(same)}
