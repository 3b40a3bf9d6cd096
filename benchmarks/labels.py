"""`python -m benchmarks labels`: what each policy of late labels makes of delays.

exactness: where the weights lead at constant features. synthetic: log B, shares of the gap between Vanilla and Oracle that are closed.
taobao: carts and favourites that are bought within a day, losses beside Vanilla's. sliver: Sliver beside windows of 5 min and 1 h.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks import label_exactness, label_taobao, label_windows
from benchmarks.data import folder
from benchmarks.label_logs import HORIZON_HOURS, TAOBAO, hashed, synthetic, taobao
from benchmarks.label_policies import CONTENDERS, FROZEN, ORACLE, new_model, predictions, pretrain, since, streams
from benchmarks.label_scores import Scores, better, closed, figure_key, scored, show
from benchmarks.report import report
from evaluation.world.clicks import ClickWorld
from learners.labels import LogisticConfig

Figures = dict[str, float]
Notes = dict[str, str]

RATE = 0.1
WARM_HOURS = 96
UNTOLD = (ORACLE, "vanilla", "window")  # by figures, where they would say nothing
RIVALS = ("vanilla", "wait", FROZEN)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks labels", description=__doc__, epilog="Example: labels --data data --seeds 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--seeds", type=int, default=8, help="of the synthetic log, from 0 (default 8)")
    about = f"pre-train on the final labels known at hour {WARM_HOURS} of the synthetic log, as on the Taobao log"
    parser.add_argument("--warm-start", action="store_true", help=about)
    parser.add_argument("--data", type=Path, default=folder(str(TAOBAO)), help=f"the folder of {TAOBAO}; told and left out if missing")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error("--seeds must be at least 1")
    figures: Figures = {}
    notes: Notes = {}
    for part in given.parts:
        more_figures, more_notes = PARTS[part](given)
        figures |= more_figures
        notes |= more_notes
    report("late labels", figures, notes)


def exactness(given: argparse.Namespace) -> tuple[Figures, Notes]:
    """The rest points, and that the wrong variants are found out."""
    return label_exactness.exactness()


def on_windows(given: argparse.Namespace) -> tuple[Figures, Notes]:
    """Sliver beside fixed windows."""
    return label_windows.compared(given.data)


def on_synthetic(given: argparse.Namespace) -> tuple[Figures, Notes]:
    """Log B, a seed after the other. Every contender learns its own stream from the first hour on, unless it is to start warm."""
    config = LogisticConfig(rate=RATE, helper_rate=RATE)
    of: dict[str, list[Scores]] = {name: [] for name in CONTENDERS}
    for seed in range(given.seeds):
        told = scores_of_seed(ClickWorld(seed=seed), config, given.warm_start)
        for name in CONTENDERS:
            of[name].append(told[name])
        _progress(f"log B, seed {seed}: Vanilla {told['vanilla'].nll:.4f}, Oracle {told[ORACLE].nll:.4f}")
    gaps = {name: gap_figures(name, of) for name in CONTENDERS}
    _show_synthetic(of, gaps)
    figures = {f"{figure_key(name)}_{key}": value for name, own in gaps.items() if name not in UNTOLD for key, value in own.items()}
    start = "warm" if given.warm_start else "cold"
    return figures, {"log B": f"{given.seeds} seeds, {start} start, scored after {WARM_HOURS} h; {_settings(config)}"}


def scores_of_seed(world: ClickWorld, config: LogisticConfig, warm_start: bool) -> dict[str, Scores]:
    """Of every contender, against final labels, after warming up."""
    log, begin = synthetic(world), 0
    told, categorical = streams(log, WARM_HOURS), hashed(log, config)
    model = new_model(config, told)
    if warm_start:
        begin = WARM_HOURS - HORIZON_HOURS
        pretrain(model, log, told, categorical, begin)
    own = predictions(model, log, since(log, told, begin), categorical, range(begin, world.hours))
    late = log.hour >= WARM_HOURS
    return {name: scored(log.converts[late], p[late], log.hour[late]) for name, p in own.items()}


def gap_figures(name: str, of: Mapping[str, Sequence[Scores]]) -> Figures:
    """Percent of the gap, least over seeds too; predicted rate in percent of the true one; seeds on which it beats each rival."""
    figures: Figures = {}
    for score in ("nll", "auc", "pooled_auc"):
        percent = closed(of[name], of["vanilla"], of[ORACLE], score)
        figures |= {f"{score}_gap_mean": round(float(percent.mean()), 1), f"{score}_gap_min": round(float(percent.min()), 1)}
    rates = [100.0 * scores.rate for scores in of[name]]
    figures |= {"predicted_percent_min": round(min(rates), 1), "predicted_percent_max": round(max(rates), 1)}
    return {**figures, **{f"beats_{rival}": better(of[name], of[rival]) for rival in RIVALS if rival != name}}


def _show_synthetic(of: Mapping[str, Sequence[Scores]], gaps: Mapping[str, Figures]) -> None:
    """Of every contender, with the least over seeds in brackets."""
    gap = "gap %, (least)"
    table = Table(
        "log B", "NLL", gap, "AUC by hour", gap, f"pooled AUC {gap}", "predicted / true", f"seeds better than {', '.join(RIVALS)}"
    )
    for name, scores in of.items():
        own, nll, auc = gaps[name], np.mean([each.nll for each in scores]), np.mean([each.auc for each in scores])
        shares = [f"{own[f'{score}_gap_mean']:.0f} ({own[f'{score}_gap_min']:.0f})" for score in ("nll", "auc", "pooled_auc")]
        rates = f"{own['predicted_percent_min'] / 100:.3f} to {own['predicted_percent_max'] / 100:.3f}"
        beats = "  ".join(f"{own.get(f'beats_{rival}', '-')}" for rival in RIVALS)
        table.add_row(name, f"{nll:.4f}", shares[0], f"{auc:.4f}", *shares[1:], rates, beats)
    show(table)


def on_taobao(given: argparse.Namespace) -> tuple[Figures, Notes]:
    if not (given.data / TAOBAO).exists():
        _progress(f"Taobao: left out, there is no {TAOBAO} in {given.data}")
        return {}, {"taobao": "left out, the log is not there"}
    return label_taobao.on_log(taobao(given.data), _progress)


def _settings(config: LogisticConfig) -> str:
    features = "campaign, site, placement, campaign x placement"
    return (
        f"rate {config.rate}, helpers {config.helper_rate}, initial squares {config.initial_squares}, {config.buckets} buckets; {features}"
    )


def _progress(line: str) -> None:
    print(line, file=sys.stderr)


PARTS: dict[str, Callable[[argparse.Namespace], tuple[Figures, Notes]]] = {
    "exactness": exactness,
    "synthetic": on_synthetic,
    "taobao": on_taobao,
    "sliver": on_windows,
}
