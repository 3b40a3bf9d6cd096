"""Events of the learner's log as numbers: the runs that contenders are judged on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.clock import MS, effective_ms
from core.contender import Run, State
from core.schemas import EVENT, ITEM
from core.stage import Examples
from evaluation.seen import SeenItems
from features.config import POPULARITY_TYPES, UserConfig


class Numbers:
    """Ids -> numbers from 0, in the order in which they are first taken."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._of: dict[str, int] = {}

    def __getitem__(self, id_: str) -> int:
        return self._of[id_]

    def take(self, ids: Sequence[str]) -> np.ndarray:
        """int32 [n]."""
        return np.array([self._of[id_] if id_ in self._of else self._new(id_) for id_ in ids], dtype=np.int32)

    def _new(self, id_: str) -> int:
        self._of[id_] = len(self.ids)
        self.ids.append(id_)
        return len(self.ids) - 1

    def restore(self, ids: list[str]) -> None:
        self.ids, self._of = ids, dict(zip(ids, range(len(ids)), strict=True))


class Events:
    """The events of some rows of `examples`, in order."""

    def __init__(self, examples: Examples) -> None:
        kinds, items = examples.numbers("kind"), examples.texts("item_id")
        named = np.array([id_ is not None for id_ in items], dtype=np.bool_)
        self.rows = np.flatnonzero((kinds == EVENT) & named)  # int64 [events], rows of `examples`
        self._examples, self._at = examples, self.rows.tolist()
        self.user_ids, self.item_ids, self.types = self.texts("user_id"), self.texts("item_id"), self.texts("type")
        told = np.flatnonzero((kinds == ITEM) & named)
        before, entries = np.searchsorted(self.rows, told).tolist(), examples.texts("item") if told.size else []
        self.catalogue = [(at, items[row], entries[row]) for at, row in zip(before, told.tolist(), strict=True)]
        # of entries: events before it, item id, the entry or None where the item goes
        self.named = [id_ for id_, known in zip(items, named.tolist(), strict=True) if known]  # items, in the order of the rows

    def texts(self, name: str) -> list[Any]:
        """A column of these events."""
        column = self._examples.texts(name)
        return [column[row] for row in self._at]

    def numbers(self, name: str) -> np.ndarray:
        return self._examples.numbers(name)[self.rows]


class Runs:
    """Makes runs. State: the numbers given, what each user has seen, how many events there were, the latest time."""

    def __init__(self, user_config: UserConfig, judge: Sequence[str]) -> None:
        """`judge`: event types whose item is looked for."""
        self.users, self.items, self.events = Numbers(), Numbers(), 0
        self._judge, self._config, self._now_ms = tuple(judge), user_config, 0
        self._seen = SeenItems(user_config.user_ttl_seconds * MS)

    def run(self, events: Events) -> Run:
        """The next events."""
        user, item, (engaged, judged, kept) = self.users.take(events.user_ids), self._item_numbers(events), self._flags(events.types)
        ts_ms, clock_ms = events.numbers("ts_ms"), events.numbers("clock_ms")
        own_ms = effective_ms(ts_ms, clock_ms, self._config.future_seconds * MS)
        seen = self._seen.before(user, item, own_ms, self._times(ts_ms, clock_ms), kept, len(self.users.ids))
        position = np.arange(self.events, self.events + user.size, dtype=np.int64)
        self.events += user.size
        return Run(position, ts_ms, user, item, engaged, judged, seen, len(self.users.ids), len(self.items.ids))

    def _item_numbers(self, events: Events) -> np.ndarray:
        """Entries of the catalogue are numbered where they stand, so that numbers do not depend on the runs."""
        self.items.take(events.named)
        return self.items.take(events.item_ids)

    def _flags(self, types: Sequence[str]) -> list[np.ndarray]:
        sets = (POPULARITY_TYPES, self._judge, self._config.history_types)
        return [np.array([type_ in names for type_ in types], dtype=np.bool_) for names in sets]

    def _times(self, ts_ms: np.ndarray, clock_ms: np.ndarray) -> np.ndarray:
        """The time at each row, never falling: as the user stage has it."""
        now_ms = np.maximum.accumulate(np.maximum(np.where(clock_ms == 0, ts_ms, clock_ms), self._now_ms))
        self._now_ms = int(now_ms[-1]) if now_ms.size else self._now_ms
        return now_ms

    def save(self) -> tuple[dict[str, Any], State]:
        """Plain values, and arrays."""
        return {"users": self.users.ids, "items": self.items.ids, "events": self.events, "now_ms": self._now_ms}, self._seen.save()

    def load(self, plain: dict[str, Any], seen: State) -> None:
        self.users.restore(plain["users"])
        self.items.restore(plain["items"])
        self.events, self._now_ms = plain["events"], plain["now_ms"]
        self._seen.load(seen)
