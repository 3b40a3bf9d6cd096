"""`python -m benchmarks supa-parts DIR [DIR ...]`: what each part of SUPA brings, on every graph; written into docs/supa.md with plots.

Each line changes one setting of the default. Figures are medians over the seeds, of the learned score alone.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.graph_model import learned_scores, train
from benchmarks.report import at_least_one, caption
from evaluation.links.graph import Graph, read_graph
from evaluation.links.static import evaluate
from evaluation.report.charts import Mark, Row, dot_plot
from evaluation.report.markup import Markup, element, joined
from learners.supa import SupaConfig

DOCS = Path(__file__).parents[1] / "docs"
START, STOP = "<!-- parts -->", "<!-- end of parts -->"
DAY_SECONDS = 86_400.0
PARTS: dict[str, Mapping[str, Any]] = {
    "default": {},
    "served as published": {"serving": "published"},
    "+ interaction loss": {"interaction": True},
    "+ short vector": {"short_vector": True},
    "sigmoids": {"loss": "sigmoid"},
    "no biases": {"bias_rate": 0},
    "no walks": {"walks": 0},
    "3 walks": {"walks": 3},
    "10 walks": {"walks": 10},
    "walks of 3 hops": {"walk_length": 3},
    "newer of 2 hops": {"newest_of": 2},
    "20 negatives": {"negatives": 20},
    "80 negatives": {"negatives": 80},
    "negatives: any type": {"typed_share": 0.0},
    "negatives: one type": {"typed_share": 1.0},
    "fresh negatives": {"negative_block_rows": 1},
    "64 share negatives": {"negative_block_rows": 64},
    "a relation per type": {"multiplex": True},
    "forgets nothing": {"forget_half_life_seconds": 0},
    "half-life 70 days": {"forget_half_life_seconds": 70 * DAY_SECONDS},
    "half-life 7 days": {"forget_half_life_seconds": 7 * DAY_SECONDS},
    "InsLearn, 3 passes": {"passes": 3, "validate_every": 1},
    "d = 64": {"dimensions": 64},
    "d = 128": {"dimensions": 128},
    "d = 256": {"dimensions": 256},
}
SPEED = ("default", "no walks", "20 negatives", "80 negatives", "d = 64", "d = 128", "d = 256")
WIDTH, HEIGHT, MARGIN = 400, 260, 44
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.grid,.axis-line{stroke:#d0d7de}.mark,.point{fill:#0969da;stroke:none}"
    ".curve,.interval{stroke:#0969da;stroke-width:2;fill:none}"
)


@dataclass(frozen=True)
class Measured:
    """Medians of one part on one graph."""

    mrr: float
    hit_50: float
    new_mrr: float
    edges_per_second: float


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks supa-parts", description=__doc__, epilog="Example: supa-parts data/supa_uci"
    )
    parser.add_argument("graphs", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--seeds", type=at_least_one, default=3)
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    told = {path.name: measured(read_graph(path), given.seeds) for path in given.graphs}
    write_page(told)
    print(json.dumps({graph: {part: round(of.mrr, 4) for part, of in parts.items()} for graph, parts in told.items()}))


def measured(graph: Graph, seeds: int) -> dict[str, Measured]:
    """Every part, each compiled before it is timed."""
    out = {}
    for name, changes in PARTS.items():
        print(name, file=sys.stderr, flush=True)
        settings = {key: value for key, value in changes.items() if key != "multiplex"}
        train(graph, SupaConfig(**settings), "multiplex" in changes, graph.train.part(0, min(100, len(graph.train))))
        out[name] = median([once(graph, SupaConfig(seed=seed, **settings), "multiplex" in changes) for seed in range(seeds)])
    return out


def once(graph: Graph, config: SupaConfig, multiplex: bool) -> Measured:
    """One seed."""
    trained = train(graph, config, multiplex)
    scores = evaluate(graph, learned_scores(trained)).protocol
    return Measured(scores.overall.mrr, scores.overall.hit_50, scores.new.mrr, trained.edges_per_second)


def median(of: Sequence[Measured]) -> Measured:
    return Measured(*(statistics.median(values) for values in zip(*(vars(one).values() for one in of), strict=True)))


def write_page(told: Mapping[str, Mapping[str, Measured]]) -> None:
    """The table into docs/supa.md, the plots beside its other images."""
    page = DOCS / "supa.md"
    before, _, rest = page.read_text().partition(START)
    page.write_text(f"{before}{START}\n{tables(told)}\n{STOP}{rest.partition(STOP)[2]}")
    for graph, parts in told.items():
        save(DOCS / "images" / f"parts-{graph}.svg", quality_plot(graph, parts))
        save(DOCS / "images" / f"speed-{graph}.svg", speed_plot(graph, parts))


def tables(told: Mapping[str, Mapping[str, Measured]]) -> str:
    """Markdown."""
    head = "".join(f" {graph} MRR | H@50 | new MRR | edges/s |" for graph in told)
    lines = [
        f"`python -m benchmarks supa-parts {' '.join(f'DATA/{graph}' for graph in told)}`, {caption().splitlines()[1]}.",
        "",
        f"| |{head}",
        f"|---|{'---:|' * 4 * len(told)}",
    ]
    for part in PARTS:
        cells = [told[graph][part] for graph in told]
        lines.append(
            f"| {part} |" + "".join(f" {c.mrr:.4f} | {c.hit_50:.3f} | {c.new_mrr:.4f} | {c.edges_per_second:,.0f} |" for c in cells)
        )
    return "\n".join(lines)


def quality_plot(graph: str, parts: Mapping[str, Measured]) -> Markup:
    rows = [Row(name, [Mark(of.mrr, None, "s0", name)], f"{of.mrr:.3f}") for name, of in parts.items()]
    return dot_plot(f"MRR on {graph} by part", "Each line changes one setting of the default.", rows)


def speed_plot(graph: str, parts: Mapping[str, Measured]) -> Markup:
    """Edges per second against MRR."""
    chosen = [(name, parts[name]) for name in SPEED]
    fastest, best = max(of.edges_per_second for _, of in chosen) * 1.15, max(of.mrr for _, of in chosen)
    low, high = min(of.mrr for _, of in chosen) - 0.02, best + 0.01

    def place(of: Measured) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * of.edges_per_second / fastest
        return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (of.mrr - low) / (high - low)

    points = [
        joined([element("circle", cx=x, cy=y, r=4, class_="point"), element("text", name, x=x + 4, y=y + (15 if at % 2 else -7))])
        for at, (name, (x, y)) in enumerate((name, place(of)) for name, of in chosen)
    ]  # fmt: skip
    axes = [
        element("text", f"edges per second, to {fastest:,.0f}", x=WIDTH - MARGIN, y=HEIGHT - 12, text_anchor="end"),
        element("text", f"MRR from {low:.3f} to {high:.3f}", x=8, y=18),
        element("line", x1=MARGIN, x2=WIDTH - MARGIN, y1=HEIGHT - MARGIN, y2=HEIGHT - MARGIN, class_="axis-line"),
        element("line", x1=MARGIN, x2=MARGIN, y1=MARGIN, y2=HEIGHT - MARGIN, class_="axis-line"),
    ]
    title = element("title", f"Speed against quality on {graph}")
    return element("svg", [title, *axes, *points], viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")


def save(path: Path, picture: Markup) -> None:
    """As a file of its own: with the name space and a style."""
    text = str(picture).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, _, body = text.partition(">")
    path.write_text(f"{head}><style>{STYLE}</style><rect width='100%' height='100%' fill='white'/>{body}\n")
