"""The replay host as a test feeds it: a call at a time, as ingest is fed, with ticks, and with all that came of it at hand.

What users see of it is `freshet.testing`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from core.composite import CompositeStage
from core.labels import KINDS, POLICIES
from core.position import Record
from core.schemas import EVENT, EXAMPLE_BASE, ITEM, LABEL, NO_LABEL, USER, examples_schema
from core.snapshot import Snapshot
from streams import pipeline
from streams.decode import DeadLetter, Headers, RawMessage
from streams.producing import Message
from streams.replay import LocalPipeline
from streams.settings import Settings

Named = dict[str, float | None]  # features by name; None: there is none yet


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
    def _rows(self) -> pl.DataFrame:
        nothing = examples_schema(len(self._user_columns)).to_frame()
        return pl.concat([nothing, *self._learned], how="diagonal")

    @property
    def _user_columns(self) -> list[str]:
        return pipeline.user_config(self.s, 0).columns

    @property
    def examples(self) -> pl.DataFrame:
        """Every event and catalogue row that the learners got; the user's features as columns by name, null on catalogue rows."""
        rows = self._rows.filter(pl.col("kind").is_in([EVENT, ITEM]))
        named = [pl.col(USER).arr.get(at, null_on_oob=True).alias(name).fill_nan(None) for at, name in enumerate(self._user_columns)]
        return rows.select(*[name for name in EXAMPLE_BASE if name not in NO_LABEL], *named)

    @property
    def labels(self) -> pl.DataFrame:
        """Every label row that the learners got."""
        names = {"policy": POLICIES, "label_kind": KINDS}
        told = [pl.col(name).replace_strict(dict(enumerate(of)), return_dtype=pl.String) for name, of in names.items()]
        rows = self._rows.filter(kind=LABEL).with_columns(*told)
        return rows.select("label", "policy", pl.col("label_kind").alias("kind"), "value", "ordinal", "upstream", "ts_ms", "delay_ms")

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

    def features(self, message: Message, sent_ms: int) -> tuple[Named, Named]:
        """Of the user and the item of a good event: the features just before it. It is learned by half: for a copy only."""
        [rows, *_] = [record.rows for record in self._records([message], sent_ms)[0]]
        stage, items = self.learner.stage, pipeline.item_config(self.s)
        assert isinstance(stage, CompositeStage)
        examples = stage.open(rows)
        stage.parts[0].learn_many(examples)
        at = int(np.flatnonzero(examples.numbers("kind") == EVENT)[-1])  # labels that it makes due stand before and behind it
        users, item = examples.rows[USER][at].to_numpy(), examples.columns["item_features"][at]
        return _named(self._user_columns, users), _named(items.columns, item)


def _named(columns: Sequence[str], values: np.ndarray) -> Named:
    return {name: None if np.isnan(value) else value for name, value in zip(columns, values.tolist(), strict=True)}
