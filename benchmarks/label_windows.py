"""Sliver beside fixed windows of five minutes and an hour: how soon labels come, how many are final, and what a model learns from each.

One model, of the same settings, for each stream: every cell of 30 s is predicted by what had been told before it, then its label rows are
learned. All are judged by the same final labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from rich.table import Table

from benchmarks.label_logs import HOUR_MS
from benchmarks.label_scores import figure_key, hourly_auc, show
from core.hashing import fingerprints
from core.labels import POLICIES, POSITIVE_KINDS, SLIVER_MS
from evaluation.world import WorldConfig
from evaluation.world.simulation import frames
from features.label_config import JoinConfig, LabelConfig
from features.label_join import Emitted, JoinRows, LabelJoin
from learners.labels import LogisticConfig, OnlineLogistic, buckets_of

KUAIRAND = Path("kuairand_pure") / "events.parquet"
TYPES = ("open", "positive", "exit")
OPEN, POSITIVE, EXIT = range(len(TYPES))
TICK = -1
HORIZON_SECONDS = 3_600
FINAL_MS = 24 * HOUR_MS  # a positive event up to there makes the final label positive
STREAMS = {"sliver": ("sliver", 900), "5 min": ("window", 300), "1 h": ("window", 3_600)}  # policy, window in seconds
ROOM_EVENTS = 300_000
ROOM_SCALES_HOURS = {"rooms purchase": (0.003, 0.01, 0.02), "rooms late purchase": (0.01, 0.03, 0.1)}  # mean time to a purchase


def room_world(scales_hours: tuple[float, float, float]) -> WorldConfig:
    """Live rooms alone, in which users stay for three minutes on average. Purchases do not know whether the user is still there."""
    return WorldConfig(
        room_share=1.0, users=2_000, items=300, requests_per_second=0.3, click_logit=-1.0, conversion_logit=-0.5,
        conversion_scales_hours=scales_hours, attribution_hours=1.0,
    )  # fmt: skip


class ViewLog(NamedTuple):
    """n views, and the m rows of the log that they, what came of them and their ends are, in order of time."""

    rows: JoinRows
    view_of: np.ndarray  # int64 [m], view of a row that opens one, -1 of the others
    ts_ms: np.ndarray  # int64 [n]
    y: np.ndarray  # bool [n], final label
    fields: pl.DataFrame  # n rows


class Told(NamedTuple):
    """What a stream is worth."""

    final: float  # share of the labels that are as they stay
    p50_seconds: float  # age at emission
    p99_seconds: float
    rate: float  # share of positive ones among labels, over the true one
    auc: float


def kuairand(data: Path, label: str) -> ViewLog:
    """A view is an impression; what the user did stands at its end, which play time tells, a click at its start."""
    told = pl.read_parquet(data / KUAIRAND).sort("ts_ms", maintain_order=True).with_row_index("view")
    ends = (pl.col("ts_ms") + pl.col("play_time_ms")).alias("ts_ms")
    did = told.filter(pl.col(label) == 1).select("view", "user", "item", pl.col("ts_ms") if label == "is_click" else ends)
    return _log(told, did, told.select("view", "user", "item", ends), ("user", "item", "author_id", "tag"))


def rooms(world: WorldConfig) -> ViewLog:
    """A view lasts from `enter` to `exit`; a purchase may come while it lasts, or later."""
    events = pl.concat(frames(world, ROOM_EVENTS)).select("ts_ms", "type", user="user_id", item="item_id")
    of = {name: events.filter(type=name).drop("type") for name in ("enter", "purchase", "exit")}
    return _log(of["enter"].with_row_index("view"), of["purchase"], of["exit"], ("user", "item"))


def _log(opened: pl.DataFrame, did: pl.DataFrame, left: pl.DataFrame, fields: Sequence[str]) -> ViewLog:
    """Frames with ts_ms, user and item. A positive event belongs to the newest view before it, and so does an exit."""
    parts = [frame.select("ts_ms", "user", "item", code=pl.lit(code)) for code, frame in ((OPEN, opened), (POSITIVE, did), (EXIT, left))]
    rows = pl.concat(parts).with_columns(view=pl.concat([pl.int_range(opened.height, eager=True), _none(did.height + left.height)]))
    rows = rows.sort("ts_ms", "code", maintain_order=True)
    pair = fingerprints(rows.select(pl.format("{}|{}", "user", "item").alias("pair"))["pair"].to_list()).view(np.int64)
    ts_ms, code = rows["ts_ms"].to_numpy(), rows["code"].to_numpy()
    end = np.array([ts_ms[-1] + FINAL_MS])
    times, m = np.concatenate([ts_ms, end]), rows.height + 1
    pairs = np.concatenate([pair, np.zeros((1, 2), dtype=np.int64)])
    join_rows = JoinRows(times, times, np.concatenate([code, [TICK]]), pairs, np.zeros(m, dtype=np.int64), np.arange(m))
    view_of = np.concatenate([rows["view"].to_numpy(), [-1]])
    final = _emitted(join_rows, LabelConfig("final", ("positive",), ("open",), (), "wait", 900, FINAL_MS // 1_000))
    y = np.zeros(opened.height, dtype=np.bool_)
    y[view_of[final.ordinal]] = np.isin(final.kind, POSITIVE_KINDS)
    return ViewLog(join_rows, view_of, opened["ts_ms"].to_numpy(), y, opened.select(fields))


def _none(rows: int) -> pl.Series:
    return pl.Series([-1], dtype=pl.Int64).new_from_index(0, rows)


def _emitted(rows: JoinRows, label: LabelConfig) -> Emitted:
    return LabelJoin(JoinConfig((label,), max_open=rows.code.size), TYPES).take(rows)


def told_of(log: ViewLog, name: str) -> Told:
    """One stream of a log."""
    policy, window_seconds = STREAMS[name]
    label = LabelConfig("label", ("positive",), ("open",), ("exit",), policy, window_seconds, max(HORIZON_SECONDS, window_seconds))
    emitted = _emitted(log.rows, label)
    view, y = log.view_of[emitted.ordinal], np.isin(emitted.kind, POSITIVE_KINDS)
    ages = emitted.delay_ms / 1_000
    p = predictions(log, emitted, view, POLICIES.index(policy))
    auc = hourly_auc(log.y, p, np.zeros(len(log.y), dtype=np.int64))[0]
    p50, p99 = np.percentile(ages, (50, 99))
    return Told(float((y == log.y[view]).mean()), float(p50), float(p99), float(y.mean() / log.y.mean()), float(auc))


def predictions(log: ViewLog, emitted: Emitted, view: np.ndarray, policy: int) -> np.ndarray:
    """float64 [n]: P(positive) of each view, by what had been told before its cell."""
    model = OnlineLogistic(LogisticConfig(labels=("label",)))
    fields = [buckets_of([f"{name}={value}" for value in log.fields[name]], model.config.buckets) for name in log.fields.columns]
    categorical, out = np.stack(fields, axis=1), np.empty(len(log.ts_ms))
    cells = np.unique(log.ts_ms // SLIVER_MS) * SLIVER_MS
    of_views, of_rows = np.searchsorted(log.ts_ms, cells), np.searchsorted(emitted.ts_ms, cells, side="right")
    first = 0
    for start, stop, told in zip(of_views, [*of_views[1:], len(log.ts_ms)], of_rows, strict=True):
        rows = slice(first, int(told))
        n = rows.stop - rows.start
        model.learn_many(np.zeros(n, np.int64), np.full(n, policy), emitted.kind[rows], categorical[view[rows]], _no_numbers(n))
        out[start:stop] = model.predict(0, policy, categorical[start:stop], _no_numbers(int(stop - start)))
        first = rows.stop
    return out


def _no_numbers(n: int) -> np.ndarray:
    return np.zeros((n, 0), dtype=np.float32)


def compared(data: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Every log and label, every stream: figures, and what was left out."""
    logs = {name: rooms(room_world(scales_hours)) for name, scales_hours in ROOM_SCALES_HOURS.items()}
    there = (data / KUAIRAND).exists()
    if there:
        logs |= {f"kuairand {label.removeprefix('is_')}": kuairand(data, label) for label in ("is_click", "long_view", "is_like")}
    figures: dict[str, float] = {}
    table = Table("label", "stream", "views", "final", "age p50", "age p99", "rate", "AUC", title="Sliver beside fixed windows")
    for label, log in logs.items():
        for name in STREAMS:
            told = told_of(log, name)
            shown = [
                f"{100 * told.final:.2f} %",
                f"{told.p50_seconds:,.0f} s",
                f"{told.p99_seconds:,.0f} s",
                f"{told.rate:.3f}",
                f"{told.auc:.4f}",
            ]
            table.add_row(label, name, f"{len(log.ts_ms):,}", *shown)
            figures |= {f"{figure_key(label)}_{figure_key(name)}_{key}": value for key, value in told._asdict().items()}
    show(table)
    return figures, {} if there else {"kuairand": f"left out, there is no {KUAIRAND} in {data}"}
