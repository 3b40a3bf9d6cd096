"""Two runs over one log, event by event: what changed, and how sure that is."""

from collections.abc import Callable
from typing import Any

import polars as pl

from core.errors import SettingsError
from evaluation.bootstrap import Scores, difference
from evaluation.judgements import FORMAT, Judgements, comparable, contenders
from evaluation.summary import Scored, by_label, list_metrics, rank_metrics, rounded, score_label, score_ranks

A, B = "a", "b"
SAME = ("ts_ms", "user", "item", "y")  # of a position, in both runs


def compare(a: Judgements, b: Judgements) -> dict[str, Any]:
    """Of every contender that both have, each metric in both, b less a, its 95 % interval and p, from the same rows and the same draws.

    Rows before the later `first_position` of the two are left out. Full ranks are compared where both samples have them, labels where
    both contenders gave a probability.

    Raises:
        SettingsError: the runs judged other events.
    """
    first = max(int(run.meta.get("first_position", 0)) for run in (a, b))
    a, b = a.since(first), b.since(first)
    _refuse_others("lists", a.lists, b.lists, ["position"])
    _refuse_others("labels", a.labels, b.labels, ["position", "label"])
    told: dict[str, Any] = rounded(
        {
            "format": FORMAT,
            "first_position": first,
            A: a.meta,
            B: b.meta,
            "lists": _compared(a.lists, b.lists, lambda frame: score_ranks(frame, list_metrics)),
            "ranks": _compared(*_common_sample(a.ranks, b.ranks), lambda frame: score_ranks(frame, rank_metrics)),
            "labels": _compared_labels(a.labels, b.labels),
        }
    )
    return told


def _refuse_others(name: str, a: pl.DataFrame, b: pl.DataFrame, keys: list[str]) -> None:
    """Both frames have the same rows, but for their contenders."""
    if a.height != b.height or not a.select(keys).equals(b.select(keys)):
        raise SettingsError(
            f"the runs judged other events ({name}: {a.height:,} and {b.height:,} rows): compare two runs over the same log, with the same "
            "mapping, --from and --to"
        )
    _refuse_other_events(name, a, b)


def _refuse_other_events(name: str, a: pl.DataFrame, b: pl.DataFrame) -> None:
    for column in [name for name in SAME if name in a.columns]:
        other = (a[column] != b[column]).arg_true()
        if other.len():
            at = int(other[0])
            raise SettingsError(
                f"the runs are of different logs: at position {a['position'][at]} {name} have {column} {a[column][at]} and "
                f"{b[column][at]}; compare two runs over the same log"
            )


def _common_sample(a: pl.DataFrame, b: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows whose positions are in both."""
    both = a.join(b, on="position", how="semi"), b.join(a, on="position", how="semi")
    _refuse_other_events("ranks", *both)
    return both


def _compared(a: pl.DataFrame, b: pl.DataFrame, score: Callable[[pl.DataFrame], Scored]) -> dict[str, Any]:
    """Contender -> part -> metric -> a, b, difference, ci95, p; each contender on the rows for which it gave a number in both runs."""
    told = {}
    for name in contenders(a):
        if name in b.columns:
            both = a.drop(contenders(a)).with_columns(a[name].alias(A), b[name].alias(B))
            scored = score(comparable(both))
            if len(scored) == 2:
                told[name] = {part: _part(of, scored[B][part]) for part, of in scored[A].items()}
    return told


def _part(before: Scores, after: Scores) -> dict[str, Any]:
    changes = difference(after, before)
    return {
        "n": before.values["n"],
        **{metric: {A: before.values[metric], B: after.values[metric], **change} for metric, change in changes.items()},
    }


def _compared_labels(a: pl.DataFrame, b: pl.DataFrame) -> dict[str, Any]:
    others = by_label(b)
    return {label: _compared(rows, others[label], score_label) for label, rows in by_label(a).items()}
