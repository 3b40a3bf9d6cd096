"""What an evaluation found, as numbers: the form that `--json` writes and docs/evaluation.md explains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from evaluation.labels import score_labels
from evaluation.lists import by_hour, gains, paired, rank_gains, summarise

BASE = ("position", "ts_ms", "user", "item", "new_pair", "new_user", "new_item", "head")
OPPOSITE = {"new_pair": "repeated_pair", "new_user": "old_user", "new_item": "old_item", "head": "tail"}
DIGITS = 6


@dataclass(frozen=True)
class Judgements:
    """A row per judged event, in log order, with a column of ranks or probabilities for each contender behind the base columns."""

    lists: pl.DataFrame  # BASE; rank in the list, 0 a miss
    ranks: pl.DataFrame  # BASE, candidates; full rank, float
    labels: pl.DataFrame  # BASE, label, y, revealed_ms; probability, NaN where there is none


def result(found: Judgements, first_position: int) -> dict[str, Any]:
    """All scores of the events at or behind `first_position`."""
    lists, ranks, labels = (frame.filter(pl.col("position") >= first_position) for frame in (found.lists, found.ranks, found.labels))
    told: dict[str, Any] = rounded(
        {
            "lists": {name: _sliced(lists, partial(_list_scores, name=name)) for name in contenders(lists)},
            "ranks": {name: _sliced(ranks, partial(_rank_scores, name=name)) for name in contenders(ranks)},
            "labels": {str(label): _labels(labels.filter(pl.col("label") == label)) for label in labels["label"].unique().sort()},
            "paired": _paired(lists),
            "by_hour": {name: by_hour(lists, gains(lists[name].to_numpy())) for name in contenders(lists)},
        }
    )
    return told


def contenders(frame: pl.DataFrame) -> list[str]:
    """Names of the columns that are contenders."""
    return [name for name in frame.columns if name not in (*BASE, "candidates", "label", "y", "revealed_ms")]


def _list_scores(rows: pl.DataFrame, name: str, intervals: bool) -> dict[str, object]:
    return summarise(gains(rows[name].to_numpy()), rows["user"].to_numpy(), ("hr@20", "mrr@20", "ndcg@20") if intervals else ())


def _rank_scores(rows: pl.DataFrame, name: str, intervals: bool) -> dict[str, object]:
    metrics = rank_gains(rows[name].to_numpy().astype(np.float64), rows["candidates"].to_numpy().astype(np.float64))
    return summarise(metrics, rows["user"].to_numpy(), ("mrr",) if intervals else ())


def _sliced(rows: pl.DataFrame, score: Callable[..., dict[str, object]]) -> dict[str, object]:
    """Scores of all rows, with intervals, and of each slice."""
    told: dict[str, object] = {"all": score(rows, intervals=True)}
    for name, opposite in OPPOSITE.items():
        told[name] = score(rows.filter(pl.col(name)), intervals=False)
        told[opposite] = score(rows.filter(~pl.col(name)), intervals=False)
    return told


def _labels(rows: pl.DataFrame) -> dict[str, object]:
    delays = (rows["revealed_ms"] - rows["ts_ms"]).to_numpy()[rows["y"].to_numpy() == 1] / 1000
    told: dict[str, object] = {"delay_seconds": _quantiles(delays)}
    for name in contenders(rows):
        known = rows.filter(pl.col(name).is_not_nan())
        told[name] = score_labels(known["y"].to_numpy(), known[name].to_numpy().astype(np.float64), known["user"].to_numpy())
    return told


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    return {f"p{q}": float(np.quantile(values, q / 100)) for q in (50, 90, 99)} if values.size else None


def _paired(lists: pl.DataFrame) -> dict[str, object]:
    """`served` less each baseline."""
    if "served" not in lists.columns:
        return {}
    ours, user = gains(lists["served"].to_numpy()), lists["user"].to_numpy()
    told: dict[str, object] = {}
    for name in contenders(lists):
        if name != "served":
            theirs = gains(lists[name].to_numpy())
            told[name] = {metric: paired(ours[metric], theirs[metric], user) for metric in ("hr@20", "mrr@20")}
    return told


def rounded(value: Any) -> Any:
    """Floats to DIGITS significant digits, in any nesting."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def to_markdown(told: dict[str, Any]) -> str:
    """Tables of the lists, full ranks and labels."""
    lists = _table(told["lists"], ("hr@20", "hr@5", "mrr@20", "ndcg@20", "n"), "list")
    ranks = _table(told["ranks"], ("mrr", "hit@20", "hit@50", "mean_percentile", "n"), "full rank")
    labels = [_label_table(name, scores) for name, scores in told["labels"].items()]
    return "\n\n".join(table for table in [lists, ranks, *labels] if table) + "\n"


def _table(scores: dict[str, Any], columns: Sequence[str], title: str) -> str:
    if not scores:
        return ""
    head = [f"| {title} | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    return "\n".join(
        [*head, *(f"| {name} | {' | '.join(_cell(of['all'][column]) for column in columns)} |" for name, of in scores.items())]
    )


def _label_table(label: str, scores: dict[str, Any]) -> str:
    columns = ("auc", "gauc", "log_loss", "calibration", "n", "positives")
    return _table({name: {"all": of} for name, of in scores.items() if name != "delay_seconds"}, columns, f"label {label}")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)
