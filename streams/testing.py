"""The replay host as a test feeds it: a call at a time, as ingest is fed, with ticks, and with all that came of it at hand.

What users see of it is `freshet.testing`.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from core.composite import CompositeStage
from core.position import Record
from core.schemas import TICK, examples_schema, user_columns
from core.snapshot import Snapshot
from streams import pipeline
from streams.decode import DeadLetter, Headers, RawMessage
from streams.producing import Message
from streams.replay import LocalPipeline
from streams.settings import Settings


class HandFed(LocalPipeline):
    """Learns and publishes within each call. Kafka timestamps and headers count, as they do live.

    State: beside the replay host's, the rows that the learners got.
    """

    def __init__(self, s: Settings, work_dir: Path, parts: Sequence[str] = pipeline.PARTS) -> None:
        super().__init__(s, work_dir, parts)
        self._learned: list[pl.DataFrame] = []

    def take(self, messages: Sequence[Message], sent_ms: int, catalogue: bool = False, headers: Headers = ()) -> list[DeadLetter]:
        """Learn messages that have one Kafka timestamp, and headers, in common; those that were refused."""
        records, dead = self._records(messages, sent_ms, catalogue, headers)
        self._learn(records)
        return dead

    def _records(
        self, messages: Sequence[Message], sent_ms: int, catalogue: bool = False, headers: Headers = ()
    ) -> tuple[list[Record], list[DeadLetter]]:
        first = self.front.next_offset(catalogue)
        raw = [RawMessage(key, value, headers, sent_ms, offset) for offset, (key, value) in enumerate(messages, first)]
        return self.front.take(raw, catalogue)

    def tick(self, ms: int) -> None:
        """Tell every partition the time."""
        self._learn(self.front.tick(ms))

    def _learn(self, records: Sequence[Record]) -> None:
        self._learned += [record.rows for record in records]
        super()._learn(records)

    @property
    def examples(self) -> pl.DataFrame:
        """Every row that the learners got, ticks left out; the user columns are null on catalogue rows."""
        nothing = examples_schema(pipeline.user_config(self.s, 0).columns).to_frame()
        return pl.concat([nothing, *self._learned], how="diagonal").filter(pl.col("kind") != TICK)

    @property
    def outcomes(self) -> dict[str, int]:
        """What the feature stages decided, all partitions together."""
        return self.front.outcomes

    def copy(self, directory: Path, parts: Sequence[str] = pipeline.PARTS) -> "HandFed":
        """Another one in this one's state, by a snapshot and a restore; with fewer parts, if so wanted. `directory` is its own."""
        saved = directory / "saved"
        saved.mkdir(parents=True)
        into = Snapshot(saved)
        self.snapshot(into)
        into.flush()
        other = HandFed(self.s, directory / "work", parts)
        other.restore(saved)
        other._learned = [*self._learned]
        return other

    def counters(self, message: Message, sent_ms: int) -> tuple[dict[str, float], dict[str, float]]:
        """Of the user and the item of a good event: the counters just before it, by name. It is learned by half: for a copy only."""
        [rows, *_] = [record.rows for record in self._records([message], sent_ms)[0]]
        stage, items = self.learner.stage, pipeline.item_config(self.s)
        assert isinstance(stage, CompositeStage)
        examples = stage.open(rows)
        stage.parts[0].learn_many(examples)
        names = [name.replace("user_", "item_", 1) for name in user_columns(items.types, items.half_lives_seconds)]
        users = rows.select(pipeline.user_config(self.s, 0).columns).row(0, named=True)
        return users, dict(zip(names, examples.columns["item_counts"][0].tolist(), strict=True))
