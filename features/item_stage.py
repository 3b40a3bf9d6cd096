"""The first part of the learner stage: what is true of each item, author and category, from the one ordered `examples` log."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from core.clock import MS, UNSET, effective_ms
from core.errors import SnapshotError
from core.frames import from_columns
from core.ids import IdMap, RowTable
from core.rounds import Rounds
from core.rows import Rows
from core.schemas import DELTA_BASE, ITEM
from core.snapshot import Snapshot, check_identity
from core.stage import Examples
from features.belongings import Belongings
from features.config import MAX_CATEGORIES, ItemConfig
from features.entity import views
from features.item_rows import CATALOGUE, NONE_MS, ItemEvents, Tables, item_plan, learn_items
from features.popularity import log2_popularity

ITEM_POPULARITY = pl.Schema(
    {
        **DELTA_BASE,
        "log2_popularity": pl.Float64(),  # null: no engaged event yet
        "first_ms": pl.Int64(),  # 0: seen only in the catalogue, before there was a clock
        "start_ms": pl.Int64(),  # null: the catalogue gives none
        "end_ms": pl.Int64(),
    }
)
_STATE, _ROWS = "items.json", "rows"
_OWN = ("popular_ms", "first_ms", "start_ms", "end_ms", "viewers", "version")


class Shelf(msgspec.Struct):
    """What is read of a catalogue entry: when a live room is open, ms; whose it is. The first category is the item's."""

    start: int = NONE_MS
    end: int = NONE_MS
    author: str | None = None
    categories: list[str] = []


_shelf = msgspec.json.Decoder(Shelf).decode


class ItemFeatures:
    """Knows what happens to each item, author and category, over all users, and how popular each item is.

    In: `examples`, all upstreams merged. Adds `item_features` float32 [n, columns], see `ItemConfig.features`: as they were before each
    event, as of its time; zeros on rows without an item and on catalogue rows. Publishes `item_popularity`.
    State: one row per item, author and category (see `features.entity`); of an item also a popularity count, when it was first seen, when
    it starts and ends, who is in the room, author and category, the version (examples up to the item's last, ticks not counted).

    An event's time is held to its own partition's clock: the merged one stands still as long as any partition lags.
    """

    name = "items"
    publishes = True

    def __init__(self, config: ItemConfig) -> None:
        self.config = config
        self._codes = config.codes
        self._engages = np.array([*(name in config.popularity_types for name in self._codes), False, False])  # codes -2, -1 read the last
        self._plan = item_plan(config)
        self.ids, self.authors = IdMap(config.capacity), IdMap(config.capacity)
        self.categories = IdMap(min(config.capacity, MAX_CATEGORIES))
        self.rows = Rows(
            config.capacity, {"words": ("<i8", (self._plan.item.words,)), "popular": ("<f8", ()), **dict.fromkeys(_OWN, ("<i8", ()))}
        )
        self._author_rows = Rows(self.authors.capacity, {"words": ("<i8", (self._plan.author.words,))})
        self._category_rows = Rows(self.categories.capacity, {"words": ("<i8", (self._plan.category.words,))})
        self._belongs = Belongings(config.capacity)
        items, authors, categories = (views(rows["words"]) for rows in (self.rows, self._author_rows, self._category_rows))
        self._tables = Tables(items, authors, categories, *(self.rows[name] for name in ("popular", *_OWN)))
        self._clock_ms = UNSET
        self.rounds = Rounds()
        self._touched: dict[str, tuple[int, int] | None] = {}  # item -> version and event time of a removal, None while it has a row

    @property
    def _last_ms(self) -> np.ndarray:
        """int64 [items]: newest event of each."""
        last_ms: np.ndarray = self.rows["words"][:, self._plan.item.seen_at]
        return last_ms

    def learn_many(self, examples: Examples) -> None:
        """Learn n rows, in order."""
        n = len(examples)
        before = np.zeros((n, self.config.width), dtype=np.float32)
        start = 0
        for at in examples.removals():
            self._learn(examples.part(start, at), before[start:at])
            self._remove(examples.texts("item_id")[at], examples.first_ordinal + at + 1)
            start = at + 1
        self._learn(examples.part(start, n), before[start:])
        if n:
            self._clock_ms = int(examples.clock_ms[-1])
        examples.columns["item_features"] = before

    def _learn(self, examples: Examples, before: np.ndarray) -> None:
        """Learn n rows without a removal among them; fills `before` [n, columns]."""
        ids = examples.texts("item_id")
        known = ids if examples.there("item_id").all() else [id_ for id_ in ids if id_ is not None]
        items = self._admit(ids, known)  # int64 [n]
        ts_ms = effective_ms(examples.numbers("ts_ms"), examples.numbers("clock_ms"), self.config.future_seconds * MS)
        codes = examples.derived("items.codes", "type", self._type_codes).copy()
        end_ms = np.full(len(examples), NONE_MS, dtype=np.int64)
        authors, categories = self._groups(examples, items, ts_ms, end_ms, codes)
        events = ItemEvents(
            items,
            authors,
            categories,
            ts_ms,
            end_ms,
            examples.clock_ms,
            codes,
            _values(examples),
            examples.fingerprints("user_id")[:, 0].copy(),  # as one row a view would be of another type, and the kernel compiled anew
            self._engages[codes],
        )
        learn_items(self._plan, events, self._tables, examples.first_ordinal + 1, before)
        for rows, at in ((self.rows, items), (self._author_rows, authors), (self._category_rows, categories)):
            rows.mark(at[at >= 0])
        self._touched.update(dict.fromkeys(known))

    def _type_codes(self, types: Sequence[str | None]) -> np.ndarray:
        code_of = self._codes.get
        return np.array([code_of(name, -1) for name in types], dtype=np.int64)  # type: ignore[arg-type]  # None is no key

    def _admit(self, ids: Sequence[str | None], known: Sequence[str]) -> np.ndarray:
        if len(known) == len(ids):
            return self.ids.admit(known).astype(np.int64)
        slots = np.full(len(ids), -1, dtype=np.int64)
        slots[[at for at, id_ in enumerate(ids) if id_ is not None]] = self.ids.admit(known)
        return slots

    def _groups(
        self, examples: Examples, items: np.ndarray, ts_ms: np.ndarray, end_ms: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] each: rows of author and category of each row's item, the catalogue's rows taken in where they stand.

        These also get their start as time, their end, and their code.
        """
        entries = np.flatnonzero(examples.numbers("kind") == ITEM).tolist()
        texts = examples.texts("item") if entries else []
        of, start, at_rows = self._belongs, 0, items.tolist()
        authors: list[str | None] = []
        categories: list[str | None] = []
        for at in entries:
            row, shelf = at_rows[at], _shelf(texts[at])
            for found, named in ((authors, of.author), (categories, of.category)):
                found += [*(named[item] for item in at_rows[start:at]), None]
            of.put(row, shelf.author, shelf.categories[0] if shelf.categories else None)
            ts_ms[at], end_ms[at], codes[at], start = shelf.start, shelf.end, CATALOGUE, at + 1
        authors += [of.author[item] for item in at_rows[start:]]
        categories += [of.category[item] for item in at_rows[start:]]
        return _admitted(self.authors, authors), _admitted(self.categories, categories)

    def _remove(self, id_: str, version: int) -> None:
        row = self.ids.remove(id_)
        if row >= 0:
            self._forget(id_, row, version)

    def _forget(self, id_: str, row: int, version: int) -> None:
        self._touched[id_] = (version, int(self._last_ms[row]))
        for array in self.rows.arrays.values():
            array[row] = 0
        self._belongs.put(row, None, None)
        self.rows.mark(np.array([row]))

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Between segments: the items longest unused lose their rows, so that a segment's worth is free."""
        for id_, row in self.ids.evict():
            self._forget(id_, row, ordinal)
        for ids, rows in ((self.authors, self._author_rows), (self.categories, self._category_rows)):
            gone = np.array([row for _, row in ids.evict()], dtype=np.int64)
            rows["words"][gone] = 0
            rows.mark(gone)

    @property
    def tables(self) -> dict[str, RowTable]:
        """The ids with rows."""
        return {"items": self.ids, "authors": self.authors, "categories": self.categories}

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float32 [n]: log2 of each item's popularity count decayed to the clock, the same for every user; NaN without an event."""
        rows = self.ids.lookup(item_ids)
        score = log2_popularity(
            self.rows["popular"][rows], self.rows["popular_ms"][rows], self._plan.popularity_half_life_ms, self._clock_ms
        )
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
        told = {name: self.rows[name][rows] for name in ("version", "popular", "popular_ms", "first_ms", "start_ms", "end_ms")}
        told["last_ms"] = self._last_ms[rows]
        return {**told, "log2_popularity": log2_popularity(told["popular"], told["popular_ms"], self._plan.popularity_half_life_ms)}

    def touch_next(self, rows: int) -> bool:
        """See `Learner.touch_next`."""
        span, ended = self.rounds.take(rows, self.ids.size)
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
        self._belongs.snapshot(into, self.ids.size)
        for name, (ids, rows) in self._parts.items():
            part = into.within(name)
            ids.snapshot(part)
            rows.snapshot(part.within(_ROWS), ids.size)

    @property
    def _parts(self) -> dict[str, tuple[IdMap, Rows]]:
        return {
            "items": (self.ids, self.rows),
            "authors": (self.authors, self._author_rows),
            "categories": (self.categories, self._category_rows),
        }

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under other settings, or holds more rows than `capacity`.
        """
        state = msgspec.json.decode((directory / _STATE).read_bytes())
        check_identity(state["identity"], self.config.identity)
        for name, (ids, rows) in self._parts.items():
            ids.restore(directory / name)
            if ids.size > ids.capacity:
                raise SnapshotError(f"the checkpoint has {ids.size} rows of {name}; raise `max_items` from {self.config.capacity}")
            rows.restore(directory / name / _ROWS)
        self._belongs.restore(directory)
        self._clock_ms, self.rounds.next_row = state["clock_ms"], state["next_row"]
        self._touched = {id_: tuple(removal) if removal else None for id_, removal in state["touched"]}

    def digest(self) -> str:
        parts = [f"{self._clock_ms}", self._belongs.digest()]
        for ids, rows in self._parts.values():
            live = np.array([row for row, id_ in enumerate(ids.ids) if id_ is not None], dtype=np.int64)
            parts += [ids.digest(), rows.digest(live)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _admitted(ids: IdMap, names: Sequence[str | None]) -> np.ndarray:
    """int64 [n]: the row of each name, -1 where there is none."""
    if None not in names:
        return ids.admit(names).astype(np.int64)  # type: ignore[arg-type]  # none of them is None
    rows = np.full(len(names), -1, dtype=np.int64)
    there = [at for at, name in enumerate(names) if name is not None]
    if there:
        rows[there] = ids.admit(name for name in names if name is not None)
    return rows


def _values(examples: Examples) -> np.ndarray:
    """float64 [n], NaN where there is none."""
    return np.array(examples.numbers("value"), dtype=np.float64)


def _nulls(values: np.ndarray, absent: np.ndarray) -> list[float | None]:
    return [None if null else value for value, null in zip(values.tolist(), absent.tolist(), strict=True)]
