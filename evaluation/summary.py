"""What an evaluation found, as numbers: the form that `--json` writes and docs/evaluation.md explains."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from evaluation import labels as of_label
from evaluation.bootstrap import Scores, difference, with_intervals
from evaluation.judgements import Judgements, Rows, comparable, contenders, coverage
from evaluation.lists import gains, rank_gains

OURS = "served"
DIGITS = 6
Metrics = Callable[[pl.DataFrame, str], dict[str, np.ndarray]]  # of one contender: metric -> float64, a value for each row
Scored = dict[str, dict[str, Scores]]  # contender -> part -> scores


def result(found: Judgements, first_position: int) -> dict[str, Any]:
    """All scores of the events at or behind `first_position`."""
    kept = found.since(first_position)
    lists, ranks, labels = kept.lists, comparable(kept.ranks), by_label(kept.labels)
    scored = score_ranks(lists, list_metrics)
    told: dict[str, Any] = rounded(
        {
            "lists": _told(scored, {}),
            "ranks": _told(score_ranks(ranks, rank_metrics), coverage(kept.ranks)),
            "labels": {label: _label(rows) for label, rows in labels.items()},
            "paired": {"lists": paired(scored)},
            "by_hour": {
                "lists": hourly(lists, list_metrics, ("hr@20", "mrr@20")),
                "ranks": hourly(ranks, rank_metrics, ("mrr", "hit@20")),
                "labels": {label: _label_hours(comparable(rows)) for label, rows in labels.items()},
            },
        }
    )
    return told


def list_metrics(lists: pl.DataFrame, name: str) -> dict[str, np.ndarray]:
    return gains(lists[name].to_numpy())


def rank_metrics(ranks: pl.DataFrame, name: str) -> dict[str, np.ndarray]:
    return rank_gains(ranks[name].to_numpy().astype(np.float64), ranks["candidates"].to_numpy().astype(np.float64))


def score_ranks(frame: pl.DataFrame, metrics: Metrics) -> Scored:
    """Scores of each contender of `lists` or `ranks`."""
    rows = Rows(frame)
    return {name: rows.score(metrics(frame, name)) for name in contenders(frame)}


def score_label(frame: pl.DataFrame) -> Scored:
    """Scores of each contender of the rows of one label."""
    rows, y = Rows(frame), frame["y"].to_numpy()
    return {name: of_label.score_labels(y, frame[name].to_numpy(), rows) for name in contenders(frame)}


def by_label(labels: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Label -> its rows, in the order of their names."""
    names = sorted(map(str, labels["label"].unique()))
    return {name: labels.filter(pl.col("label") == name) for name in names}


def paired(scored: Scored) -> dict[str, Any]:
    """`served` less each baseline."""
    if OURS not in scored:
        return {}
    return {name: difference(scored[OURS]["all"], of["all"]) for name, of in scored.items() if name != OURS}


def hourly(frame: pl.DataFrame, metrics: Metrics, names: tuple[str, ...]) -> dict[str, Any]:
    """`ts_ms` of each hour's start in event time, `n`, then of each contender some means."""
    rows = Rows(frame)
    told = _hours(rows)
    for contender in contenders(frame):
        of = metrics(frame, contender)
        told[contender] = {name: rows.by_hour(of[name]) for name in names}
    return told


def _hours(rows: Rows) -> dict[str, Any]:
    return {"ts_ms": rows.hours_ms.tolist(), "n": np.bincount(rows.hour).tolist()}


def _told(scored: Scored, shares: Mapping[str, float]) -> dict[str, Any]:
    """Every part with its intervals; `all` with the share of rows for which the contender gave a number, if given."""
    told: dict[str, Any] = {name: {part: with_intervals(of) for part, of in parts.items()} for name, parts in scored.items()}
    for name in told:
        if name in shares:
            told[name]["all"]["coverage"] = shares[name]
    return told


def _label(labels: pl.DataFrame) -> dict[str, Any]:
    """The scores of one label, and after how long its positives were revealed."""
    delays = (labels["revealed_ms"] - labels["ts_ms"]).to_numpy()[labels["y"].to_numpy() == 1] / 1000
    return {"delay_seconds": _quantiles(delays), **_told(score_label(comparable(labels)), coverage(labels))}


def _label_hours(labels: pl.DataFrame) -> dict[str, Any]:
    rows, y = Rows(labels), labels["y"].to_numpy()
    return {**_hours(rows), **{name: of_label.by_hour(y, labels[name].to_numpy(), rows) for name in contenders(labels)}}


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    return {f"p{q}": float(np.quantile(values, q / 100)) for q in (50, 90, 99)} if values.size else None


def rounded(value: Any) -> Any:
    """Floats to DIGITS significant digits, those that are not finite as None, in any nesting."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
