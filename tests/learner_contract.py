"""What the contract checks of learners share: a log that has every kind of row, a learner driven along it, and what learners there are."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from core.ids import SEGMENT_ROWS
from core.labels import KINDS, POLICIES
from core.schemas import DELTA_BASE, EVENT, EXAMPLE_BASE, ITEM, LABEL, NO_LABEL, encode
from core.stage import Examples, Learner

Factory = Callable[[int], Learner]  # of a seed
Row = dict[str, Any]
Tables = dict[str, pl.DataFrame]  # as `touched` tells them
Key = tuple[str, str]  # table, id

START_MS = 1_700_000_000_000
BEHAVIOUR, NUMBERS = 6, 3  # widths of `item_vector` and `label_numbers`
DIRECTIONS = 60  # items whose numbers differ by a multiple of it have vectors of one direction
USERS, ITEMS = [f"u{n}" for n in range(40)], [f"i{n}" for n in range(DIRECTIONS)]
TYPES = ("click", "click", "like", "purchase", "impression", "hate", "view", "exit")
LABELS = ("click", "buy")
MOST_CALLS = 10_000  # of `touch_next` in a round of these tests' few rows
METHODS = [name for name in vars(Learner) if not name.startswith("_")]


# ---- which learners there are


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    """All modules below a package."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def is_learner(member: object, module: str) -> bool:
    """Whether it is a class, written in this module, that has all methods of the protocol; `name` may come with an instance."""
    if not inspect.isclass(member) or member.__module__ != module or inspect.isabstract(member) or getattr(member, "_is_protocol", False):
        return False
    return all(hasattr(member, name) for name in METHODS)


def learners_of(package: ModuleType) -> list[str]:
    """The names of their classes."""
    classes = {member for module in modules_of(package) for member in vars(module).values() if is_learner(member, module.__name__)}
    return sorted(member.__name__ for member in classes)


# ---- logs


class Log(NamedTuple):
    """Rows of `examples`, and what earlier parts of the stage would leave in `examples.columns`.

    Randomness comes with the place of a row alone: logs of equal length differ only where their rows do.
    """

    rows: pl.DataFrame
    clock_ms: np.ndarray  # int64 [n]
    item_vector: np.ndarray  # float32 [n, BEHAVIOUR]
    label_at: np.ndarray  # int64 [m], places of the label rows whose impression is known
    label_numbers: np.ndarray  # float32 [m, NUMBERS]
    label_categories: np.ndarray  # int64 [m, 2]

    def columns_of(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Of rows [start, stop): views, so that whoever writes to them is found out."""
        labels = slice(*np.searchsorted(self.label_at, [start, stop]).tolist())
        of_labels = {"label_numbers": self.label_numbers[labels], "label_categories": self.label_categories[labels]}
        return {"item_vector": self.item_vector[start:stop], "label_at": self.label_at[labels] - start, **of_labels}

    def contents(self) -> list[bytes]:
        """To compare with those of another time."""
        return [encode(self.rows), *(array.tobytes() for array in self[1:])]


def event(user: str, item: str, type_: str = "click", late_ms: int = 0) -> Row:
    """`late_ms`: from the event to its place in the log."""
    return {"kind": EVENT, "type": type_, "user_id": user, "item_id": item, "late_ms": late_ms}


def describe(item: str, text: str) -> Row:
    return {"kind": ITEM, "upstream": -1, "item_id": item, "item": f'{{"text": "{text}"}}'}


def remove(item: str) -> Row:
    return {"kind": ITEM, "upstream": -1, "item_id": item}


def label(name: str, policy: int, kind: int) -> Row:
    return {"kind": LABEL, "label": name, "policy": policy, "label_kind": kind, "delay_ms": 1000}


def log_of(rows: Sequence[Row], seed: int = 0) -> Log:
    """These rows, a second apart."""
    random, n = np.random.default_rng(seed), len(rows)
    clock_ms = START_MS + 1000 * np.arange(n)
    directions, noise = np.random.default_rng(1).normal(size=(DIRECTIONS, BEHAVIOUR)), 0.4 * random.normal(size=(n, BEHAVIOUR))
    vectors = np.array([_direction(row, directions) for row in rows]).reshape(n, BEHAVIOUR)
    item_vector = np.where(vectors.any(axis=1, keepdims=True), vectors + noise, 0).astype(np.float32)
    at = np.array([k for k, row in enumerate(rows) if row["kind"] == LABEL and k % 5], dtype=np.int64)
    numbers = random.normal(0, 2, (n, NUMBERS)).astype(np.float32)
    numbers[random.random(numbers.shape) < 0.05] = np.nan
    categories = random.integers(0, 9, (n, 2)) << 32  # 0: the impression lacks it
    return Log(_frame(rows, clock_ms), clock_ms, item_vector, at, numbers[at], categories[at])


def _direction(row: Row, directions: np.ndarray) -> np.ndarray:
    """float64 [BEHAVIOUR]; zeros where there is no item."""
    known = row["kind"] == EVENT or "item" in row
    return np.asarray(directions[int(row["item_id"][1:]) % DIRECTIONS]) if known else np.zeros(BEHAVIOUR)


def _frame(rows: Sequence[Row], clock_ms: np.ndarray) -> pl.DataFrame:
    blank = {"source": 0, "offset": 0, "row": 0, "upstream": 0, "ordinal": 0, **NO_LABEL}
    told = []
    for row, now_ms in zip(rows, clock_ms.tolist(), strict=True):
        ts_ms = 0 if row["kind"] == ITEM else now_ms - row.get("late_ms", 0)
        told.append({**blank, **row, "clock_ms": now_ms, "sent_ms": now_ms, "ts_ms": ts_ms})
    return pl.DataFrame([{name: row.get(name) for name in EXAMPLE_BASE} for row in told], schema=EXAMPLE_BASE)


def mixed_rows(count: int, seed: int = 0) -> list[Row]:
    """Events, some of them late, of users and items of which low numbers are met often; a catalogue that comes and goes; labels."""
    random, rows = np.random.default_rng(seed), list[Row]()
    for _ in range(count):
        user, item = f"u{int(40 * random.random() ** 2)}", f"i{int(DIRECTIONS * random.random() ** 2)}"
        made = {
            "event": event(user, item, str(random.choice(TYPES)), 60_000 * int(random.random() < 0.1)),
            "describe": describe(item, f"w{random.integers(9)} w{random.integers(9)}"),
            "remove": remove(item),
            "label": label(str(random.choice([*LABELS, "unheard"])), int(random.integers(len(POLICIES))), int(random.integers(len(KINDS)))),
        }
        rows.append(made[str(random.choice(list(made), p=[0.77, 0.08, 0.03, 0.12]))])
    return rows


def endless_rows(count: int) -> list[Row]:
    """A user and an item that nobody met before in nearly every row."""
    rows = [event(f"u{100_000 + n}", f"i{100_000 + n}") for n in range(count)]
    rows[3::9] = [describe(row["item_id"], "new") for row in rows[3::9]]
    rows[5::9] = [label(LABELS[0], n % len(POLICIES), n % len(KINDS)) for n in range(len(rows[5::9]))]
    rows[7::9] = [remove(f"i{100_000 + at - 40}") for at in range(7, count, 9)]
    return rows


# ---- learners at work


class Told(NamedTuple):
    """A row of a publication."""

    version: int
    event_ms: int
    removed: bool
    own: tuple[Any, ...]  # the table's columns after DELTA_BASE


def rows_of(tables: Tables) -> list[tuple[Key, Told]]:
    """What `touched` told, row by row."""
    out = []
    for table, frame in tables.items():
        assert list(frame.schema.items())[: len(DELTA_BASE)] == list(DELTA_BASE.items()), f"`{table}` must start with DELTA_BASE"
        out += [((table, id_), Told(version, event_ms, removed, tuple(own))) for id_, version, event_ms, removed, *own in frame.rows()]
    return out


def apply(told: Iterable[tuple[Key, Told]], held: dict[Key, Told]) -> None:
    """As a cache does."""
    for key, row in told:
        if row.removed:
            held.pop(key, None)
        else:
            held[key] = row


class Run:
    """A learner that is driven along a log as the learner stage drives it: cut where segments end, and maintained there.

    Attributes:
        ordinal: rows learned.
        opened: the rows of the last call of `learn`.
        written: per call of `learn_many`, the columns that the learner left.
    """

    def __init__(self, learner: Learner, log: Log) -> None:
        self.learner, self.log, self.ordinal = learner, log, 0
        self.opened = Examples(log.rows, 0, log.clock_ms)
        self.written: list[dict[str, np.ndarray]] = []

    def learn(self, stop: int | None = None) -> "Run":
        """The rows up to `stop`, or all; where there are none, a call with none."""
        start, stop = self.ordinal, self.log.rows.height if stop is None else stop
        self.opened = Examples(self.log.rows[start:stop], start, self.log.clock_ms[start:stop])
        if start == stop:
            self._learn(self.opened.part(0, 0))
        while self.ordinal < stop:
            end = min(stop, self.ordinal + SEGMENT_ROWS - self.ordinal % SEGMENT_ROWS)
            self._learn(self.opened.part(self.ordinal - start, end - start))
        return self

    def _learn(self, examples: Examples) -> None:
        given = self.log.columns_of(self.ordinal, self.ordinal + len(examples))
        examples.columns.update(given)
        self.learner.learn_many(examples)
        self.written.append({name: array for name, array in examples.columns.items() if array is not given.get(name)})
        self.ordinal += len(examples)
        if len(examples) and self.ordinal % SEGMENT_ROWS == 0:
            self.learner.maintain(self.ordinal, int(examples.clock_ms[-1]))

    def columns(self) -> dict[str, bytes]:
        """All that was written, whatever the calls."""
        joined = {name: np.concatenate([part[name] for part in self.written]) for name in self.written[0]}
        return {f"{name} {array.dtype} {array.shape}": array.tobytes() for name, array in joined.items()}

    def scores(self) -> list[bytes]:
        """Of some users, all items and one that never was."""
        return [self.learner.score(user, [*ITEMS, "i999"]).tobytes() for user in (*USERS[:5], "u999")]

    def round(self, rows: int = MOST_CALLS) -> list[tuple[Key, Told]]:
        """What a round of `touch_next` tells, so many rows at a time."""
        told = []
        for _ in range(MOST_CALLS):
            ended = self.learner.touch_next(rows)
            told += rows_of(self.learner.touched())
            if ended:
                return told
        raise AssertionError("`touch_next` ends no round")

    def served(self) -> dict[Key, Told]:
        """Every row that a cache should hold now, whatever was told before."""
        self.learner.touched()
        return dict(self.round())


def bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
