"""The learner of late labels: arrays outside, one kernel call inside."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from core.errors import SnapshotError
from core.labels import KINDS, POLICIES
from core.rows import Rows
from core.snapshot import Snapshot, check_identity
from learners.labels import kernel
from learners.labels.config import LogisticConfig
from learners.labels.kernel import EVERY, HEADS, LOSS, MAIN, OBSERVED, PREDICTED, Totals, Weights

_STATE, _ROWS = "labels.json", "weights"
_FIELDS = {"weight": ("<f8", (HEADS,)), "squares": ("<f8", (HEADS,))}


class OnlineLogistic:
    """An online logistic regression for each label, which learns from label rows in the order of their log.

    In: label rows, with the features of their example. Out: probabilities.
    State: three weights and three sums of squares for each coordinate of each label; totals.
    """

    def __init__(self, config: LogisticConfig) -> None:
        self.config = config
        self._rule = config.rule()
        self.rows = Rows(config.rows, _FIELDS)
        self._weights = Weights(self.rows["weight"], self.rows["squares"], self.rows.dirty)
        labels = len(config.labels)
        self.totals = Totals(
            np.zeros((labels, len(KINDS)), np.int64), np.zeros(labels, np.int64), np.zeros(labels, np.int64), np.zeros((labels, 4))
        )

    def learn_many(self, label: np.ndarray, policy: np.ndarray, kind: np.ndarray, categorical: np.ndarray, numeric: np.ndarray) -> None:
        """Learn n rows, in order.

        Args:
            label: int64 [n], index into the settings' labels.
            policy, kind: int64 [n], indices into POLICIES and KINDS.
            categorical: int64 [n, k], buckets, ABSENT where the example lacks the feature.
            numeric: float32 [n, numerics]. A row with a number that is not finite is counted and teaches nothing.

        Raises:
            ValueError: an index is out of its range, or shapes differ.
        """
        if not label.shape == policy.shape == kind.shape == (len(label),):
            raise ValueError(f"rows need a label, policy and kind each, got {label.shape}, {policy.shape} and {kind.shape}")
        self._check(categorical, numeric, len(label))
        _check_range("label", label, 0, len(self.config.labels))
        _check_range("policy", policy, 0, len(POLICIES))
        _check_range("kind", kind, 0, len(KINDS))
        kernel.learn_rows(self._weights, self._rule, self.totals, label, policy, kind, categorical, numeric)

    def predict(self, label: int, policy: int, categorical: np.ndarray, numeric: np.ndarray) -> np.ndarray:
        """float64 [n]: probability of the label for each example; NaN where a number told of it is not finite."""
        return self.predict_heads(label, policy, categorical, numeric)[:, MAIN]

    def predict_heads(self, label: int, policy: int, categorical: np.ndarray, numeric: np.ndarray) -> np.ndarray:
        """float64 [n, 3]: probability of the label, p_dp, p_rn.

        Raises:
            ValueError: an index is out of its range, or shapes differ.
        """
        self._check(categorical, numeric, len(categorical))
        _check_range("label", np.array([label]), 0, len(self.config.labels))
        _check_range("policy", np.array([policy]), 0, len(POLICIES))
        out = np.empty((len(categorical), HEADS))
        kernel.predict_rows(self._weights, self._rule, label, policy, categorical, numeric, out)
        return out

    def means(self, label: int) -> dict[str, float]:
        """Decayed means over the clicks of a label: log loss, predicted and observed rate; NaN before the first."""
        sums = self.totals.sums[label]
        every = sums[EVERY] or np.nan
        return {"log_loss": sums[LOSS] / every, "predicted_rate": sums[PREDICTED] / every, "observed_rate": sums[OBSERVED] / every}

    def _check(self, categorical: np.ndarray, numeric: np.ndarray, n: int) -> None:
        if categorical.ndim != 2 or len(categorical) != n or numeric.shape != (n, self.config.numerics):
            raise ValueError(f"{n} rows need buckets and {self.config.numerics} numbers each, got {categorical.shape} and {numeric.shape}")
        _check_range("categorical", categorical, -1, self.config.buckets)

    def snapshot(self, into: Snapshot) -> None:
        """The totals as JSON, the chunks of weights (linked where unchanged)."""
        totals = {name: array.tolist() for name, array in self.totals._asdict().items()}
        into.write(_STATE, msgspec.json.encode({"identity": self.config.identity, "totals": totals}))
        self.rows.snapshot(into.within(_ROWS), self.config.rows)

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under other settings, or is of another version.
        """
        state = msgspec.json.decode((directory / _STATE).read_bytes())
        check_identity(state["identity"], self.config.identity)
        for name, array in self.totals._asdict().items():
            if np.shape(state["totals"][name]) != array.shape:
                raise SnapshotError(f"the checkpoint has other totals: `{name}`")
            array[:] = state["totals"][name]
        self.rows.restore(directory / _ROWS)

    def digest(self) -> str:
        """A hash of the weights and totals."""
        state = hashlib.sha256()
        for array in (*self.totals, *self.rows.arrays.values()):
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()


def _check_range(name: str, values: np.ndarray, least: int, below: int) -> None:
    """Compiled code does not look: an index out of range would read and write elsewhere."""
    if values.size and not (least <= values.min() and values.max() < below):
        raise ValueError(f"`{name}` must be in {least}..{below - 1}, got {values.min()}..{values.max()}")
