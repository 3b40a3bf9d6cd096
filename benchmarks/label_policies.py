"""The policies of late labels along a log: each click is predicted by what was learned up to the full hour before it.

    log -> LabelJoin, a label for each policy -> label rows in order of emission -> OnlineLogistic, a label for each contender

At each full hour every click of the coming hour is predicted; then the rows emitted within that hour are learned.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.label_logs import HORIZON_HOURS, HOUR_MS, TYPES, LabelLog
from core.labels import ES_DFM, FINAL_POSITIVE, MATURED_IN_WINDOW, POLICIES, SLIVER, WAIT
from core.snapshot import Snapshot
from features.label_config import JoinConfig, LabelConfig
from features.label_join import LabelJoin
from learners.labels import LogisticConfig, OnlineLogistic

WINDOW_SECONDS = 900
JOINED = tuple(name for policy, name in enumerate(POLICIES) if policy != SLIVER)
# At the click: final labels; final negatives alone, positives when they happen. `wait` up to the end of warming up.
ORACLE, ORACLE_LATE, FROZEN = "oracle", "oracle, late", "frozen"
CONTENDERS = (ORACLE, ORACLE_LATE, *JOINED, FROZEN)
POLICY_OF = {**{name: POLICIES.index(name) for name in JOINED}, **dict.fromkeys((ORACLE, ORACLE_LATE, FROZEN), WAIT)}


class Stream(NamedTuple):
    """m label rows in the order in which they are learned."""

    ts_ms: np.ndarray  # int64 [m], when they are known, never falling
    kind: np.ndarray  # int64 [m]
    click: np.ndarray  # int64 [m]

    def of(self, rows: np.ndarray) -> "Stream":
        """Those rows, by mask or index."""
        return Stream(*(column[rows] for column in self))


Streams = Mapping[str, Stream]  # of each contender


def emitted(log: LabelLog) -> dict[str, Stream]:
    """What the streaming join tells of the log, by policy."""
    horizon_seconds = HORIZON_HOURS * HOUR_MS // 1_000
    labels = [LabelConfig(name, TYPES[1:], TYPES[:1], (), name, WINDOW_SECONDS, horizon_seconds) for name in JOINED]
    told = LabelJoin(JoinConfig(tuple(labels), max_open=len(log.ts_ms)), TYPES).take(log.rows)
    every = Stream(told.ts_ms, told.kind, log.click_of[told.ordinal])
    return {name: every.of(told.label == label) for label, name in enumerate(JOINED)}


def streams(log: LabelLog, warm_hours: int) -> dict[str, Stream]:
    """The rows of every contender. The oracles get those of `wait` before anyone could know them; `frozen` gets none after warming up."""
    told = emitted(log)
    waited = told["wait"]
    at_click = waited._replace(ts_ms=log.ts_ms[waited.click])
    late_ms = np.where(waited.kind == FINAL_POSITIVE, log.conversion_ms[waited.click], at_click.ts_ms)
    extra = {
        ORACLE: at_click,
        ORACLE_LATE: waited._replace(ts_ms=late_ms),
        FROZEN: waited.of(waited.ts_ms < log.start_ms + warm_hours * HOUR_MS),
    }
    every = {**told, **extra}
    return {name: every[name].of(np.argsort(every[name].ts_ms, kind="stable")) for name in CONTENDERS}


def since(log: LabelLog, told: Streams, hour: int) -> dict[str, Stream]:
    """The rows of clicks from that hour on."""
    return {name: stream.of(log.hour[stream.click] >= hour) for name, stream in told.items()}


def new_model(config: LogisticConfig, told: Streams) -> OnlineLogistic:
    return OnlineLogistic(replace(config, labels=tuple(told)))


def pretrain(model: OnlineLogistic, log: LabelLog, told: Streams, categorical: np.ndarray, until_hour: int) -> None:
    """One pass over the clicks before that hour, for each contender: final labels for f, matured rows for p_dp and p_rn.

    The order is random, the same for all but `fnc`, which learns its own rows in place of final labels: its f is no such probability.
    """
    matured = told["es-dfm"].of(told["es-dfm"].kind >= MATURED_IN_WINDOW)
    for label, name in enumerate(told):
        own = "fnc" if name == "fnc" else "wait"
        parts = [(POLICY_OF[own], told[own]), (ES_DFM, matured)]
        policy = np.repeat([policy for policy, _ in parts], [len(stream.kind) for _, stream in parts])
        kind, click = (np.concatenate(columns) for columns in zip(*((stream.kind, stream.click) for _, stream in parts), strict=True))
        random = np.random.Generator(np.random.Philox(model.config.seed))
        turn = random.permutation(np.flatnonzero(log.hour[click] < until_hour))
        learn(model, label, policy[turn], kind[turn], categorical[click[turn]])


def saved(model: OnlineLogistic, directory: Path) -> None:
    taken = Snapshot(directory)
    model.snapshot(taken)
    taken.flush()


def predictions(model: OnlineLogistic, log: LabelLog, told: Streams, categorical: np.ndarray, hours: range) -> dict[str, np.ndarray]:
    """float64 [n] for each contender: P(conversion) of each click by the state at the start of its hour; NaN outside of `hours`."""
    out = {name: np.full(len(log.ts_ms), np.nan) for name in told}
    edges_ms = log.start_ms + HOUR_MS * np.arange(hours.start, hours.stop + 1)
    of_clicks = np.searchsorted(log.ts_ms, edges_ms)
    for label, (name, stream) in enumerate(told.items()):
        of_rows = np.searchsorted(stream.ts_ms, edges_ms)
        for hour in range(len(hours)):
            clicks, rows = slice(*of_clicks[hour : hour + 2]), slice(*of_rows[hour : hour + 2])
            out[name][clicks] = model.predict(label, POLICY_OF[name], categorical[clicks], _no_numbers(clicks.stop - clicks.start))
            policy = np.full(rows.stop - rows.start, POLICY_OF[name])
            learn(model, label, policy, stream.kind[rows], categorical[stream.click[rows]])
    return out


def learn(model: OnlineLogistic, label: int, policy: np.ndarray, kind: np.ndarray, categorical: np.ndarray) -> None:
    """Rows of one contender, in order."""
    model.learn_many(np.full(len(kind), label), policy, kind, categorical, _no_numbers(len(kind)))


def _no_numbers(n: int) -> np.ndarray:
    return np.zeros((n, 0), dtype=np.float32)
