"""The part of the learner stage that learns labels: from label rows of `examples`, with the features of their impressions."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from core.snapshot import Snapshot
from core.stage import Examples, Silent
from learners.labels.buckets import ABSENT
from learners.labels.config import LogisticConfig
from learners.labels.model import OnlineLogistic

_STATE, _MODEL = "learner.json", "model"
_FIELD_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: equal hashes of two fields fall into two buckets


class LabelLearner(Silent):
    """An online logistic regression per label, on what was known at the impression.

    In: `examples` with `label_at`, `label_numbers` and `label_categories`; numbers count as log(1 + x), negative ones and NaN as 0.
    Gives no scores and publishes nothing: what it is worth is in its running loss and rates, see `OnlineLogistic.means`.
    State: the model's; label rows of names that the settings do not have.
    """

    name = "labels"

    def __init__(self, config: LogisticConfig) -> None:
        self.config = config
        self.model = OnlineLogistic(config)
        self.unknown = 0
        self._index = {name: index for index, name in enumerate(config.labels)}

    def learn_many(self, examples: Examples) -> None:
        """Learn label rows, in order."""
        at = examples.columns["label_at"]
        if not at.size:
            return
        names = examples.texts("label")
        label = np.fromiter((self._index.get(names[i], -1) for i in at.tolist()), np.int64, at.size)
        known = label >= 0
        self.unknown += int(at.size - np.count_nonzero(known))
        policy, kind = (examples.numbers(name)[at[known]].astype(np.int64) for name in ("policy", "label_kind"))
        numbers = np.log1p(np.fmax(examples.columns["label_numbers"][known], 0))
        self.model.learn_many(label[known], policy, kind, self._buckets(examples.columns["label_categories"][known]), numbers)

    def _buckets(self, hashes: np.ndarray) -> np.ndarray:
        """int64 [m, fields]: a bucket per hash, ABSENT where that is 0."""
        fields = np.arange(1, hashes.shape[1] + 1, dtype=np.uint64) * _FIELD_FACTOR
        mixed = (hashes.view(np.uint64) ^ (fields + np.uint64(self.config.seed))) & np.uint64(self.config.buckets - 1)
        return np.where(hashes == 0, ABSENT, mixed.astype(np.int64))

    def snapshot(self, into: Snapshot) -> None:
        into.write(_STATE, msgspec.json.encode({"unknown": self.unknown}))
        self.model.snapshot(into.within(_MODEL))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under other settings.
        """
        self.unknown = msgspec.json.decode((directory / _STATE).read_bytes())["unknown"]
        self.model.restore(directory / _MODEL)

    def digest(self) -> str:
        return hashlib.sha256(f"{self.unknown} {self.model.digest()}".encode()).hexdigest()
