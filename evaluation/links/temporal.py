"""Link prediction on a stream of edges between users and items: test, then train, edge by edge.

Every judged edge (u, i, t) is asked for from its user: i is ranked among all items of the stream by the state that the edges before it left
behind, equal scores share their mean rank; then the edge is learned. The last edges are judged, those before them only learned.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from core.errors import SettingsError
from evaluation.links.scores import Parts, score_parts

COLUMNS = {"u": "u", "i": "i", "ts": "ts"}
JUDGED_SHARE = 0.15


class TemporalModel(Protocol):
    """Anything that ranks the items of a user and learns as it goes; made for the numbers of users and items of its stream."""

    name: str

    def judge(self, u: np.ndarray, i: np.ndarray, ts_ms: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """Rank, then learn, row by row. One call with n rows equals n calls with one.

        Args:
            u, i: int64 [n], from 0.
            ts_ms: int64 [n], never falls.
            judged: bool [n].

        Returns:
            float64 [n]: rank of each judged row's item among all items, 1 is first, equal scores share their mean rank; 0 elsewhere.
        """


@dataclass(frozen=True, eq=False)
class Stream:
    """n edges in time order; those of one time in the order of their file."""

    u: np.ndarray  # int64 [n], 0 .. users - 1
    i: np.ndarray  # int64 [n], 0 .. items - 1
    ts_ms: np.ndarray  # int64 [n], never falls
    users: int
    items: int

    def __len__(self) -> int:
        return int(self.u.size)

    def part(self, start: int, stop: int) -> "Stream":
        """Edges [start, stop), of as many users and items."""
        rows = slice(start, stop)
        return Stream(self.u[rows], self.i[rows], self.ts_ms[rows], self.users, self.items)


@dataclass(frozen=True, eq=False)
class StreamScores:
    """What a model is worth on the judged edges, and how fast it was."""

    scores: Parts
    rank: np.ndarray  # float64 [judged edges]
    repeated: np.ndarray  # bool [judged edges]: the user met the item before, anywhere in the stream
    learned_per_second: float  # edges before the judged ones, 0 where there are none
    judged_per_second: float  # all items scored, then learned


def read_stream(path: Path, columns: Mapping[str, str] = COLUMNS, ms_per_unit: int = 1000) -> Stream:
    """Read a Parquet file with a column each for user, item and time, under the names that `columns` gives for `u`, `i` and `ts`.

    Args:
        ms_per_unit: milliseconds of one unit of time: 1000 where it is in seconds.

    Raises:
        SettingsError: there is no such file, it has no edges, lacks a column, or an edge lacks a value; or times are no numbers.
    """
    frame = _columns_of(path, columns)
    ts = frame["ts"]
    if not frame.height or any(frame.null_count().row(0)) or not ts.dtype.is_numeric() or not ts.cast(pl.Float64).is_finite().all():
        raise SettingsError(f"{path}: every edge needs a user, an item and a time in numbers, and there must be one at least")
    ts_ms = (ts.cast(pl.Float64).to_numpy() * ms_per_unit).round().astype(np.int64)
    return numbered(frame["u"].to_numpy(), frame["i"].to_numpy(), ts_ms)


def _columns_of(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    """`u`, `i`, `ts` as the file has them."""
    try:
        there = list(pl.read_parquet_schema(path))
    except (FileNotFoundError, pl.exceptions.PolarsError) as error:
        raise SettingsError(f"{path} cannot be read as a Parquet file of edges: {error}") from error
    if missing := [name for name in columns.values() if name not in there]:
        raise SettingsError(f"{path} has no column {', '.join(missing)}; it has {', '.join(there)}")
    return pl.read_parquet(path, columns=list(dict.fromkeys(columns.values()))).select(pl.col(columns[key]).alias(key) for key in COLUMNS)


def numbered(user: np.ndarray, item: np.ndarray, ts_ms: np.ndarray) -> Stream:
    """Sorted by time, with users and items (any ids that compare) numbered in the order of their ids."""
    order = np.argsort(ts_ms, kind="stable")
    users, u = np.unique(user, return_inverse=True)
    items, i = np.unique(item, return_inverse=True)
    return Stream(u[order].astype(np.int64), i[order].astype(np.int64), ts_ms[order], users.size, items.size)


def evaluate_stream(stream: Stream, model: TemporalModel, share: float = JUDGED_SHARE) -> StreamScores:
    """Let a new model learn the stream, the last `share` of its edges judged; whole edges, one at least.

    Compile the model's kernels before, with another one and a `part` of the stream: the first call of each is timed too.

    Raises:
        ValueError: `share` is not in (0, 1], or the model gave something else than ranks.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share {share}: the judged part of a stream is more than 0 and at most 1")
    first = len(stream) - max(1, int(len(stream) * share))
    _, learning_seconds = _judged(stream.part(0, first), model, False)
    rank, judging_seconds = _judged(stream.part(first, len(stream)), model, True)
    repeated = met_before(stream)[first:]
    learned_per_second = first / learning_seconds if first else 0.0
    return StreamScores(score_parts(rank, repeated), rank, repeated, learned_per_second, rank.size / judging_seconds)


def met_before(stream: Stream) -> np.ndarray:
    """bool [n]: an earlier edge has the same user and item."""
    _, first, pair = np.unique(stream.u * stream.items + stream.i, return_index=True, return_inverse=True)
    before: np.ndarray = first[pair] < np.arange(len(stream))
    return before


def _judged(part: Stream, model: TemporalModel, judged: bool) -> tuple[np.ndarray, float]:
    """Ranks of the edges, and seconds."""
    started = time.perf_counter()
    rank = model.judge(part.u, part.i, part.ts_ms, np.full(len(part), judged))
    seconds = time.perf_counter() - started
    fits = ((rank >= 1.0) & (rank <= part.items)).all() if judged else not rank.any()
    if rank.shape != (len(part),) or not fits:
        raise ValueError(f"{model.name}: ranks are from 1 to {part.items} where an edge is judged and 0 elsewhere, one for each edge")
    return rank, seconds
