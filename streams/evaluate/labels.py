"""Labels judged as they are revealed: each impression is predicted when it is shown, and learned when its labels are known."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl

from core.contender import Impression, LabelModel, Run
from core.snapshot import Snapshot
from evaluation.join import Label, LabelJoin, Revealed
from evaluation.slices import SLICES
from streams.evaluate.numbers import Events
from streams.evaluate.saved import from_npz, to_npz

READ_OF_ENTRIES = ("author", "categories")
_STATE = "labels.msgpack"


class Labels(NamedTuple):
    """What is predicted of the events of one type."""

    impression: str
    labels: tuple[Label, ...]


class LabelJudge:
    """In: events with SUPA's scores of their pairs. Out: rows of labels with a probability by each model.

    State: the join with its open impressions and their predictions, the catalogue, the models.
    """

    def __init__(self, told: Labels, models: Sequence[LabelModel]) -> None:
        self.impression, self.models, self._join = told.impression, tuple(models), LabelJoin(told.labels)
        self._catalogue: dict[str, dict[str, Any]] = {}

    @property
    def outcomes(self) -> dict[str, dict[str, int]]:
        """Label -> how many events and impressions ended how; `open`: not known at the end."""
        return {label: {**counts, "open": self._join.open[label]} for label, counts in self._join.outcomes.items()}

    def take(self, events: Events, run: Run, slices: np.ndarray, scores: Sequence[float | None]) -> pl.DataFrame:
        """The labels that these events reveal.

        Args:
            slices: bool [4, n], of the events.
            scores: [n], SUPA's score of the pair before each.
        """
        columns: dict[str, list[Any]] = {name: [] for name in self.schema}
        if not self._join.labels:
            return pl.DataFrame(columns, schema=self.schema)
        for revealed in self._walk(events, run, slices, scores):
            shown, of_user, predicted = Impression(*revealed.shown[0]), revealed.shown[1], revealed.shown[2]
            row = (shown.position, shown.ts_ms, *of_user, revealed.label, revealed.y, revealed.revealed_ms)
            told = [predicted[model.name].get(revealed.label, np.nan) for model in self.models]
            for column, value in zip(columns.values(), [*row, *told], strict=True):
                column.append(value)
            for model in self.models:
                model.learn(shown, revealed.label, revealed.y)
        return pl.DataFrame(columns, schema=self.schema)

    def uncensored(self, found: pl.DataFrame) -> pl.DataFrame:
        """Without impressions whose horizon reaches to the end of the log or beyond it: of those only the positive labels are known."""
        if found.is_empty():
            return found
        horizon = {label.name: label.horizon_ms for label in self._join.labels}
        ends_ms = pl.col("ts_ms") + pl.col("label").replace_strict(horizon, return_dtype=pl.Int64)
        return found.filter(ends_ms < self._join.now_ms)

    @property
    def schema(self) -> dict[str, Any]:
        base = {"position": pl.Int64, "ts_ms": pl.Int64, "user": pl.Int32, "item": pl.Int32, **dict.fromkeys(SLICES, pl.Boolean)}
        return {**base, "label": pl.String, "y": pl.UInt8, "revealed_ms": pl.Int64, **{model.name: pl.Float32 for model in self.models}}

    def _walk(self, events: Events, run: Run, slices: np.ndarray, scores: Sequence[float | None]) -> Iterator[Revealed]:
        of_user = list(zip(run.user.tolist(), run.item.tolist(), *slices.tolist(), strict=True))
        catalogue = deque(events.catalogue)
        texts = zip(events.texts("context"), events.texts("request_id"), strict=True) if of_user else ()
        columns = (events.types, events.user_ids, events.item_ids, run.ts_ms.tolist(), texts)
        for i, (type_, user_id, item_id, ts_ms, (context, request_id)) in enumerate(zip(*columns, strict=True)):
            while catalogue and catalogue[0][0] <= i:
                self._set_entry(*catalogue.popleft()[1:])
            yield from self._join.advance(ts_ms)
            if type_ == self.impression:
                held = self._catalogue.get(item_id, {})
                shown = Impression(int(run.position[i]), ts_ms, user_id, item_id, _plain(context), held, scores[i])
                predicted = {model.name: model.predict(shown) for model in self.models}
                self._join.shown(user_id, item_id, request_id, ts_ms, (list(shown), of_user[i], predicted))
            else:
                yield from self._join.event(type_, user_id, item_id, request_id, ts_ms)
        for _, item_id, entry in catalogue:
            self._set_entry(item_id, entry)

    def _set_entry(self, item_id: str, entry: str | None) -> None:
        if entry is None:
            self._catalogue.pop(item_id, None)
        else:
            told = msgspec.json.decode(entry)
            self._catalogue[item_id] = {name: told[name] for name in READ_OF_ENTRIES if name in told}

    def snapshot(self, into: Snapshot) -> None:
        into.write(_STATE, msgspec.msgpack.encode({"join": self._join.state(), "catalogue": self._catalogue}))
        for model in self.models:
            into.write(f"{model.name}.npz", to_npz(model.save()))

    def restore(self, directory: Path) -> None:
        state = msgspec.msgpack.decode((directory / _STATE).read_bytes())
        self._join.restore(state["join"])
        self._catalogue = state["catalogue"]
        for model in self.models:
            model.load(from_npz(directory / f"{model.name}.npz"))


def _plain(text: str | None) -> dict[str, str | int]:
    """Words and whole numbers of a JSON object, {} where it is none. Open impressions keep them, in a format of 64-bit numbers."""
    told = msgspec.json.decode(text) if text else None
    plain = {name: value for name, value in told.items() if isinstance(value, (str, int))} if isinstance(told, dict) else {}
    return {name: value if isinstance(value, str) or abs(value) < 1 << 63 else str(value) for name, value in plain.items()}
