"""Open impressions with the features of their time, so that a label that comes later trains on what was known then.

impression -> its partition's ring: ordinal, numbers, categories
label      -> the ring at its impression's ordinal -> label_at, label_numbers, label_categories
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from core.compiled import compiled
from core.errors import SettingsError
from core.hashing import fingerprints
from core.rows import CHUNK_BITS, CHUNK_ROWS, Rows
from core.schemas import EVENT, LABEL, USER
from core.snapshot import Snapshot, check_identity
from core.stage import Examples, Silent

CATEGORIES = ("user_id", "item_id")
_STATE = "impressions.json"
_GONE = -1


@dataclass(frozen=True)
class ImpressionsConfig:
    """Of `OpenImpressions`.

    Raises:
        SettingsError: a value cannot be used.
    """

    opens: tuple[tuple[str, tuple[str, ...]], ...]  # label, and the event types that are its impressions
    user_width: int  # features of a user, of an item
    item_width: int
    steps: int = 0  # 1 where `steps` is added to the examples
    upstreams: int = 1
    max_open: int = 1 << 16  # per upstream and set of such types, the latest over the oldest

    def __post_init__(self) -> None:
        for name in ("upstreams", "max_open"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"`{name}` must be positive, got {getattr(self, name)}")
        if not self.opens or not all(types for _, types in self.opens):
            raise SettingsError("`opens` must name a label, and an event type of each")

    @property
    def groups(self) -> list[tuple[frozenset[str], frozenset[str]]]:
        """(event types, labels) of the labels that share their impressions, and so a ring: none pushes out another's."""
        sets = dict.fromkeys(frozenset(types) for _, types in self.opens)
        return [(types, frozenset(label for label, own in self.opens if frozenset(own) == types)) for types in sets]

    @property
    def numbers(self) -> int:
        """Of an impression."""
        return self.user_width + self.item_width + self.steps

    @property
    def identity(self) -> dict[str, Any]:
        """As a snapshot gives it back, so that stored and own settings compare."""
        settings: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asdict(self)))
        return settings


class Ring(NamedTuple):
    """The last impressions of one upstream."""

    ordinal: np.ndarray  # int64 [rows], rising but for the place where the newest meets the oldest
    numbers: np.ndarray  # float32 [rows, numbers]
    categories: np.ndarray  # int64 [rows, categories]
    dirty: np.ndarray  # bool [chunks], changed since the last snapshot
    opened: np.ndarray  # int64 [1], impressions so far


class Found(NamedTuple):
    """Of m label rows: what was kept of their impressions."""

    there: np.ndarray  # bool [m]
    numbers: np.ndarray  # float32 [m, numbers]
    categories: np.ndarray  # int64 [m, categories]


@compiled
def place_of(ring: Ring, size: int, ordinal: int) -> int:
    """The row of the impression of that ordinal, _GONE where it is not, or no longer, there. O(log size)."""
    opened = ring.opened[0]
    low, high = max(0, opened - size), opened
    while low < high:
        middle = (low + high) >> 1
        if ring.ordinal[middle % size] < ordinal:
            low = middle + 1
        else:
            high = middle
    return low % size if low < opened and ring.ordinal[low % size] == ordinal else _GONE


@compiled
def keep(ring: Ring, size: int, ordinal: int, user: np.ndarray, item: np.ndarray, categories: np.ndarray) -> None:
    """Put an impression over the oldest one."""
    row = ring.opened[0] % size
    ring.opened[0] += 1
    ring.ordinal[row], ring.categories[row] = ordinal, categories
    ring.numbers[row, : user.shape[0]], ring.numbers[row, user.shape[0] :] = user, item
    ring.dirty[row >> CHUNK_BITS] = True


@compiled
def follow(
    ring: Ring,
    size: int,
    at: np.ndarray,
    label: np.ndarray,
    ordinal: np.ndarray,
    user: np.ndarray,
    item: np.ndarray,
    categories: np.ndarray,
    into: Found,
) -> None:
    """Impressions and labels of one upstream, in order.

    Args:
        at: int64 [k], their rows among the n of the batch.
        label: int64 [n], place in `into` of a label row, -1 of an impression.
        ordinal: int64 [n].
        user, item: float32 [n, ...], features before each row.
        categories: int64 [n, categories].
    """
    for k in range(at.shape[0]):
        i = at[k]
        if label[i] < 0:
            keep(ring, size, ordinal[i], user[i], item[i], categories[i])
            continue
        row = place_of(ring, size, ordinal[i])
        if row != _GONE:
            into.there[label[i]] = True
            into.numbers[label[i]], into.categories[label[i]] = ring.numbers[row], ring.categories[row]


class OpenImpressions(Silent):
    """Gives every label row the features of its impression.

    In: `examples`, with `item_features`. Adds, of the m label rows whose impression is known, `label_at` int64 [m], their places;
    `label_numbers` float32 [m, user and item features]; `label_categories` int64 [m, 2], hashes of the two ids.
    State: the last `max_open` impressions of every upstream, by the event types that are impressions: as far back as its join of labels
    remembers.
    """

    name = "impressions"

    def __init__(self, config: ImpressionsConfig) -> None:
        self.config = config
        self.missing = 0  # label rows whose impression is gone
        self._groups = config.groups
        self._rings = [[_UpstreamRing(config) for _ in range(config.upstreams)] for _ in self._groups]

    def learn_many(self, examples: Examples) -> None:
        """Keep impressions and look up those of labels, in order."""
        kind = examples.numbers("kind")
        labels = np.flatnonzero(kind == LABEL)
        found = self._found(labels.size)
        events = (kind == EVENT) & examples.there("item_id")
        for group in range(len(self._groups)):
            self._follow(examples, group, labels, np.flatnonzero(events & self._opening(examples, group)), found)
        self.missing += int(labels.size - np.count_nonzero(found.there))
        columns = {"label_at": labels, "label_numbers": found.numbers, "label_categories": found.categories}
        examples.columns.update({name: column[found.there] for name, column in columns.items()})

    def _opening(self, examples: Examples, group: int) -> np.ndarray:
        """bool [n]: rows of a type that is an impression of the group's labels."""
        types, _ = self._groups[group]
        return examples.derived(f"impressions.opening.{group}", "type", lambda told: np.isin(np.array(told, dtype=object), list(types)))

    def _found(self, labels: int) -> Found:
        numbers = np.zeros((labels, self.config.numbers), dtype=np.float32)
        return Found(np.zeros(labels, dtype=np.bool_), numbers, np.zeros((labels, len(CATEGORIES)), dtype=np.int64))

    def _follow(self, examples: Examples, group: int, labels: np.ndarray, opens: np.ndarray, found: Found) -> None:
        """The labels of one group and its impressions, int64 [..] rows; fills `found` of all labels."""
        n, upstream, names = len(examples), examples.numbers("upstream"), examples.texts("label") if labels.size else []
        own = np.array([names[at] in self._groups[group][1] for at in labels.tolist()], dtype=np.bool_)
        rows = np.sort(np.concatenate([labels[own], opens]))
        if not rows.size:
            return
        label = np.full(n, -1, dtype=np.int64)
        label[labels] = np.arange(labels.size)
        categories, item = self._categories(examples, opens), self._of_item(examples)
        for index in np.unique(upstream[rows]).tolist():
            follow(
                self._rings[group][index].ring, self.config.max_open, rows[upstream[rows] == index], label, examples.numbers("ordinal"),
                examples.numbers(USER), item, categories, found,
            )  # fmt: skip

    def _categories(self, examples: Examples, opens: np.ndarray) -> np.ndarray:
        """int64 [n, categories]: hashes of the ids of impressions, zeros elsewhere."""
        categories = np.zeros((len(examples), len(CATEGORIES)), dtype=np.int64)
        for column, name in enumerate(CATEGORIES):
            texts = examples.texts(name)
            categories[opens, column] = fingerprints(texts[i] for i in opens.tolist()).view(np.int64)[:, 0]
        return categories

    def _of_item(self, examples: Examples) -> np.ndarray:
        """float32 [n, ...]: features of the item, and of the step to it."""
        item = examples.columns["item_features"]
        return np.column_stack([item, examples.columns["steps"]]) if self.config.steps else item

    @property
    def kept(self) -> int:
        """Impressions held."""
        return sum(ring.used for ring in self._all)

    @property
    def _all(self) -> list["_UpstreamRing"]:
        return [ring for group in self._rings for ring in group]

    def snapshot(self, into: Snapshot) -> None:
        """The chunks of impressions (linked where unchanged), and the counts as JSON."""
        opened = [int(ring.ring.opened[0]) for ring in self._all]
        into.write(_STATE, msgspec.json.encode({"identity": self.config.identity, "opened": opened, "missing": self.missing}))
        for index, ring in enumerate(self._all):
            ring.rows.snapshot(into.within(str(index)), ring.used)

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under other settings.
        """
        state = msgspec.json.decode((directory / _STATE).read_bytes())
        check_identity(state["identity"], self.config.identity)
        self.missing = state["missing"]
        for index, (ring, opened) in enumerate(zip(self._all, state["opened"], strict=True)):
            ring.rows.restore(directory / str(index))
            ring.ring.opened[0] = opened

    def digest(self) -> str:
        return hashlib.sha256(" ".join([str(self.missing), *(ring.digest() for ring in self._all)]).encode()).hexdigest()


class _UpstreamRing:
    """The ring of one upstream. State: its rows and how many there have been."""

    def __init__(self, config: ImpressionsConfig) -> None:
        self._size = config.max_open
        fields = {"ordinal": ("<i8", ()), "numbers": ("<f4", (config.numbers,)), "categories": ("<i8", (len(CATEGORIES),))}
        self.rows = Rows(-(-config.max_open // CHUNK_ROWS) * CHUNK_ROWS, fields)
        self.ring = Ring(**self.rows.arrays, dirty=self.rows.dirty, opened=np.zeros(1, dtype=np.int64))

    @property
    def used(self) -> int:
        return min(int(self.ring.opened[0]), self._size)

    def digest(self) -> str:
        return f"{self.ring.opened[0]} {self.rows.digest(np.arange(self.used))}"
