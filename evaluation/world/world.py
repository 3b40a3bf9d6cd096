"""Asks a world: what a user likes at a time, what is live, and which list would be best."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.compiled import compiled
from core.errors import SettingsError
from evaluation.world.config import WorldConfig, load_world
from evaluation.world.laws import DIMENSIONS, Shelf, changed_ms, click_logit, empty_shelf, put, sigmoid, taste

NO_ITEM = -1


class World:
    """The truth of one world. Users and items are numbers here; `user_number` and `item_numbers` read the ids of its log.

    The utility of an item for a user at a time is the probability of a click once it is looked at; 0 where the item is not live then.
    Cost: of `utilities`, what is asked for; of `best`, a look at every slot (6 ns each) besides. Memory: 80 bytes a slot.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self._law = config.law()
        self._shelf, self._block = empty_shelf(self._law), np.empty(4, dtype=np.uint64)

    @classmethod
    def open(cls, directory: Path) -> "World":
        """The world of a simulated log.

        Raises:
            SettingsError: the directory holds none.
        """
        return cls(load_world(directory))

    def user_number(self, user_id: str) -> int:
        """Bots have numbers from `config.users` on.

        Raises:
            SettingsError: no id of this world.
        """
        return _number("u", user_id, self.config.users + self.config.bots)

    def item_numbers(self, item_ids: Sequence[str]) -> np.ndarray:
        """int64 [n].

        Raises:
            SettingsError: no id of this world.
        """
        return np.array([_number("i", id_, np.iinfo(np.int64).max) for id_ in item_ids], dtype=np.int64)

    def utilities(self, ts_ms: int, user: int, items: np.ndarray) -> np.ndarray:
        """float64 [n]: utility of each item, int64 [n], at that time."""
        return utilities(self._law, self._shelf, self._liking(ts_ms, user), items, ts_ms, self._block)

    def best(self, ts_ms: int, user: int, k: int, without: np.ndarray) -> np.ndarray:
        """int64 [k]: the live items of highest utility, best first, those of `without` (int64 [n]) left out; NO_ITEM behind the last."""
        return best(self._law, self._shelf, self._liking(ts_ms, user), k, without, ts_ms, self._block)

    def changed_ms(self, ts_ms: int, user: int) -> int:
        """Since when the user has the taste of that time, drift aside."""
        return int(changed_ms(self._law, user, ts_ms, self._block)[1])

    def _liking(self, ts_ms: int, user: int) -> np.ndarray:
        out = np.empty(DIMENSIONS)
        taste(self._law, self._shelf, user, ts_ms, self._block, out)
        return out


def _number(prefix: str, id_: str, bound: int) -> int:
    digits = id_.removeprefix(prefix)
    if not id_.startswith(prefix) or not digits.isdecimal() or int(digits) >= bound:
        raise SettingsError(f"{id_!r} is no id of this world: give the directory of the log that is judged")
    return int(digits)


@compiled
def utilities(law: Any, shelf: Shelf, liking: np.ndarray, items: np.ndarray, ts_ms: int, block: np.ndarray) -> np.ndarray:
    """float64 [n]."""
    out = np.zeros(items.shape[0])
    for i in range(items.shape[0]):
        slot = items[i] % law.items
        if not shelf.start_ms[slot] <= ts_ms < shelf.end_ms[slot]:
            put(law, shelf, slot, ts_ms, block)
        if shelf.item[slot] == items[i]:
            out[i] = sigmoid(click_logit(law, shelf, liking, slot))
    return out


@compiled
def best(law: Any, shelf: Shelf, liking: np.ndarray, k: int, without: np.ndarray, ts_ms: int, block: np.ndarray) -> np.ndarray:
    """int64 [k], by insertion. Of equal ones the more popular slot is first."""
    items, logits = np.full(k, NO_ITEM, dtype=np.int64), np.full(k, -np.inf)
    for slot in range(law.items):
        if not shelf.start_ms[slot] <= ts_ms < shelf.end_ms[slot]:
            put(law, shelf, slot, ts_ms, block)
        logit = click_logit(law, shelf, liking, slot)
        if logit <= logits[k - 1] or (without == shelf.item[slot]).any():
            continue
        at = k - 1
        while at > 0 and logits[at - 1] < logit:
            items[at], logits[at] = items[at - 1], logits[at - 1]
            at -= 1
        items[at], logits[at] = shelf.item[slot], logit
    return items
