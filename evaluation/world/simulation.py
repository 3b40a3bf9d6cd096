"""The log of a world: requests in order of arrival, what follows from them put in order of event time, cut into chunks.

requests -> rows of each (compiled) -> [soon, later] -> rows in order of time -> frames
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from evaluation.world.config import WorldConfig
from evaluation.world.laws import empty_shelf
from evaluation.world.pages import IMPRESSION, ROW, ROWS_A_PLACE, TYPES, answer, arrive

CHUNK_ROWS = 1 << 17
ROWS_AT_ONCE = 1 << 17  # made between two sorts, about: 10 MB
SOON_MS = 600_000  # what happens later waits apart, and is looked at once in that time

EVENTS = pl.Schema(
    {
        "event_id": pl.String(),
        "type": pl.String(),
        "user_id": pl.String(),
        "item_id": pl.String(),
        "ts_ms": pl.Int64(),
        "value": pl.Float64(),  # seconds of a view, or of a stay in a room
        "request_id": pl.String(),  # of the page that all goes back to
        "context": pl.String(),  # of impressions: their position
    }
)
LABELS = pl.Schema(
    {
        "event_id": pl.String(),  # of the impression
        "ts_ms": pl.Int64(),
        "p_click": pl.Float64(),
        "p_conversion": pl.Float64(),  # of the impression: click and conversion
        "p_conversion_after_click": pl.Float64(),
        "delay_scale_seconds": pl.Float64(),
    }
)


class Simulation:
    """One log of a world. It has no end: ask for as many events as are wanted.

    Memory: the shelf (about 80 bytes a slot) and the rows that are still to come (80 bytes each): those of a day's conversions.
    """

    def __init__(self, config: WorldConfig, rows_at_once: int = ROWS_AT_ONCE) -> None:
        """`rows_at_once`: about so many are made between two sorts; changes no row."""
        self._law = config.law()
        self._shelf, self._since_ms, self._requests = empty_shelf(self._law), np.zeros(1), 0
        self._at_once = max(1, rows_at_once // (config.page * 2))
        self._made = np.empty(self._at_once * config.page * ROWS_A_PLACE, dtype=ROW)
        self._soon, self._later = np.empty(0, dtype=ROW), [np.empty(0, dtype=ROW)]
        self._soon_ms = config.start_ms

    def rows(self, events: int, chunk_rows: int = CHUNK_ROWS) -> Iterator[np.ndarray]:
        """ROW [chunk_rows], the last one shorter: the first `events` rows of the log. To be called once.

        Order: event time, then request, then what comes first in it.
        """
        held, left = np.empty(0, dtype=ROW), events
        while left:
            held = np.concatenate([held, self._next()])[:left]
            while len(held) >= chunk_rows or 0 < len(held) == left:
                chunk = held[:chunk_rows]
                yield chunk
                left -= len(chunk)
                held = held[chunk_rows:]

    def _next(self) -> np.ndarray:
        """Rows before the last request so far, that were not told yet: none that comes later belongs before them."""
        ts_ms = np.empty(self._at_once, dtype=np.int64)
        arrive(self._law, self._requests, self._since_ms, ts_ms)
        count = answer(self._law, self._shelf, self._requests, ts_ms, self._made)
        self._requests += self._at_once
        soon = self._wait(self._made[:count], int(ts_ms[-1]))
        ordered = soon[np.argsort(soon["ts_ms"], kind="stable")]
        cut = int(np.searchsorted(ordered["ts_ms"], ts_ms[-1]))
        self._soon = ordered[cut:]
        return ordered[:cut]

    def _wait(self, made: np.ndarray, now_ms: int) -> np.ndarray:
        """Rows that may be next. Of equal times, the one of the earlier request stands first: nothing later is before `_soon_ms`."""
        due = np.empty(0, dtype=ROW)
        if now_ms >= self._soon_ms:
            self._soon_ms = now_ms + SOON_MS
            later = np.concatenate(self._later)
            is_due = later["ts_ms"] < self._soon_ms
            due, self._later = later[is_due], [later[~is_due]]
        soon = made["ts_ms"] < self._soon_ms
        self._later.append(made[~soon])
        return np.concatenate([self._soon, due, made[soon]])


def frames(config: WorldConfig, events: int, chunk_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
    """The log of a world, a chunk at a time: EVENTS, in order of event time."""
    first = 0
    for rows in Simulation(config).rows(events, chunk_rows):
        yield events_of(rows, first)
        first += len(rows)


def label_frames(config: WorldConfig, events: int, chunk_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
    """What is true of each impression of the same log, a chunk at a time: LABELS, of `chunk_rows` events each."""
    first = 0
    for rows in Simulation(config).rows(events, chunk_rows):
        yield labels_of(rows, first)
        first += len(rows)


def events_of(rows: np.ndarray, first: int) -> pl.DataFrame:
    """EVENTS of ROW [n], the row `first` of the log and those behind it."""
    places = int(rows["place"].max(initial=0))
    contexts = pl.Series([f'{{"position":{place}}}' for place in range(places + 1)])
    value, kind = pl.Series(rows["value"]).fill_nan(None), np.ascontiguousarray(rows["type"])
    context = contexts.gather(rows["place"].astype(np.uint32))
    return pl.DataFrame(
        {
            "event_id": _ids("e", np.arange(first, first + len(rows))),
            "type": pl.Series(TYPES).gather(kind.astype(np.uint32)),
            "user_id": _ids("u", rows["user"]),
            "item_id": _ids("i", rows["item"]),
            "ts_ms": np.ascontiguousarray(rows["ts_ms"]),
            "value": value,
            "request_id": _ids("r", rows["request"]),
            "context": context,
        }
    ).with_columns(pl.when(pl.Series(kind == IMPRESSION)).then("context").alias("context"))


def labels_of(rows: np.ndarray, first: int) -> pl.DataFrame:
    """LABELS of ROW [n]."""
    shown = np.flatnonzero(rows["type"] == IMPRESSION)
    of = rows[shown]
    return pl.DataFrame(
        {
            "event_id": _ids("e", first + shown),
            "ts_ms": np.ascontiguousarray(of["ts_ms"]),
            "p_click": np.ascontiguousarray(of["click"]),
            "p_conversion": of["click"] * of["conversion"],
            "p_conversion_after_click": np.ascontiguousarray(of["conversion"]),
            "delay_scale_seconds": of["scale_ms"] / 1_000.0,
        }
    )


def _ids(prefix: str, numbers: np.ndarray) -> pl.Series:
    texts = pl.Series(np.ascontiguousarray(numbers)).cast(pl.String)
    return pl.select(pl.concat_str(pl.lit(prefix), texts)).to_series()
