"""`python -m benchmarks supa-scale`: what an edge costs SUPA by the number of nodes, its memory, and its snapshots.

Synthetic edges between users and items (half of the nodes each), both Zipf; every node has an edge before anything is measured. The sizes
take turns, and what counts is the median turn of each, so that a machine's moods are nobody's. Then the largest learner is saved as a
whole, ids and all, and restored into a new one, whose digest must be the same.
"""

import argparse
import gc
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import at_least_one, report
from core.errors import SettingsError
from core.snapshot import Snapshot
from learners.supa import SupaConfig, SupaLearner

NODES = (10_000, 100_000, 1_000_000, 5_000_000)
EDGES, TURN, EXPONENT = 200_000, 5_000, 1.0
START_MS, EDGE_MS = 1_767_225_600_000, 50
LEAST_ROWS = 2_048  # that a learner has room for


class Size:
    """A graph of so many nodes, each with an edge, and the edges that are measured on it."""

    def __init__(self, nodes: int, edges: int, threads: int) -> None:
        self.nodes, self.half, self.ordinal = nodes, nodes // 2, 0
        room = max(self.half, LEAST_ROWS)
        self.config = SupaConfig(threads=threads, max_users=room, max_items=room)
        self.learner = SupaLearner(self.config)
        self.turns: list[float] = []  # edges per second
        for name, part in (("user", self.learner.users), ("item", self.learner.items)):
            part.admit([f"{name}-{number}" for number in range(self.half)])
        rows = np.arange(self.half, dtype=np.int32)
        self._learn(np.stack([rows, rows], axis=1))
        random = np.random.default_rng(0)
        chances = 1.0 / np.arange(1, self.half + 1) ** EXPONENT
        self.edges = random.choice(self.half, (edges, 2), p=chances / chances.sum()).astype(np.int32)
        self.edges = np.stack([random.permutation(self.half)[self.edges[:, 0]], random.permutation(self.half)[self.edges[:, 1]]], axis=1)

    def _learn(self, pairs: np.ndarray) -> None:
        """int [n, 2]: user, item."""
        graph = self.learner.graph
        ends = (pairs + graph.first[:2]).astype(np.int32)
        ts_ms = START_MS + EDGE_MS * np.arange(self.ordinal, self.ordinal + len(ends))
        graph.learn(ends, np.zeros(len(ends), np.int64), ts_ms, self.ordinal)
        self.ordinal += len(ends)

    def turn(self, start: int) -> None:
        """Learn, and take the time of, the edges from `start` on."""
        part, started = self.edges[start : start + TURN], time.perf_counter()
        self._learn(part)
        self.turns.append(len(part) / (time.perf_counter() - started))

    @property
    def rate(self) -> float:
        """Edges per second."""
        return float(np.median(self.turns))

    @property
    def row_bytes(self) -> int:
        """Of all arrays, most of which lie in one block."""
        table = self.learner.graph.table
        return int(table.long.strides[0] + table.type.itemsize + table.touched.itemsize)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks supa-scale", description=__doc__, epilog="Example: supa-scale --nodes 10000"
    )
    parser.add_argument("--nodes", type=at_least_one, nargs="+", default=list(NODES))
    parser.add_argument("--edges", type=at_least_one, default=EDGES, help=f"measured on each size (default: {EDGES:,})")
    parser.add_argument("--threads", type=at_least_one, default=1)
    given = parser.parse_args(arguments)
    if min(given.nodes) < 2:
        raise SettingsError(f"`--nodes` must be at least 2, got {min(given.nodes)}: half are users, half are items")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    Size(2_000, 100, given.threads)  # compiled now
    sizes = [Size(nodes, given.edges, given.threads) for nodes in given.nodes]
    for start in range(0, given.edges, TURN):
        for size in sizes:
            size.turn(start)
    rates = {f"edges_per_second_{size.nodes}": round(size.rate) for size in sizes}
    least = min(size.rate for size in sizes) / max(size.rate for size in sizes)
    largest = max(sizes, key=lambda size: size.nodes)
    sizes.clear()  # their memory is needed
    memory = {"bytes_per_row": largest.row_bytes, "rows_peak_rss_mb": peak_rss_mb()}
    saved = snapshots(largest)
    report(
        "SUPA by number of nodes",
        {**rates, "slowest_to_fastest": round(least, 3), **memory, **saved, "peak_rss_mb": peak_rss_mb()},
    )


def peak_rss_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def snapshots(size: Size) -> dict[str, float]:
    """Seconds to save and to restore the learner, those of them that it waits, and whether what came back is the same.

    There is no room for two: it goes before the other comes.
    """
    learner = size.learner
    learner.users.take_touched()  # a host publishes before a snapshot
    learner.items.take_touched()
    digest = learner.digest()
    with tempfile.TemporaryDirectory() as name:
        started, snapshot = time.perf_counter(), Snapshot(Path(name))
        learner.snapshot(snapshot)
        taken = time.perf_counter()
        snapshot.flush()
        saved = time.perf_counter()
        del size.learner, learner
        gc.collect()
        freed, back = time.perf_counter(), SupaLearner(size.config)
        back.restore(Path(name))
        restored = time.perf_counter()
    seconds = {"waited_seconds": taken - started, "snapshot_seconds": saved - started, "restore_seconds": restored - freed}
    return {**seconds, "same_digest": int(back.digest() == digest)}
