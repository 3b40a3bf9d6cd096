"""Which items follow each other within sessions: decayed counts of steps between items, from the one ordered `examples` log.

The counts are kept by `features.steps`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import polars as pl

from core.clock import MS, UNSET, effective_ms
from core.errors import SettingsError, SnapshotError
from core.fingerprint_map import FingerprintMap
from core.frames import from_columns
from core.hashing import fingerprints
from core.ids import IdMap, RowTable
from core.rounds import Rounds
from core.rows import CHUNK_ROWS, Rows
from core.schemas import DELTA_BASE, EVENT_TYPES
from core.snapshot import Snapshot, check_identity
from core.stage import Examples
from features.steps import Lasts, StepRows, StepRule, Steps, learn_steps

STEP_TYPES = tuple(name for name in EVENT_TYPES if name not in ("impression", "hate", "exit"))
ITEM_NEIGHBOURS = pl.Schema(
    {
        **DELTA_BASE,
        "neighbours": pl.List(pl.String()),  # ids, highest count first; null: the item is removed
        "scores": pl.List(pl.Float32()),  # log2 counts relative to the first, which is 0
    }
)
_IDENTITY = ("types", "neighbours", "half_life_seconds", "session_gap_seconds", "both_ways")


@dataclass(frozen=True)
class CovisitationConfig:
    """Of `Covisitation`: how many users and items have a row, what counts as a step, and how fast steps are forgotten.

    Raises:
        SettingsError: a value cannot be used.
    """

    user_capacity: int = 1 << 20
    item_capacity: int = 1 << 18
    neighbours: int = 32  # per item
    half_life_seconds: int = 86_400
    session_gap_seconds: int = 1_800  # events of a user further apart are no step
    types: tuple[str, ...] = STEP_TYPES
    both_ways: bool = True  # a step from a to b also counts as one from b to a
    publishes: bool = True  # whether neighbours are told
    future_seconds: int = 3_600

    def __post_init__(self) -> None:
        if not self.types or len(set(self.types)) != len(self.types):
            raise SettingsError(f"`types` must name event types, each once, got {self.types}")
        for name in ("user_capacity", "item_capacity"):
            if getattr(self, name) <= 0 or getattr(self, name) % CHUNK_ROWS:
                raise SettingsError(f"`{name}` must be a positive multiple of {CHUNK_ROWS} rows, got {getattr(self, name)}")
        for name, least in {"neighbours": 1, "half_life_seconds": 1, "session_gap_seconds": 1, "future_seconds": 0}.items():
            if getattr(self, name) < least:
                raise SettingsError(f"`{name}` must be at least {least}, got {getattr(self, name)}")

    @property
    def identity(self) -> dict[str, Any]:
        """As a snapshot gives it back, so that stored and own settings compare."""
        settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({name: getattr(self, name) for name in _IDENTITY}))
        return settings


Ids = TypeVar("Ids", IdMap, FingerprintMap)


class Side(Generic[Ids]):
    """Ids and rows of the users, or of the items. State: the id map and every array of the rows."""

    def __init__(self, ids: Ids, fields: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self.ids: Ids = ids
        self.rows = Rows(ids.capacity, fields)

    def clear(self, rows: Sequence[int]) -> None:
        at = np.array(rows, dtype=np.int64)
        for array in self.rows.arrays.values():
            array[at] = 0
        self.rows.mark(at)

    def snapshot(self, into: Snapshot) -> None:
        self.ids.snapshot(into)
        self.rows.snapshot(into, self.ids.size)

    def restore(self, directory: Path, setting: str) -> None:
        """`setting`: what the user sets the capacity by, for the error."""
        self.ids.restore(directory)
        if self.ids.size > self.ids.capacity:
            raise SnapshotError(f"the checkpoint has {self.ids.size} rows; raise `{setting}` from {self.ids.capacity}")
        self.rows.restore(directory)

    def digest(self) -> str:
        return f"{self.ids.digest()} {self.rows.digest(np.arange(self.ids.size))}"


class Covisitation:
    """Counts steps between items: from a user's last counted event to the next one of another item, if it comes within the session gap.

    In: `examples`, all upstreams merged: events with user and item, of which those of the counted types are ends of steps, and removed
    catalogue items. Adds `steps` float32 [n], the count of the step from the user's last item to the event's as it was before it, decayed
    to its time; 0 where there is none. Publishes `item_neighbours`.
    State: of each user the last item and its time; of each item up to `neighbours` log2 counts, 16 bytes each, with the version
    (examples up to the last step, ticks not counted) and the time of its newest step.

    Disorder: an event older than its user's last one is a step from that last item all the same, at its own time and if no further
    from it than the gap; it does not become the last. So an odd time up to `future_seconds` ahead of its partition's clock stays the
    user's last until time gets there. A user whose last item was removed starts anew.

    An item that only lost a neighbour to a removal is not published for it: a reader knows removed items itself.
    """

    name = "covisitation"

    def __init__(self, config: CovisitationConfig) -> None:
        self.config, self.publishes = config, config.publishes
        self._types = frozenset(config.types)
        self._half_life_ms = float(config.half_life_seconds * MS)
        self._rule = StepRule(config.session_gap_seconds * MS, self._half_life_ms, config.both_ways)
        k = config.neighbours
        slots = {"neighbour": ("<i4", (k,)), "met": ("<i4", (k,)), "score": ("<f8", (k,))}
        self.users = Side(FingerprintMap(config.user_capacity), {"item": ("<i4", ()), "met": ("<i4", ()), "ms": ("<i8", ())})
        self.items = Side(
            IdMap(config.item_capacity), {**slots, "generation": ("<i4", ()), "version": ("<i8", ()), "event_ms": ("<i8", ())}
        )
        self._lasts = Lasts(**self.users.rows.arrays, dirty=self.users.rows.dirty)
        touched = np.zeros(config.item_capacity, dtype=np.bool_)
        self._steps = Steps(**self.items.rows.arrays, touched=touched, dirty=self.items.rows.dirty)
        self._clock_ms = UNSET
        self.rounds = Rounds()
        self._touched: dict[int, None] = {}  # rows of items, in order of the first change
        self._removed: dict[str, tuple[int, int]] = {}  # item -> version and event time of its removal

    def learn_many(self, examples: Examples) -> None:
        """Learn n rows, in order."""
        n, start = len(examples), 0
        before = np.zeros(n, dtype=np.float32)
        for at in examples.removals():
            self._learn(examples.part(start, at), before[start:at])
            id_, version, start = examples.texts("item_id")[at], examples.first_ordinal + at + 1, at + 1
            if (row := self.items.ids.remove(id_)) >= 0:
                self._forget(id_, row, version)
        self._learn(examples.part(start, n), before[start:])
        if n:
            self._clock_ms = int(examples.clock_ms[-1])
        examples.columns["steps"] = before

    def _learn(self, examples: Examples, before: np.ndarray) -> None:
        """Learn n rows without a removal among them; fills `before`, float32 [n]."""
        users, items = examples.fingerprints("user_id"), examples.texts("item_id")
        named = np.flatnonzero(examples.there("user_id") & examples.there("item_id"))
        if not named.size:
            return
        if named.size < len(examples):
            users, items = users[named], [items[at] for at in named.tolist()]
        counted = examples.derived("covisitation.counted", "type", self._counted)[named]
        ts_ms = effective_ms(examples.numbers("ts_ms")[named], examples.numbers("clock_ms")[named], self.config.future_seconds * MS)
        version, fresh = named + (examples.first_ordinal + 1), np.empty(2 * named.size, dtype=np.int32)
        rows = StepRows(_user_rows(self.users.ids, users, counted), _item_rows(self.items.ids, items, counted), counted, ts_ms, version)
        found = np.zeros(named.size, dtype=np.float32)
        count = learn_steps(self._rule, rows, self._lasts, self._steps, fresh, found)
        before[named] = found
        self._touched.update(dict.fromkeys(fresh[:count].tolist()))

    def _counted(self, types: Sequence[str | None]) -> np.ndarray:
        """bool [n]: events that can be an end of a step; a catalogue row has no type."""
        return np.fromiter(map(self._types.__contains__, types), np.bool_, len(types))

    def _forget(self, id_: str, row: int, version: int) -> None:
        """Clear a freed row; its new generation empties the slots that still point to it."""
        if self._steps.version[row]:  # else nobody was ever told of it
            self._removed[id_] = (version, int(self._steps.event_ms[row]))
        self._touched.pop(row, None)
        generation = self._steps.generation[row] + 1
        self.items.clear([row])
        self._steps.generation[row], self._steps.touched[row] = generation, False

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Between segments: the users and items longest unused lose their rows, so that a segment's worth is free."""
        if gone := self.users.ids.evict():
            self.users.clear(gone)
        for id_, row in self.items.ids.evict():
            self._forget(id_, row, ordinal)

    @property
    def tables(self) -> dict[str, RowTable]:
        """The ids with rows: "users" and "items"."""
        return {"users": self.users.ids, "items": self.items.ids}

    def neighbours(self, item_ids: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Of each item the neighbours, highest first, with log2 of their counts decayed to the clock; none of an unknown item."""
        rows = self.items.ids.lookup(item_ids)
        neighbour, score, live = self._ranked(rows)
        live &= rows[:, None] >= 0
        ids, now = self.items.ids.ids, self._clock_ms / self._half_life_ms
        lines = zip(neighbour.tolist(), (score - now).tolist(), live.sum(axis=1).tolist(), strict=True)
        return [[(str(ids[row]), value) for row, value in zip(near[:held], values[:held], strict=True)] for near, values, held in lines]

    def _ranked(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The slots of n items, highest score first and empty ones last, [n, k] each: neighbours' rows, forward scores, bool not empty."""
        of = self._steps
        neighbour, score = of.neighbour[rows], of.score[rows]
        live = of.met[rows] == of.generation[neighbour] + 1
        order = np.argsort(np.where(live, -score, np.inf), axis=1, kind="stable")
        neighbour, score, live = (np.take_along_axis(of_slots, order, axis=1) for of_slots in (neighbour, score, live))
        return neighbour, score, live

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float32 [n]: log2 of the count of steps from the user's last item to each, decayed to the clock; NaN where there is none."""
        unknown = np.full(len(item_ids), np.nan, dtype=np.float32)
        user = self.users.ids.lookup(fingerprints([user_id]).view(np.int64).copy())[0]
        at, of = self._lasts.item[user], self._steps
        if user < 0 or self._lasts.met[user] != of.generation[at] + 1:
            return unknown
        live = of.met[at] == of.generation[of.neighbour[at]] + 1  # bool [k]
        hit = live & (of.neighbour[at] == self.items.ids.lookup(item_ids)[:, None])  # bool [n, k]
        score = of.score[at][hit.argmax(axis=1)] - self._clock_ms / self._half_life_ms
        return np.where(hit.any(axis=1), score.astype(np.float32), unknown)

    def touched(self) -> dict[str, pl.DataFrame]:
        """`item_neighbours` of the items with a step since the last call, in order of the first one, then of those removed.

        Budget: about 10 us an item, more than it takes to learn a step.
        """
        if not self.publishes:
            self._steps.touched[list(self._touched)] = False
            self._touched, self._removed = {}, {}
            return {}
        rows, ids = np.array(list(self._touched), dtype=np.int64), [str(self.items.ids.ids[row]) for row in self._touched]
        back = set(ids)
        gone = {id_: removal for id_, removal in self._removed.items() if id_ not in back}
        self._touched, self._removed, self._steps.touched[rows] = {}, {}, False
        columns = {
            "id": [*ids, *gone],
            "version": [*self._steps.version[rows].tolist(), *(version for version, _ in gone.values())],
            "event_ms": [*self._steps.event_ms[rows].tolist(), *(event_ms for _, event_ms in gone.values())],
            "removed": [False] * len(ids) + [True] * len(gone),
        }
        lists = {name: column.extend_constant(None, len(gone)) for name, column in self._published(rows).items()}
        return {"item_neighbours": from_columns(ITEM_NEIGHBOURS, {**columns, **lists})}

    def _published(self, rows: np.ndarray) -> dict[str, pl.Series]:
        """The lists of n items."""
        neighbour, score, live = self._ranked(rows)
        ids, slots = self.items.ids.ids, zip(neighbour.ravel().tolist(), live.ravel().tolist(), strict=True)
        names = pl.Series([ids[row] if there else None for row, there in slots], dtype=pl.String())
        relative = np.where(live, score - score[:, :1], np.nan).astype(np.float32)
        scores = pl.Series(relative.ravel(), nan_to_null=True)
        return {"neighbours": _lists(names, *live.shape), "scores": _lists(scores, *live.shape)}

    def touch_next(self, rows: int) -> bool:
        """See `Learner.touch_next`; of the items that ever had a step."""
        span, ended = self.rounds.take(rows, self.items.ids.size)
        told = np.flatnonzero(self._steps.version[span]) + span.start
        self._touched.update(dict.fromkeys(told.tolist()))
        return ended

    def snapshot(self, into: Snapshot) -> None:
        """Ids and chunks of rows (linked where unchanged) of both sides, and the rest as JSON."""
        state = {"identity": self.config.identity, "clock_ms": self._clock_ms, "next_row": self.rounds.next_row}
        into.write("covisitation.json", msgspec.json.encode({**state, "touched": list(self._touched), "removed": self._removed}))
        self.users.snapshot(into.within("users"))
        self.items.snapshot(into.within("items"))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under other settings, or holds more rows than a capacity.
        """
        state = msgspec.json.decode((directory / "covisitation.json").read_bytes())
        check_identity(state["identity"], self.config.identity)
        self.users.restore(directory / "users", "max_users")
        self.items.restore(directory / "items", "max_items")
        self._clock_ms, self.rounds.next_row = state["clock_ms"], state["next_row"]
        self._touched = dict.fromkeys(state["touched"])
        self._removed = {id_: tuple(removal) for id_, removal in state["removed"].items()}

    def digest(self) -> str:
        text = f"{self._clock_ms} {self.users.digest()} {self.items.digest()}"
        return hashlib.sha256(text.encode()).hexdigest()


def _item_rows(ids: IdMap, names: Sequence[str], counted: np.ndarray) -> np.ndarray:
    """int32 [n]: the row of each name; counted ones are given one where they have none, of the others -1."""
    if counted.all():
        return ids.admit(names)
    rows = np.empty(counted.size, dtype=np.int32)
    rows[counted] = ids.admit(compress(names, counted.tolist()))
    rows[~counted] = ids.lookup(compress(names, (~counted).tolist()))
    return rows


def _user_rows(ids: FingerprintMap, keys: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """As for items, of int64 [n, 2] keys."""
    rows = np.empty(counted.size, dtype=np.int32)
    rows[counted] = ids.admit(keys[counted])
    rows[~counted] = ids.lookup(keys[~counted])
    return rows


def _lists(values: pl.Series, n: int, k: int) -> pl.Series:
    """Lists [n] of every k values, without their nulls. A third of the time that polars takes for lists of Python."""
    return values.reshape((n, k)).arr.to_list().list.drop_nulls()
