"""Logs of clicks whose conversions come late, as the join and the learner of labels take them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from core.hashing import fingerprints
from evaluation.world.clicks import ClickWorld, clicks
from features.label_join import JoinRows
from learners.labels import LogisticConfig, buckets_of

HOUR_MS = 3_600_000
HORIZON_HOURS = 24
TYPES = ("impression", "purchase")
IMPRESSION, PURCHASE = range(len(TYPES))
TICK = -1
TAOBAO = Path("taobao_cml") / "events.parquet"
_BEHAVIOURS = ("buy", "cart", "fav")
_SPAN = 1 << 21  # seconds, more than twice the length of the Taobao log


class LabelLog(NamedTuple):
    """n clicks in order of time, and the m rows of the log that they and their conversions are."""

    rows: JoinRows  # m rows, in order of time; the last is a tick by which every label is final
    click_of: np.ndarray  # int64 [m], click of an impression's row, -1 of the others
    ts_ms: np.ndarray  # int64 [n]
    conversion_ms: np.ndarray  # int64 [n], its time; 0: none within the horizon
    fields: pl.DataFrame  # n rows, one column of values a field
    crosses: tuple[tuple[str, str], ...]  # pairs of fields that make one more feature each
    start_ms: int

    @property
    def converts(self) -> np.ndarray:
        """bool [n], the final label."""
        told: np.ndarray = self.conversion_ms > 0
        return told

    @property
    def hour(self) -> np.ndarray:
        """int64 [n], of each click from the start of the log."""
        told: np.ndarray = (self.ts_ms - self.start_ms) // HOUR_MS
        return told


def synthetic(world: ClickWorld) -> LabelLog:
    """Log B. Every click is a pair of its own."""
    conversion = (pl.col("ts_ms") + pl.col("delay_ms")).fill_null(0)
    told = clicks(world).with_columns(pair=pl.col("click"), conversion_ms=conversion)
    sold = told.filter(pl.col("conversion_ms") > 0).select(pl.col("conversion_ms").alias("ts_ms"), "pair")
    return _log(told, sold, ("campaign", "site", "placement"), (("campaign", "placement"),), world.start_ms)


def taobao(data: Path) -> LabelLog:
    """A click is the first cart or favourite of a user and item that were not bought before.

    Fields: user, item, behaviour; how often the user and the item were bought, put into carts and favoured so far, by powers of two.
    """
    events = pl.read_parquet(data / TAOBAO).with_columns(ts_ms=pl.col("ts") * 1_000, pair=pl.col("user") * (1 << 32) + pl.col("item"))
    sold = events.filter(pl.col("behavior") == "buy").select("ts_ms", "pair").sort("ts_ms", "pair")
    put = events.filter(pl.col("behavior") != "buy").sort("ts_ms", "pair", "behavior").unique("pair", keep="first", maintain_order=True)
    told = put.join(sold.rename({"ts_ms": "sold_ms"}), on="pair", how="left", maintain_order="left")
    told = told.filter(pl.col("sold_ms").is_null() | (pl.col("sold_ms") >= pl.col("ts_ms")))
    in_time = pl.col("sold_ms") - pl.col("ts_ms") <= HORIZON_HOURS * HOUR_MS
    told = told.with_columns(conversion_ms=pl.when(in_time).then("sold_ms").fill_null(0))
    counts = {f"{key} {of}": _so_far(events.filter(pl.col("behavior") == of), told, key) for key in ("user", "item") for of in _BEHAVIOURS}
    return _log(told.with_columns(**counts), sold, ("user", "item", "behavior", *counts), (), int(events["ts_ms"].to_numpy().min()))


def _so_far(events: pl.DataFrame, told: pl.DataFrame, key: str) -> np.ndarray:
    """int64 [n]: floor(log2(1 + k)) of the k events with the key of each click that are older than it."""
    first = int(min(events["ts"].to_numpy().min(), told["ts"].to_numpy().min()))
    places = np.sort(events[key].to_numpy() * _SPAN + events["ts"].to_numpy() - first)
    own = told[key].to_numpy() * _SPAN
    count = np.searchsorted(places, own + told["ts"].to_numpy() - first) - np.searchsorted(places, own)
    powers: np.ndarray = np.frexp(1.0 + count)[1] - 1
    return powers


def _log(told: pl.DataFrame, sold: pl.DataFrame, fields: Sequence[str], crosses: tuple[tuple[str, str], ...], start_ms: int) -> LabelLog:
    """`told`: clicks in order of time, with ts_ms, pair, conversion_ms; `sold`: purchases with ts_ms and pair."""
    ts_ms, sold_ms = told["ts_ms"].to_numpy(), sold["ts_ms"].to_numpy()
    n, m = told.height, told.height + sold.height + 1
    ends_ms = max(ts_ms.max(), sold_ms.max(initial=0)) + HORIZON_HOURS * HOUR_MS
    times = np.concatenate([ts_ms, sold_ms, [ends_ms]])
    code = np.repeat([IMPRESSION, PURCHASE, TICK], [n, sold.height, 1])
    pairs = fingerprints(map(str, (*told["pair"], *sold["pair"]))).view(np.int64)
    order = np.lexsort((code, times))
    pair = np.concatenate([pairs, np.zeros((1, 2), dtype=np.int64)])[order]
    rows = JoinRows(times[order], times[order], code[order], pair, np.zeros(m, dtype=np.int64), np.arange(m))
    return LabelLog(rows, np.where(order < n, order, -1), ts_ms, told["conversion_ms"].to_numpy(), told.select(fields), crosses, start_ms)


def hashed(log: LabelLog, config: LogisticConfig) -> np.ndarray:
    """int64 [n, features]: the buckets of each click."""
    columns = [_buckets(log.fields[name].cast(pl.String), name, config) for name in log.fields.columns]
    for one, other in log.crosses:
        both = log.fields.select(pl.format("{}|{}", pl.col(one), pl.col(other)).alias("both"))["both"]
        columns.append(_buckets(both, f"{one} x {other}", config))
    return np.stack(columns, axis=1)


def _buckets(values: pl.Series, name: str, config: LogisticConfig) -> np.ndarray:
    """int64 [n]; each different value is hashed once."""
    different = values.unique()
    buckets = pl.Series(buckets_of([f"{name}={value}" for value in different], config.buckets, config.seed))
    return values.replace_strict(different, buckets).to_numpy()
