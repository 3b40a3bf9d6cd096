"""The first part of the learner stage: what is true of each item, from the one ordered `examples` log."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from core.clock import UNSET
from core.compiled import compiled
from core.errors import SnapshotError
from core.frames import from_columns
from core.ids import IdMap
from core.rounds import Rounds
from core.rows import Rows
from core.schemas import DELTA_BASE, ITEM
from core.snapshot import Snapshot, check_identity
from core.stage import Examples
from features.config import ItemConfig
from features.counters import MS, effective_ms, observe
from features.popularity import log2_popularity, observe_popularity

ITEM_POPULARITY = pl.Schema(
    {
        **DELTA_BASE,
        "log2_popularity": pl.Float64(),  # null: no engaged event yet
        "first_ms": pl.Int64(),  # 0: seen only in the catalogue, before there was a clock
        "start_ms": pl.Int64(),  # null: the catalogue gives none
        "end_ms": pl.Int64(),
    }
)
CATALOGUE = -2  # in place of a type's code
NONE_MS = 0  # a start or an end that is not given
_STATE, _ROWS = "items.json", "rows"
_TIMES = ("last_ms", "popular_ms", "first_ms", "start_ms", "end_ms", "version")


class Shelf(msgspec.Struct):
    """What is read of a catalogue entry: when a live room is open, ms."""

    start: int = NONE_MS
    end: int = NONE_MS


_shelf = msgspec.json.Decoder(Shelf).decode


@compiled
def learn_items(
    slots: np.ndarray,
    ts_ms: np.ndarray,
    clock_ms: np.ndarray,
    codes: np.ndarray,
    engaged: np.ndarray,
    half_lives_ms: np.ndarray,
    popularity_half_life_ms: float,
    first_version: int,
    counts: np.ndarray,
    count: np.ndarray,
    last_ms: np.ndarray,
    popular_ms: np.ndarray,
    first_ms: np.ndarray,
    version: np.ndarray,
    before: np.ndarray,
) -> None:
    """Row by row: first sight, counters as they were, then count.

    Args:
        slots: int64 [n], row of each item, -1 where the example has none.
        ts_ms: int64 [n], effective event times; of a catalogue row its start, or 0.
        clock_ms: int64 [n], merged clock, 0 before it is set.
        codes: int64 [n], types, -1 of one that is not counted; CATALOGUE on a catalogue row.
        engaged: bool [n], rows that make an item popular.
        half_lives_ms: float64 [half lives].
        popularity_half_life_ms: of the popularity count.
        first_version: of the first row; they go up by one.
        counts: float64 [items, types x half lives], and the other columns of the items' rows, [items]. Updated.
        before: float32 [n, types x half lives]. Filled with the counters before each row; left as it is on other rows.
    """
    for i in range(slots.shape[0]):
        at = slots[i]
        if at < 0:
            continue
        version[at] = first_version + i
        if first_ms[at] == UNSET:
            first_ms[at] = clock_ms[i] if clock_ms[i] != UNSET else ts_ms[i]
        if codes[i] == CATALOGUE:
            continue
        last_ms[at] = observe(counts[at], last_ms[at], ts_ms[i], codes[i], half_lives_ms, before[i])
        if engaged[i]:
            count[at] = observe_popularity(count[at], popular_ms[at], ts_ms[i], popularity_half_life_ms)
            popular_ms[at] = max(popular_ms[at], ts_ms[i])


class ItemFeatures:
    """Counts what happens to each item, over all users, and how popular it is.

    In: `examples`, all upstreams merged. Adds `item_counts` float32 [n, types x half lives]: the counters as they were before each event,
    decayed to its time; zeros for unknown items and on catalogue rows. Publishes `item_popularity`.
    State: one row per item: float64 counters, a popularity count, when it was first seen, when it starts and ends, the version
    (examples up to the item's last, ticks not counted).

    An event's time is held to its own partition's clock: the merged one stands still as long as any partition lags.
    """

    name = "items"

    def __init__(self, config: ItemConfig) -> None:
        self.config = config
        self._half_lives_ms = np.array(config.half_lives_seconds, dtype=np.float64) * MS
        self._popularity_half_life_ms = float(config.popularity_half_life_seconds * MS)
        self._codes = config.codes
        self._engages = np.array([*(name in config.popularity_types for name in self._codes), False, False])  # codes -2, -1 read the last
        self._width = config.width
        fields = {"counts": ("<f8", (self._width,)), "count": ("<f8", ()), **dict.fromkeys(_TIMES, ("<i8", ()))}
        self.ids = IdMap(config.capacity)
        self.rows = Rows(config.capacity, fields)
        self._clock_ms = UNSET
        self.rounds = Rounds()
        self._touched: dict[str, tuple[int, int] | None] = {}  # item -> version and event time of a removal, None while it has a row

    def learn_many(self, examples: Examples) -> None:
        """Learn n rows, in order."""
        n = len(examples)
        before = np.zeros((n, self._width), dtype=np.float32)
        start = 0
        for at in _removals(examples):
            self._learn(examples.part(start, at), before[start:at])
            self._remove(examples.texts("item_id")[at], examples.first_ordinal + at + 1)
            start = at + 1
        self._learn(examples.part(start, n), before[start:])
        if n:
            self._clock_ms = int(examples.clock_ms[-1])
        examples.columns["item_counts"] = before

    def _learn(self, examples: Examples, before: np.ndarray) -> None:
        """Learn n rows without a removal among them; fills `before` [n, types x half lives]."""
        ids = examples.texts("item_id")
        known = [id_ for id_ in ids if id_ is not None]
        slots = self._admit(ids, known)  # int64 [n]
        ts_ms = effective_ms(examples.numbers("ts_ms"), examples.numbers("clock_ms"), self.config.future_seconds * MS)
        codes = np.array([self._codes.get(name, -1) for name in examples.texts("type")], dtype=np.int64)
        self._read_catalogue(examples, slots, ts_ms, codes)
        table, lives_ms, life_ms = self.rows.arrays, self._half_lives_ms, self._popularity_half_life_ms
        learn_items(
            slots, ts_ms, examples.clock_ms, codes, self._engages[codes], lives_ms, life_ms, examples.first_ordinal + 1, table["counts"],
            table["count"], table["last_ms"], table["popular_ms"], table["first_ms"], table["version"], before,
        )  # fmt: skip
        self.rows.mark(slots[slots >= 0])
        self._touched.update(dict.fromkeys(known))

    def _admit(self, ids: Sequence[str | None], known: Sequence[str]) -> np.ndarray:
        if len(known) == len(ids):
            return self.ids.admit(known).astype(np.int64)
        slots = np.full(len(ids), -1, dtype=np.int64)
        slots[[at for at, id_ in enumerate(ids) if id_ is not None]] = self.ids.admit(known)
        return slots

    def _read_catalogue(self, examples: Examples, slots: np.ndarray, ts_ms: np.ndarray, codes: np.ndarray) -> None:
        """Take start and end from the catalogue's rows, and give these their start as time and their code."""
        entries = np.flatnonzero(examples.numbers("kind") == ITEM).tolist()
        texts = examples.texts("item") if entries else []
        for at in entries:
            shelf = _shelf(texts[at])
            self.rows["start_ms"][slots[at]], self.rows["end_ms"][slots[at]] = shelf.start, shelf.end
            ts_ms[at], codes[at] = shelf.start, CATALOGUE

    def _remove(self, id_: str, version: int) -> None:
        row = self.ids.remove(id_)
        if row >= 0:
            self._forget(id_, row, version)

    def _forget(self, id_: str, row: int, version: int) -> None:
        self._touched[id_] = (version, int(self.rows["last_ms"][row]))
        for array in self.rows.arrays.values():
            array[row] = 0
        self.rows.mark(np.array([row]))

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Between segments: the items longest unused lose their rows, so that a segment's worth is free."""
        for id_, row in self.ids.evict():
            self._forget(id_, row, ordinal)

    @property
    def tables(self) -> dict[str, IdMap]:
        """The ids with rows: "items"."""
        return {"items": self.ids}

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float32 [n]: log2 of each item's popularity count decayed to the clock, the same for every user; NaN without an event."""
        rows = self.ids.lookup(item_ids)
        score = log2_popularity(self.rows["count"][rows], self.rows["popular_ms"][rows], self._popularity_half_life_ms, self._clock_ms)
        return np.where(rows < 0, np.nan, score).astype(np.float32)

    def touched(self) -> dict[str, pl.DataFrame]:
        """`item_popularity` of the items seen, changed or removed since the last call, in order of the first change."""
        live, removed = self.take_touched()
        gone = [(id_, *removal, True) for id_, removal in removed.items()]
        popularity = from_columns(ITEM_POPULARITY, self._published(live))
        if gone:
            popularity = pl.concat([popularity, pl.DataFrame(gone, schema=DELTA_BASE, orient="row")], how="diagonal")
        return {"item_popularity": popularity}

    def take_touched(self) -> tuple[list[str], dict[str, tuple[int, int]]]:
        """The items to be told of, in order of the first change: those that have a row, and of the others version and event time."""
        live = [id_ for id_, removal in self._touched.items() if removal is None]
        removed = {id_: removal for id_, removal in self._touched.items() if removal is not None}
        self._touched = {}
        return live, removed

    def popularity(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Of n items that have a row: log2_popularity float64 [n], NaN without an event; first_ms, start_ms, end_ms, and more of a row."""
        rows = self.ids.lookup(ids)
        told = {name: self.rows[name][rows] for name in ("version", "last_ms", "count", "popular_ms", "first_ms", "start_ms", "end_ms")}
        return {**told, "log2_popularity": log2_popularity(told["count"], told["popular_ms"], self._popularity_half_life_ms)}

    def touch_next(self, rows: int) -> bool:
        """See `Learner.touch_next`."""
        span, ended = self.rounds.take(rows, len(self.ids.ids))
        for id_ in self.ids.ids[span]:
            if id_ is not None:
                self._touched.setdefault(id_, None)
        return ended

    def _published(self, ids: list[str]) -> dict[str, Any]:
        told = self.popularity(ids)
        log2 = told["log2_popularity"]
        return {
            "id": ids,
            "version": told["version"],
            "event_ms": told["last_ms"],
            "removed": np.zeros(len(ids), dtype=np.bool_),
            "log2_popularity": _nulls(log2, np.isnan(log2)),
            "first_ms": told["first_ms"],
            "start_ms": _nulls(told["start_ms"], told["start_ms"] == NONE_MS),
            "end_ms": _nulls(told["end_ms"], told["end_ms"] == NONE_MS),
        }

    def snapshot(self, into: Snapshot) -> None:
        """The ids, the chunks of rows (linked where unchanged), and the rest as JSON."""
        state = {"identity": self.config.identity, "clock_ms": self._clock_ms, "touched": list(self._touched.items())}
        state["next_row"] = self.rounds.next_row
        into.write(_STATE, msgspec.json.encode(state))
        self.ids.snapshot(into)
        self.rows.snapshot(into.within(_ROWS), len(self.ids.ids))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under other settings, or holds more rows than `capacity`.
        """
        state = msgspec.json.decode((directory / _STATE).read_bytes())
        check_identity(state["identity"], self.config.identity)
        self.ids.restore(directory)
        if len(self.ids.ids) > self.config.capacity:
            raise SnapshotError(f"the checkpoint has {len(self.ids.ids)} item rows; raise `capacity` from {self.config.capacity}")
        self.rows.restore(directory / _ROWS)
        self._clock_ms, self.rounds.next_row = state["clock_ms"], state["next_row"]
        self._touched = {id_: tuple(removal) if removal else None for id_, removal in state["touched"]}

    def digest(self) -> str:
        live = np.array([row for row, id_ in enumerate(self.ids.ids) if id_ is not None], dtype=np.int64)
        text = f"{self._clock_ms} {self.ids.digest()} {self.rows.digest(live)}"
        return hashlib.sha256(text.encode()).hexdigest()


def _nulls(values: np.ndarray, absent: np.ndarray) -> list[float | None]:
    return [None if null else value for value, null in zip(values.tolist(), absent.tolist(), strict=True)]


def _removals(examples: Examples) -> list[int]:
    """Places of the rows that remove a catalogue item."""
    items = np.flatnonzero(examples.numbers("kind") == ITEM).tolist()
    entries = examples.texts("item") if items else []
    return [at for at in items if entries[at] is None]
