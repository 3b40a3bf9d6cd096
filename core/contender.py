"""What is judged before it learns: the one face that served lists, learned models and baselines show to an evaluation."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

SEEN_ITEMS = 30  # of a user's last distinct items, left out of every list
State = dict[str, np.ndarray]  # what a contender remembers, as named arrays (bytes as uint8)


@dataclass(frozen=True)
class Run:
    """n consecutive accepted events in log order. Users are numbered from 0 in the order of their first event, items in the order in
    which the log first names them, catalogue entries included."""

    position: np.ndarray  # int64 [n], event's ordinal in the log
    ts_ms: np.ndarray  # int64 [n]
    user: np.ndarray  # int32 [n]
    item: np.ndarray  # int32 [n]
    engaged: np.ndarray  # bool [n]: of a type that counts as popularity and makes an edge (not impression, hate, exit)
    judged: np.ndarray  # bool [n]: the item is looked for in the list that its user would have been served just before
    seen: np.ndarray  # int32 [n, SEEN_ITEMS]: the user's last distinct items before each row, newest first, -1 where there are fewer
    users: int  # numbers given up to the end of this run
    items: int

    def __len__(self) -> int:
        return int(self.position.size)

    def part(self, start: int, stop: int) -> "Run":
        """Rows [start, stop)."""
        rows = slice(start, stop)
        return Run(
            self.position[rows], self.ts_ms[rows], self.user[rows], self.item[rows], self.engaged[rows], self.judged[rows],
            self.seen[rows], self.users, self.items,
        )  # fmt: skip


class Contender(Protocol):
    """Anything with a list of its own. Test, then train: each row is judged by what was learned from the rows before it."""

    name: str

    def judge(self, run: Run, k: int) -> np.ndarray:
        """int32 [n]: rank of each judged row's item in the list of k served before it (1 is first; ties count against), 0 where it is
        not in the list or the row is not judged. The items in `seen` are left out of a list. Then every row is learned. One call with n
        rows equals n calls with one."""

    def scores(self, user: int, items: int) -> np.ndarray | None:
        """float32 or float64 [items]: the score of each item for the user as of now, NaN where nothing is known; None: it has no scores.
        Changes nothing."""

    def remove(self, items: np.ndarray) -> None:
        """Items (int32) that left the catalogue: in no list until they are seen again."""

    def save(self) -> State: ...

    def load(self, state: State) -> None: ...


class Impression(NamedTuple):
    """What is known when an item is shown: before any of its labels."""

    position: int
    ts_ms: int
    user_id: str
    item_id: str
    context: dict[str, str | int]  # words and whole numbers of the event's, {} where there are none
    entry: dict[str, Any]  # author and categories of the item's catalogue entry, where it has them
    score: float | None = None  # the pair's learned score, None where there is none


class LabelModel(Protocol):
    """Predicts labels of impressions; learns each when it is revealed."""

    name: str

    def predict(self, shown: Impression) -> dict[str, float]:
        """Probability by label; a label left out is not predicted. Changes nothing that a later prediction sees."""

    def learn(self, shown: Impression, label: str, y: int) -> None:
        """The label is known now: 1 or 0."""

    def save(self) -> State: ...

    def load(self, state: State) -> None: ...


def grown(array: np.ndarray, size: int) -> np.ndarray:
    """The same array, or one at least twice as long with zeros behind, that holds `size` rows."""
    if size <= array.shape[0]:
        return array
    more = max(size, 2 * array.shape[0]) - array.shape[0]
    return np.concatenate([array, np.zeros((more, *array.shape[1:]), dtype=array.dtype)])
