"""Label rows of `examples`, between the events that lead to them."""

from itertools import repeat
from pathlib import Path

import numpy as np
import polars as pl

from core.clock import effective_ms
from core.compiled import compiled
from core.frames import constant, places, reorder, stack
from core.hashing import fingerprints_of_some
from core.labels import KINDS, POLICIES, POSITIVE_KINDS
from core.schemas import LABEL
from core.snapshot import Snapshot
from features.label_config import JoinConfig
from features.label_join import Emitted, JoinRows, LabelJoin

_POSITIVE = np.isin(np.arange(len(KINDS)), POSITIVE_KINDS)
_USER_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that (a, b) and (b, a) are two pairs


class LabelRows:
    """The join of one partition, from frames to frames.

    State: the join's.
    """

    def __init__(self, config: JoinConfig, future_ms: int) -> None:
        """`future_ms`: event times count as at most so far ahead of the clock, as in all features."""
        self._future_ms = future_ms
        self.join = LabelJoin(config, config.types)
        self._codes = {name: code for code, name in enumerate(config.types)}
        self._names = np.array([label.name for label in config.labels], dtype=object)
        self._policies = np.array([POLICIES.index(label.policy) for label in config.labels], dtype=np.int8)

    def take(self, rows: pl.DataFrame, clock_ms: np.ndarray, ordinal: np.ndarray, pairs: np.ndarray) -> Emitted:
        """The label rows that the next accepted events and ticks lead to.

        Args:
            rows: n rows, `batches` schema; of a tick only the clock counts.
            clock_ms, ordinal: int64 [n].
            pairs: int64 [n, 2], see `pairs`.
        """
        codes = np.array(list(map(self._codes.get, rows["type"].to_list(), repeat(-1))), dtype=np.int64)
        named = np.flatnonzero(codes >= 0)
        request = np.zeros(rows.height, dtype=np.int64)
        if named.size:
            request[named] = _requests(rows["request_id"][places(named)])
        ts_ms = effective_ms(rows["ts_ms"].to_numpy(), clock_ms, self._future_ms)
        return self.join.take(JoinRows(ts_ms, clock_ms, codes, pairs, request, ordinal))

    def weave(self, examples: pl.DataFrame, told: Emitted) -> pl.DataFrame:
        """`examples` of the rows that `take` was given, n of them, with their label rows at their places."""
        if not told.row.size:
            return examples
        at, m = places(told.row), told.row.size
        columns = {
            "ts_ms": told.ts_ms,
            "value": _POSITIVE[told.kind].astype(np.float64),
            "ordinal": told.ordinal,
            "label": self._names[told.label],
            "policy": self._policies[told.label],
            "label_kind": told.kind.astype(np.int8),
            "delay_ms": told.delay_ms,
        }
        cause = {name: examples[name][at] for name in ("source", "offset", "row", "upstream", "clock_ms", "sent_ms")}
        fixed = {"kind": LABEL}
        labels = [
            cause[name] if name in cause
            else pl.Series(name, columns[name], dtype) if name in columns
            else constant(name, fixed.get(name), dtype, m)
            for name, dtype in examples.schema.items()
        ]  # fmt: skip
        return reorder(stack([examples, pl.DataFrame(labels)]), interleaved(told.at, examples.height))

    def snapshot(self, into: Snapshot) -> None:
        self.join.snapshot(into)

    def restore(self, directory: Path) -> None:
        self.join.restore(directory)


def pairs(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """int64 [n, 2]: what stands for user and item, of their fingerprints, int64 [n, 2] each; zeros where there is no item."""
    both = (users.view(np.uint64) * _USER_FACTOR + items.view(np.uint64)).view(np.int64)
    both[(items == 0).all(axis=1)] = 0
    return both


@compiled
def interleaved(at: np.ndarray, rows: int) -> np.ndarray:
    """int64 [rows + m]: `rows` rows and behind them m more, in the order in which the k-th of these stands behind `at[k]` of those.

    Args:
        at: int64 [m], never falling, 0..rows.
    """
    m = at.shape[0]
    order, k = np.empty(rows + m, dtype=np.int64), 0
    for row in range(rows + 1):
        while k < m and at[k] == row:
            order[row + k] = rows + k
            k += 1
        if row < rows:
            order[row + k] = row
    return order


def _requests(ids: pl.Series) -> np.ndarray:
    """int64 [n]: a hash of each id, 0 where there is none."""
    return fingerprints_of_some(ids.to_list())[:, 0]
