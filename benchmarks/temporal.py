"""`python -m benchmarks temporal --edges FILE`: SUPA on a stream beside what needs no learning, test then train, edge by edge.

FILE is Parquet with columns u, i and ts (seconds). The last 15 % of the edges are judged: each is ranked among all items with the state of
all edges before it, then learned. Of our row every figure is the median over the seeds. The last line is JSON.
"""

import argparse
import json
import os
import resource
import statistics
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.data import folder
from benchmarks.report import at_least_one, caption
from benchmarks.supa import MEMORY_EVERY
from core.hashing import fingerprints
from evaluation.links.temporal import Stream, StreamScores, TemporalModel, evaluate_stream, read_stream
from learners.baselines.link_streams import stream_baselines
from learners.supa import SupaConfig
from learners.supa.graph import SupaGraph

DEFAULT_EDGES = "jodie_wikipedia/edges.parquet"
COLUMNS = ("", "MRR", "H@20", "H@50", "NDCG@10", "repeated MRR", "new MRR", "learned/s", "scored and learned/s")


class SupaStream:
    """The memory-aware score as a model of a stream: users ask, items are the candidates."""

    name = "memory-aware score"

    def __init__(self, stream: Stream, seed: int) -> None:
        config = SupaConfig(seed=seed, memory_every=MEMORY_EVERY, asking_types=("user",))
        self.graph, self._learned = SupaGraph(config, (stream.users, stream.items)), 0
        for type_, count in enumerate((stream.users, stream.items)):
            rows = np.arange(count, dtype=np.int32)
            self.graph.initialise(rows + np.int32(self.graph.first[type_]), fingerprints(map(str, rows.tolist())))

    def judge(self, u: np.ndarray, i: np.ndarray, ts_ms: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """See `TemporalModel`."""
        ends, ranks = np.stack([u, i + self.graph.first[1]], axis=1).astype(np.int32), np.zeros(u.size)
        for start, stop in runs_of(judged):
            part, ordinal = slice(start, stop), self._learned + start
            if judged[start]:
                ranks[part] = self.graph.judge(ends[part], ts_ms[part], ordinal, type_=1)
            else:
                self.graph.learn(ends[part], np.zeros(stop - start, np.int64), ts_ms[part], ordinal)
        self._learned += u.size
        return ranks


def runs_of(marks: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of the runs of equal marks, bool [n]."""
    edges = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), marks.size]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks temporal", description=__doc__, epilog="Example: temporal --edges data/edges.parquet"
    )
    parser.add_argument("--edges", type=Path, help=f"default: {DEFAULT_EDGES} among the data")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="of which the median is told (default: 3)")
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    stream = read_stream(given.edges or folder(DEFAULT_EDGES) / DEFAULT_EDGES)
    baselines = stream_baselines(stream.users, stream.items)
    models: list[TemporalModel] = [SupaStream(stream, 0), *(make() for make in baselines.values())]
    for model in models:  # compiled now
        evaluate_stream(stream.part(0, min(1_000, len(stream))), model)
    rows = [(name, figures(evaluate_stream(stream, make()))) for name, make in baselines.items()]
    rows.append(median_row(stream, given.seeds))
    show(rows)
    print(json.dumps(summary(rows[-1][1])))


def median_row(stream: Stream, seeds: int) -> tuple[str, dict[str, float]]:
    """Each figure's median over the seeds."""
    told = []
    for seed in range(seeds):
        print(f"{SupaStream.name}, seed {seed}", file=sys.stderr, flush=True)
        model: TemporalModel = SupaStream(stream, seed)
        told.append(figures(evaluate_stream(stream, model)))
    return SupaStream.name, {column: statistics.median(of[column] for of in told) for column in COLUMNS[1:]}


def figures(of: StreamScores) -> dict[str, float]:
    """By column."""
    scores = of.scores
    whole = (scores.overall.mrr, scores.overall.hit_20, scores.overall.hit_50, scores.overall.ndcg_10)
    told = (*whole, scores.repeated.mrr, scores.new.mrr, of.learned_per_second, of.judged_per_second)
    return dict(zip(COLUMNS[1:], told, strict=True))


def show(rows: Sequence[tuple[str, dict[str, float]]]) -> None:
    table = Table(*COLUMNS, title=caption(), title_justify="left")
    for name, told in rows:
        table.add_row(name, *(f"{told[column]:.4f}" for column in COLUMNS[1:-2]), *(f"{told[column]:,.0f}" for column in COLUMNS[-2:]))
    Console(highlight=False, width=140).print(table)


def summary(of: dict[str, float]) -> dict[str, float]:
    """The last line: there is one score here, the memory-aware one."""
    named = {"mrr": "MRR", "hit20": "H@20", "hit50": "H@50", "ndcg10": "NDCG@10", "memory_aware_mrr": "MRR"}
    parts = {"repeated_pair_mrr": "repeated MRR", "new_pair_mrr": "new MRR"}
    speed = {"edges_per_second": round(of["learned/s"]), "scored_edges_per_second": round(of["scored and learned/s"])}
    quality = {name: round(of[column], 4) for name, column in (named | parts).items()}
    return {**quality, **speed, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
