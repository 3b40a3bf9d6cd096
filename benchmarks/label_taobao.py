"""The Taobao log: every contender pre-trained alike, then streamed slowly; losses beside Vanilla's, hour by hour."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.label_logs import LabelLog, hashed
from benchmarks.label_policies import CONTENDERS, ORACLE, Streams, new_model, predictions, pretrain, saved, since, streams
from benchmarks.label_scores import Paired, Predictions, figure_key, hourly_auc, paired, show
from evaluation.labels import log_losses
from learners.labels import LogisticConfig

PRETRAIN_RATE = 0.1
SLOW_RATE = 0.01
RATES = (0.003, SLOW_RATE, 0.03, 0.1)
HASH_SEEDS = 3


class Span(NamedTuple):
    """Hours that are scored, and the hour before which every click is final when they begin."""

    mature_hour: int
    scored: range


SCORED = Span(62, range(86, 192))
TUNED = Span(24, range(48, 86))

OfRates = dict[float, list[Predictions]]  # rate -> predictions by hashing seed


class Row(NamedTuple):
    """A contender, means over hashing seeds."""

    rate: float
    nll: float
    beside: Paired  # mean over clicks
    by_hour: Paired  # mean over hours
    auc: float
    predicted: float  # over true


def on_log(log: LabelLog, progress: Callable[[str], None]) -> tuple[dict[str, float], dict[str, str]]:
    """One slow rate for all, then for each contender the rate that was best before scoring began."""
    told = streams(log, 0)
    tuning: OfRates = {rate: [] for rate in RATES}
    scored: OfRates = {rate: [] for rate in RATES}
    for seed in range(HASH_SEEDS):
        for into, span in ((tuning, TUNED), (scored, SCORED)):
            for rate, of in of_rates(log, told, seed, span).items():
                into[rate].append(of)
        progress(f"Taobao, hashing seed {seed}")
    slow = rows(log, scored, dict.fromkeys(CONTENDERS, SLOW_RATE))
    own = rows(log, scored, {name: best_rate(log, tuning, name) for name in CONTENDERS})
    _show(f"Taobao, rate {SLOW_RATE}", slow)
    _show("Taobao, rates by contender", own)
    return {**_figures("taobao", slow), **_figures("taobao_tuned", own)}, {"taobao": _settings(log)}


def of_rates(log: LabelLog, told: Streams, seed: int, span: Span) -> dict[float, Predictions]:
    """Pre-trained once, streamed at each rate from the first click that pre-training left out; predictions of the scored hours."""
    config = LogisticConfig(rate=PRETRAIN_RATE, helper_rate=PRETRAIN_RATE, seed=seed)
    categorical, fresh, inside = hashed(log, config), since(log, told, span.mature_hour), _within(log, span)
    out: dict[float, Predictions] = {}
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as directory:
        model = new_model(config, told)
        pretrain(model, log, told, categorical, span.mature_hour)
        saved(model, Path(directory))
        for rate in RATES:
            model = new_model(replace(config, rate=rate, helper_rate=rate), told)
            model.restore(Path(directory))
            every = predictions(model, log, fresh, categorical, range(span.mature_hour, span.scored.stop))
            out[rate] = {name: p[inside] for name, p in every.items()}
    return out


def best_rate(log: LabelLog, tuning: Mapping[float, Sequence[Predictions]], name: str) -> float:
    """Of the lowest loss in the hours before scoring."""
    y = log.converts[_within(log, TUNED)]
    return min(RATES, key=lambda rate: float(np.mean([log_losses(y, of[name]).mean() for of in tuning[rate]])))


def rows(log: LabelLog, scored: Mapping[float, Sequence[Predictions]], rates: Mapping[str, float]) -> dict[str, Row]:
    """Of each contender at its rate, beside Vanilla at its own."""
    inside = _within(log, SCORED)
    y, hour = log.converts[inside], log.hour[inside]
    losses = {name: np.mean([log_losses(y, of[name]) for of in scored[rate]], axis=0) for name, rate in rates.items()}
    told: dict[str, Row] = {}
    for name, rate in rates.items():
        auc = float(np.mean([np.nanmean(hourly_auc(y, of[name], hour)) for of in scored[rate]]))
        predicted = float(np.mean([of[name].sum() for of in scored[rate]]) / y.sum())
        beside = paired(losses[name], losses["vanilla"], hour)
        told[name] = Row(rate, float(losses[name].mean()), *beside, auc, predicted)
    return told


def _within(log: LabelLog, span: Span) -> np.ndarray:
    """bool [n], the clicks that are scored."""
    inside: np.ndarray = (log.hour >= span.scored.start) & (log.hour < span.scored.stop)
    return inside


def _show(title: str, told: Mapping[str, Row]) -> None:
    gap = told[ORACLE].beside.difference
    table = Table(title, "rate", "NLL", "less Vanilla's, 1e-4", "gap %", "mean of hours, 1e-4", "AUC by hour", "predicted / true")
    for name, row in told.items():
        share = f"{100.0 * row.beside.difference / gap:.0f}"
        cells = (f"{row.rate:g}", f"{row.nll:.5f}", str(row.beside), share, str(row.by_hour), f"{row.auc:.4f}", f"{row.predicted:.3f}")
        table.add_row(name, *cells)
    show(table)


def _figures(prefix: str, told: Mapping[str, Row]) -> dict[str, float]:
    """Of all that is beside Vanilla; rates of Vanilla too."""
    figures: dict[str, float] = {}
    for name, row in told.items():
        key = f"{prefix}_{figure_key(name)}"
        figures[f"{key}_predicted_percent"] = round(100.0 * row.predicted, 1)
        if name != "vanilla":
            figures |= {f"{key}_difference_e4": round(1e4 * row.beside.difference, 1), f"{key}_se_e4": round(1e4 * row.beside.error, 1)}
    return figures


def _settings(log: LabelLog) -> str:
    before, tuned, scored = SCORED.mature_hour, TUNED.scored, SCORED.scored
    return (
        f"{len(log.ts_ms)} clicks; one pass over those before hour {before} at rate {PRETRAIN_RATE}, hours {scored.start} to {scored.stop} "
        f"scored, rates chosen on hours {tuned.start} to {tuned.stop}; {HASH_SEEDS} hashing seeds; features "
        f"{', '.join(log.fields.columns)}; errors are those of whole hours"
    )
