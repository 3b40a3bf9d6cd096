"""`python -m benchmarks supa --graph DIR`: SUPA on a graph beside what needs no learning, by the protocol of the paper's tables.

DIR has train.txt, valid.txt, test.txt ("source target type seconds") and node_types.txt. Every score is that of the state after one pass
over train.txt; of our rows it is the median over the seeds. The last line is JSON.
"""

import argparse
import json
import os
import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.data import folder
from benchmarks.graph_model import Scores, Trained, learned_scores, memory_scores, train
from benchmarks.report import at_least_one, caption
from evaluation.links.graph import Graph, read_graph
from evaluation.links.static import LinkScores, evaluate
from learners.baselines.links import History, static_baselines
from learners.supa import SupaConfig
from learners.supa.config import paper

DEFAULT_GRAPH = "supa_uci"
MEMORY_EVERY = 4
COLUMNS = ("", "MRR", "H@20", "H@50", "NDCG@10", "repeated MRR", "new MRR", "new H@50", "MRR w/o query", "MRR unfiltered", "edges/s")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    scores: LinkScores
    edges_per_second: float | None = None

    def figures(self) -> dict[str, float]:
        """By column."""
        of = self.scores.protocol
        whole = (of.overall.mrr, of.overall.hit_20, of.overall.hit_50, of.overall.ndcg_10, of.repeated.mrr, of.new.mrr, of.new.hit_50)
        told = (*whole, self.scores.without_query.overall.mrr, self.scores.unfiltered.overall.mrr, self.edges_per_second or 0.0)
        return dict(zip(COLUMNS[1:], told, strict=True))


@dataclass(frozen=True)
class Contender:
    """One of ours: how it is made for a seed, and which of its scores is asked."""

    name: str
    config: Callable[[int], SupaConfig]
    scores: Callable[[Trained], Scores]
    multiplex: bool = False


OURS = (
    Contender("learned score", lambda seed: SupaConfig(seed=seed), learned_scores),
    Contender("memory-aware score", lambda seed: SupaConfig(seed=seed, memory_every=MEMORY_EVERY, memory_question="later"), memory_scores),
)
PAPER = Contender("as published (`paper`)", lambda seed: paper(seed=seed), learned_scores, multiplex=True)


def hogwild(threads: int) -> Contender:
    """The learned score, of threads without locks."""
    return Contender(f"learned score, {threads} threads", lambda seed: SupaConfig(seed=seed, threads=threads), learned_scores)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks supa", description=__doc__, epilog="Example: supa --graph data/supa_uci")
    parser.add_argument("--graph", type=Path, help=f"default: {DEFAULT_GRAPH} among the data")
    parser.add_argument("--seeds", type=at_least_one, default=3, help="of which the median is told (default: 3)")
    parser.add_argument("--threads", type=at_least_one, default=1, help="more than 1: a row of that many, without locks (default: 1)")
    parser.add_argument("--without-paper", action="store_true", help="leave out the published workflow, which takes minutes")
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    graph = read_graph(given.graph or folder(f"{DEFAULT_GRAPH}/train.txt") / DEFAULT_GRAPH)
    compile_kernels(graph)
    contenders = [*OURS, *([] if given.without_paper else [PAPER]), *([hogwild(given.threads)] if given.threads > 1 else [])]
    ours = [median_row(graph, contender, given.seeds) for contender in contenders]
    show([*baseline_rows(graph), *ours])
    print(json.dumps(summary(*ours[:2])))


def compile_kernels(graph: Graph) -> None:
    """On the first edges, so that no figure has it in it."""
    few = graph.train.part(0, min(200, len(graph.train)))
    for contender in OURS:
        train(graph, contender.config(0), edges=few)


def baseline_rows(graph: Graph) -> Iterator[tuple[str, dict[str, float]]]:
    """What needs no learning."""
    of = graph.train
    for name, scores in static_baselines(History(of.source, of.target, of.ts_ms, graph.nodes)).items():
        yield name, Row(name, evaluate(graph, scores)).figures()


def median_row(graph: Graph, contender: Contender, seeds: int) -> tuple[str, dict[str, float]]:
    """Each figure's median over the seeds."""
    told = []
    for seed in range(seeds):
        print(f"{contender.name}, seed {seed}", file=sys.stderr, flush=True)
        trained = train(graph, contender.config(seed), contender.multiplex)
        told.append(Row(contender.name, evaluate(graph, contender.scores(trained)), trained.edges_per_second).figures())
    return contender.name, {column: statistics.median(of[column] for of in told) for column in COLUMNS[1:]}


def show(rows: Sequence[tuple[str, dict[str, float]]]) -> None:
    table = Table(*COLUMNS, title=caption(), title_justify="left")
    for name, figures in rows:
        speed = figures["edges/s"]
        table.add_row(name, *(f"{figures[column]:.4f}" for column in COLUMNS[1:-1]), f"{speed:,.0f}" if speed else "")
    Console(highlight=False, width=170).print(table)


def summary(learned: tuple[str, dict[str, float]], aware: tuple[str, dict[str, float]]) -> dict[str, float]:
    """The last line."""
    of = learned[1]
    named = {"mrr": "MRR", "hit20": "H@20", "hit50": "H@50", "ndcg10": "NDCG@10", "new_pair_mrr": "new MRR", "new_pair_hit50": "new H@50"}
    memory = {"memory_aware_mrr": aware[1]["MRR"], "memory_aware_hit50": aware[1]["H@50"]}
    speed = {"edges_per_second": round(of["edges/s"]), "memory_aware_edges_per_second": round(aware[1]["edges/s"])}
    figures = {name: round(of[column], 4) for name, column in named.items()} | {name: round(value, 4) for name, value in memory.items()}
    return {**figures, **speed, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
