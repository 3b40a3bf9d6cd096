"""The contracts: what a host may ask of a stage, and what the learner stage asks of its parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from core.frames import present
from core.hashing import fingerprints_of_some
from core.ids import RowTable
from core.schemas import ITEM
from core.snapshot import Snapshot


@dataclass(frozen=True)
class Publication:
    """Rows touched since the last one: visible in the cache all at once or not at all."""

    tables: dict[str, pl.DataFrame]  # each DELTA_BASE, then the table's own columns
    version: int  # rows of its input that the stage has applied
    clock_ms: int
    sent_ms: np.ndarray  # int64: Kafka timestamps of the events new behind this publication
    learned: int = 0  # of those rows, events and catalogue entries: what producers sent


class Stage(Protocol):
    """A deterministic function of one ordered log partition. Knows no Kafka, Faust, wall clock, thread or socket."""

    sink: bool  # gives no rows for a next log, so a host may apply consecutive records as one

    def apply(self, rows: pl.DataFrame, offset: int) -> pl.DataFrame | None:
        """Take the rows of one record, in order; return the rows for the next log (None where there is none)."""

    def publish(self) -> Publication | None:
        """Rows touched since the last call, None where there are none."""

    def touch_next(self, rows: int) -> bool:
        """Count the next `rows` rows as touched, round and round; whether that ends a round. Changes nothing else."""

    def snapshot(self, into: Snapshot) -> None:
        """The whole state as of now; files that did not change since the previous snapshot may be linked."""

    def restore(self, directory: Path) -> None:
        """Take up the state that `snapshot` wrote; called once, before any `apply`."""

    def digest(self) -> str:
        """A hash of the logical state: equal states give equal text."""

    def close(self) -> None:
        """Release files."""


class Examples:
    """A run of `examples` rows, ticks taken out. Columns are read out of the frame once, whatever the runs it is cut into.

    Attributes:
        first_ordinal: rows of the log before this run (ticks not counted); row i has ordinal first_ordinal + i.
        clock_ms: int64 [n], merged clock at each row.
        columns: what parts of the learner stage add for later ones, e.g. "item_vector" float32 [n, d].
    """

    def __init__(self, rows: pl.DataFrame, first_ordinal: int, clock_ms: np.ndarray, columns: dict[str, np.ndarray] | None = None) -> None:
        """`rows`: n rows, `examples` schema."""
        self.first_ordinal, self.clock_ms = first_ordinal, clock_ms
        self.columns = {} if columns is None else columns
        self._frame, self._start, self._stop = rows, 0, rows.height
        self._texts: dict[str, list[Any]] = {}  # of the whole frame, shared by all parts
        self._numbers: dict[str, np.ndarray] = {}
        self._made: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._stop - self._start

    def texts(self, name: str) -> list[Any]:
        """A column of strings as a list, None where there is none."""
        if name not in self._texts:
            self._texts[name] = self._frame[name].to_list()
        return self._texts[name][self._start : self._stop]

    def numbers(self, name: str) -> np.ndarray:
        """A column without nulls as an array, [n]: not to be written."""
        if name not in self._numbers:
            column = self._frame[name].to_numpy()
            column.flags.writeable = False  # always: to a kernel, an array that may be written is of another type, and compiled anew
            self._numbers[name] = column
        return self._numbers[name][self._start : self._stop]

    def derived(self, name: str, column: str, make: Callable[[Sequence[Any]], np.ndarray]) -> np.ndarray:
        """[n]: what `make` makes of a column of strings, asked once for all rows, whatever the runs they are cut into; not to be written.

        Args:
            name: of what is made, the asker's own.
        """
        if name not in self._made:
            self.texts(column)
            made = self._made[name] = make(self._texts[column])
            made.flags.writeable = False
        return self._made[name][self._start : self._stop]

    def there(self, column: str) -> np.ndarray:
        """bool [n]: where a column of strings has one."""
        return self.derived(f"there.{column}", column, present)

    def fingerprints(self, column: str) -> np.ndarray:
        """int64 [n, 2]: the fingerprint of each string of a column, zeros where there is none."""
        return self.derived(f"fingerprints.{column}", column, fingerprints_of_some)

    def removals(self) -> list[int]:
        """Places of the rows that remove a catalogue item."""
        items = np.flatnonzero(self.numbers("kind") == ITEM).tolist()
        entries = self.texts("item") if items else []
        return [at for at in items if entries[at] is None]

    @property
    def rows(self) -> pl.DataFrame:
        """The n rows as a frame."""
        return self._frame[self._start : self._stop]

    def part(self, start: int, stop: int) -> "Examples":
        """Rows [start, stop), without `columns`."""
        own = Examples.__new__(Examples)
        own.first_ordinal, own.clock_ms, own.columns = self.first_ordinal + start, self.clock_ms[start:stop], {}
        own._frame, own._start, own._stop = self._frame, self._start + start, self._start + stop
        own._texts, own._numbers, own._made = self._texts, self._numbers, self._made
        return own


class Learner(Protocol):
    """One part of the learner stage. Parts run in a fixed order and may read what earlier ones added to `examples.columns`."""

    name: str
    publishes: bool  # whether `touched` ever tells anything

    @property
    def tables(self) -> Mapping[str, RowTable]:
        """The ids that it has rows for, by kind: "users", "items"."""

    def learn_many(self, examples: Examples) -> None:
        """Learn row by row, in order: one call with n rows equals n calls with one."""

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Called where a segment ends (every SEGMENT_ROWS rows of the log): evictions and slices of long work."""

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float32 [len(item_ids)]; NaN where nothing is known."""

    def touched(self) -> dict[str, pl.DataFrame]:
        """Tables of the rows changed since the last call (DELTA_BASE, then own columns)."""

    def touch_next(self, rows: int) -> bool:
        """As the stage's: `touched` shall tell these rows again, unchanged as they are."""

    def snapshot(self, into: Snapshot) -> None: ...

    def restore(self, directory: Path) -> None: ...

    def digest(self) -> str: ...


class Silent:
    """What a part is that only adds columns, or only measures: it has no ids, scores nothing, publishes nothing and never grows."""

    publishes = False
    tables: Mapping[str, RowTable] = {}

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Nothing to make room for."""

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float32 [len(item_ids)], NaN."""
        return np.full(len(item_ids), np.nan, dtype=np.float32)

    def touched(self) -> dict[str, pl.DataFrame]:
        return {}

    def touch_next(self, rows: int) -> bool:
        return True
