"""The learner stage: parts that read each other, in one fixed order, over one log."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.clock import MergedClock
from core.errors import SnapshotError
from core.frames import pick
from core.ids import SEGMENT_ROWS
from core.position import REBUILD
from core.schemas import EVENT, LABEL, TICK
from core.snapshot import Snapshot
from core.stage import Examples, Learner, Publication


class CompositeStage:
    """Runs its parts over `examples`, cut at fixed positions of the log.

    In: `examples` rows. Out: nothing downstream; publications of touched rows. State: the merged clock, the ordinal, the parts'.
    """

    sink = True

    def __init__(self, parts: Sequence[Learner], upstreams: int) -> None:
        self.parts = tuple(parts)
        self.clock = MergedClock(upstreams)
        self.ordinal = 0  # rows learned
        self.learned = 0  # of these, events and catalogue entries, labels left out
        self._sent_ms: list[np.ndarray] = []
        self._turn = 0  # of the parts that publish: the one whose rows are published once more

    @property
    def _names(self) -> list[str]:
        return [part.name for part in self.parts]

    def apply(self, rows: pl.DataFrame, offset: int) -> None:
        """Learn the rows of one record. `offset` is not needed: ordinals count rows, not records."""
        self._sent_ms.append(rows["sent_ms"].to_numpy()[rows["kind"].to_numpy() == EVENT])
        self.learn(self.open(rows))

    def open(self, rows: pl.DataFrame) -> Examples:
        """The rows as examples, to be learned by `learn` in parts of any size, before the next ones are opened."""
        clock_ms = self.clock.advance(rows["upstream"].to_numpy(), rows["clock_ms"].to_numpy())
        kept = rows["kind"].to_numpy() != TICK
        return Examples(pick(rows, kept), self.ordinal, clock_ms[kept])

    def learn(self, examples: Examples) -> None:
        """The next examples, by every part in turn, cut where segments end."""
        start = 0
        while start < len(examples):
            stop = min(len(examples), start + SEGMENT_ROWS - self.ordinal % SEGMENT_ROWS)
            self._learn(examples.part(start, stop))
            start = stop

    def _learn(self, examples: Examples) -> None:
        for part in self.parts:
            part.learn_many(examples)
        self.ordinal += len(examples)
        self.learned += int(np.count_nonzero(examples.numbers("kind") != LABEL))
        if self.ordinal % SEGMENT_ROWS == 0:
            for part in self.parts:
                part.maintain(self.ordinal, int(examples.clock_ms[-1]))

    def publish(self) -> Publication | None:
        tables = {name: rows for part in self.parts for name, rows in part.touched().items() if rows.height}
        sent_ms = np.concatenate(self._sent_ms) if self._sent_ms else np.empty(0, dtype=np.int64)
        self._sent_ms.clear()
        if not tables and not sent_ms.size:
            return None
        return Publication(tables, self.ordinal, self.clock.ms, sent_ms, self.learned)

    def touch_next(self, rows: int) -> bool:
        """The parts that publish take turns, a round of each."""
        turns = [part for part in self.parts if part.publishes]
        if turns[self._turn].touch_next(rows):
            self._turn = (self._turn + 1) % len(turns)
            return self._turn == 0
        return False

    def snapshot(self, into: Snapshot) -> None:
        state = {
            "ordinal": self.ordinal,
            "learned": self.learned,
            "clock": self.clock.to_json().decode(),
            "turn": self._turn,
            "parts": self._names,
        }
        into.write("composite.json", msgspec.json.encode(state))
        for part in self.parts:
            part.snapshot(into.within(part.name))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot, which may be of more parts.

        Raises:
            SnapshotError: it lacks a part, or one was made under other settings.
        """
        state = msgspec.json.decode((directory / "composite.json").read_bytes())
        if missing := [name for name in self._names if name not in state.get("parts", ())]:
            raise SnapshotError(f"the checkpoint has nothing for {', '.join(missing)}: it was made by other settings; {REBUILD}")
        self.ordinal, self.clock, self._turn = state["ordinal"], MergedClock.from_json(state["clock"].encode()), state["turn"]
        self.learned = state["learned"]
        for part in self.parts:
            part.restore(directory / part.name)

    def digest(self) -> str:
        own = f"{self.ordinal} {self.learned} {self.clock.to_json().decode()}"
        text = "\n".join([own, *(f"{part.name} {part.digest()}" for part in self.parts)])
        return hashlib.sha256(text.encode()).hexdigest()

    def close(self) -> None:
        """Nothing is held open."""
