"""What an evaluation found, row by row: saved, loaded, and cut into the parts that scores are told of."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from core.errors import SettingsError
from evaluation.bootstrap import Scores, cluster_of, ratios, totals

FORMAT = 1
BASE = ("position", "ts_ms", "user", "item", "new_pair", "new_user", "new_item", "head")
BESIDE = ("candidates", "label", "y", "revealed_ms")
OPPOSITE = {"new_pair": "repeated_pair", "new_user": "old_user", "new_item": "old_item", "head": "tail"}
PARTS = ("all", *(part for pair in OPPOSITE.items() for part in pair))
HOUR_MS = 3_600_000
FRAMES = ("lists", "ranks", "labels")


@dataclass(frozen=True)
class Judgements:
    """A row per judged event, in log order, with a column of ranks or probabilities for each contender behind the base columns.

    Users and items are numbered from 0 in the order in which the log names them, so that runs over one log agree on them.
    """

    lists: pl.DataFrame  # BASE; rank in the list, 0 a miss
    ranks: pl.DataFrame  # BASE, candidates; full rank, float, NaN where the contender does not rank
    labels: pl.DataFrame  # BASE, label, y, revealed_ms; probability, NaN where there is none
    meta: dict[str, Any] = field(default_factory=dict)  # log, run, first_position: as in the result

    def save(self, directory: Path) -> None:
        """Write lists.parquet, ranks.parquet, labels.parquet and, last, meta.json into the directory, which is made if need be."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in FRAMES:
            getattr(self, name).write_parquet(directory / f"{name}.parquet")
        (directory / "meta.json").write_text(json.dumps({"format": FORMAT, **self.meta}, indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "Judgements":
        """Raises SettingsError where the directory does not hold saved judgements of this format."""
        if not (directory / "meta.json").is_file():
            raise SettingsError(f"{directory} holds no judgements: it has no meta.json, which `save` writes last")
        meta = json.loads((directory / "meta.json").read_text())
        if meta.pop("format", None) != FORMAT:
            raise SettingsError(f"{directory} holds judgements of another format than {FORMAT}: evaluate the log again")
        lists, ranks, labels = (pl.read_parquet(directory / f"{name}.parquet") for name in FRAMES)
        return cls(lists, ranks, labels, meta)

    def since(self, first_position: int) -> "Judgements":
        """Of the events at or behind a position."""
        lists, ranks, labels = (frame.filter(pl.col("position") >= first_position) for frame in (self.lists, self.ranks, self.labels))
        return Judgements(lists, ranks, labels, self.meta)


def contenders(frame: pl.DataFrame) -> list[str]:
    """Names of the columns that are contenders."""
    return [name for name in frame.columns if name not in (*BASE, *BESIDE)]


def coverage(frame: pl.DataFrame) -> dict[str, float]:
    """Contender -> share of the rows for which it gave a number."""
    return {name: float(frame[name].is_not_nan().sum() / max(frame.height, 1)) for name in contenders(frame)}


def comparable(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows for which every contender gave a number, so that all are judged on the same ones; contenders that never do are out."""
    able = [name for name, share in coverage(frame).items() if share > 0]
    return frame.drop([name for name in contenders(frame) if name not in able]).filter(
        pl.all_horizontal(pl.lit(True), *(pl.col(name).is_not_nan() for name in able))
    )


class Rows:
    """Who and when of some rows, found once and shared by their contenders."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """`frame`: with the columns of BASE."""
        self.user = frame["user"].to_numpy()
        self.cluster = cluster_of(self.user)
        self.clusters = int(self.cluster.max()) + 1 if self.cluster.size else 0
        self.parts = {"all": np.arange(frame.height)}
        for name, opposite in OPPOSITE.items():
            told = frame[name].to_numpy()
            self.parts |= {name: np.flatnonzero(told), opposite: np.flatnonzero(~told)}
        self.hours_ms, self.hour = np.unique(frame["ts_ms"].to_numpy() // HOUR_MS * HOUR_MS, return_inverse=True)

    @cached_property
    def counts(self) -> dict[str, np.ndarray]:
        """Part -> float64 [clusters, 1]: its rows of each cluster of users."""
        return {part: self.summed(rows, [np.ones(rows.size)]) for part, rows in self.parts.items()}

    def summed(self, rows: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
        """float64 [clusters, columns]: sums of columns [rows] of those rows."""
        cluster = self.cluster[rows]
        return np.stack([np.bincount(cluster, weights=values, minlength=self.clusters) for values in columns], axis=1)

    def score(self, metrics: Mapping[str, np.ndarray]) -> dict[str, Scores]:
        """Part -> n, means of the metrics, and the means of each replicate. Metrics are float64 [n], a value for each row."""
        values, sums = {}, []
        for part, rows in self.parts.items():
            own = {name: of[rows] for name, of in metrics.items()}
            values[part] = {"n": int(rows.size), **{name: float(of.mean()) if rows.size else None for name, of in own.items()}}
            sums.append(np.concatenate([self.summed(rows, list(own.values())), self.counts[part]], axis=1))
        drawn = np.split(totals(np.concatenate(sums, axis=1)), len(sums), axis=1)
        means = [ratios(of[:, :-1], of[:, -1:]).T for of in drawn]
        return {part: Scores(values[part], dict(zip(metrics, of, strict=True))) for part, of in zip(values, means, strict=True)}

    def by_hour(self, values: np.ndarray) -> list[float]:
        """Mean of values [n] in each hour of `hours_ms`."""
        means: list[float] = (np.bincount(self.hour, weights=values) / np.bincount(self.hour)).tolist()
        return means
