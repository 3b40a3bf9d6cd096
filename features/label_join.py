"""The streaming join of impressions and what came of them: label rows by the policies of `core.labels`, as time goes on."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from core.labels import JOIN_OUTCOMES
from core.rows import CHUNK_ROWS, Rows
from core.snapshot import Snapshot, check_identity
from features.label_config import JoinConfig, LabelConfig, Rule
from features.label_kernel import CAPPED, EXPIRED, MATCHED, NO_PLACE, NONE, OPENED, Buffer, JoinRows, Ring, Timers, join, merge, rebuild

__all__ = ["Emitted", "JoinRows", "LabelJoin"]

PART_ROWS = 4_096  # label rows that the kernel is given room for at a time
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "pair": ("<i8", (2,)),
    "request": ("<i8", ()),
    "ts_ms": ("<i8", ()),
    "ordinal": ("<i8", ()),
    "event_ms": ("<i8", ()),
    "state": ("i1", ()),
}
_STATE = "label-join.json"


class Emitted(NamedTuple):
    """m label rows in the order of their emission."""

    at: np.ndarray  # int64 [m], input rows that stand before it
    row: np.ndarray  # int64 [m], input row whose clock made it due, or which it tells of at once
    label: np.ndarray  # int64 [m], index of the label
    kind: np.ndarray  # int64 [m], of core.labels.KINDS
    ordinal: np.ndarray  # int64 [m], of the impression
    ts_ms: np.ndarray  # int64 [m], event time of the emission
    delay_ms: np.ndarray  # int64 [m], from the impression to there


class LabelJoin:
    """What came of each impression, told when its policy says so.

    In: the rows of one partition, in log order. Out: label rows. Before a row, everything due at or before its clock, by due time,
    impression and label; behind it what it caused itself. The result does not depend on how the log is cut into calls.

    A positive event belongs to the newest impression of its user and item at or before its time whose label is undecided and whose
    horizon it keeps. If it and any remembered one of these impressions have a request, it belongs to one of its own request or to none.
    Of the event `outcomes` says: matched; repeated, the label is positive already; late, its horizon is over, it was told to be negative
    for good, or an exit closed it in an earlier grid cell; orphan, no impression is remembered that it could belong to.

    Of impressions it says: opened; expired, negative for good; capped, undecided when its place was needed, which ends it without a row.
    A positive one whose place is needed stays matched and tells no more. opened = matched + expired + capped + open.

    State: per label a ring of `max_open` impressions, decided ones included, of 49 bytes each; an index of 24 bytes each, with chains by
    pair and a heap of timers, is rebuilt. Budget: below 1.5 us per event that a label names, O(log open) and the length of the pair's
    chain; a few ns per label for others.
    """

    def __init__(self, config: JoinConfig, types: Sequence[str]) -> None:
        """`types`: event types by code.

        Raises:
            SettingsError: a label needs a type that is not among them.
        """
        self.config = config
        self._labels = [_Label(label.rule(types), config.max_open) for label in config.labels]

    def take(self, rows: JoinRows) -> Emitted:
        """Take the next n rows; the m label rows that they lead to."""
        whole = JoinRows(*(np.ascontiguousarray(column, dtype=np.int64) for column in rows))
        told = [label.take(whole) for label in self._labels]
        sizes = [columns[0].size for columns in told]
        turn, kind, ordinal, ts_ms, delay_ms = (np.concatenate(column) for column in zip(*told, strict=True))
        order = merge(turn, ts_ms, ordinal, np.cumsum([0, *sizes]))
        label = np.repeat(np.arange(len(told)), sizes)
        return Emitted(*(column[order] for column in (turn // 2, (turn - 1) // 2, label, kind, ordinal, ts_ms, delay_ms)))

    @property
    def outcomes(self) -> dict[str, dict[str, int]]:
        """Label -> how many events and impressions ended how, see `core.labels.JOIN_OUTCOMES`."""
        return {of.name: dict(zip(JOIN_OUTCOMES, label.counts.tolist(), strict=True)) for of, label in self._pairs()}

    @property
    def open(self) -> dict[str, int]:
        """Label -> impressions whose label is undecided."""
        return {of.name: label.open for of, label in self._pairs()}

    def snapshot(self, into: Snapshot) -> None:
        """The chunks of rows (linked where unchanged), and the rest as JSON."""
        state = {"identity": self.config.identity, "counts": [label.counts.tolist() for label in self._labels]}
        into.write(_STATE, msgspec.json.encode(state))
        for index, label in enumerate(self._labels):
            label.rows.snapshot(into.within(_directory(index)), label.used)

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under other settings.
        """
        state = msgspec.json.decode((directory / _STATE).read_bytes())
        check_identity(state["identity"], self.config.identity)
        for index, (label, counts) in enumerate(zip(self._labels, state["counts"], strict=True)):
            label.restore(directory / _directory(index), counts)

    def digest(self) -> str:
        return hashlib.sha256(" ".join(label.digest() for label in self._labels).encode()).hexdigest()

    def _pairs(self) -> Iterator[tuple[LabelConfig, "_Label"]]:
        return zip(self.config.labels, self._labels, strict=True)


class _Label:
    """The impressions of one label. State: the rows in use and the counts."""

    def __init__(self, rule: Rule, max_open: int) -> None:
        self._rule, self._max_open = rule, max_open
        self.rows = Rows(-(-max_open // CHUNK_ROWS) * CHUNK_ROWS, _FIELDS)
        self.counts = np.zeros(len(JOIN_OUTCOMES), dtype=np.int64)
        self._ring = self._indexed()

    def _indexed(self) -> Ring:
        """The ring with its index made from the rows."""
        size = self._max_open
        heap = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int32)
        timers = Timers(*heap, np.full(size, NO_PLACE, dtype=np.int32), np.zeros(2, dtype=np.int64))
        heads = np.full(1 << (size - 1).bit_length(), NONE, dtype=np.int32)
        ring = Ring(
            **self.rows.arrays, dirty=self.rows.dirty, heads=heads, older=np.zeros(size, np.int32), timers=timers, counts=self.counts
        )
        rebuild(ring, self._rule)
        return ring

    @property
    def used(self) -> int:
        """Rows in use, the first of the ring."""
        return min(int(self.counts[OPENED]), self._max_open)

    @property
    def open(self) -> int:
        return int(self.counts[OPENED] - self.counts[MATCHED] - self.counts[EXPIRED] - self.counts[CAPPED])

    def take(self, rows: JoinRows) -> list[np.ndarray]:
        """The columns of the label rows, see `Buffer`."""
        parts: list[list[np.ndarray]] = []
        taken = 0
        while not parts or taken < rows.code.size:
            into = _buffer()
            taken = join(self._ring, self._rule, rows, taken, into)
            parts.append([column[: into.held[0]] for column in into[:-1]])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def restore(self, directory: Path, counts: list[int]) -> None:
        self.rows.restore(directory)
        self.counts[:] = counts
        self._ring = self._indexed()

    def digest(self) -> str:
        oldest = int(self.counts[OPENED]) % self._max_open if self.used == self._max_open else 0
        return f"{self.counts.tolist()} {self.rows.digest(np.roll(np.arange(self.used), -oldest))}"


def _buffer() -> Buffer:
    turn, kind, ordinal, ts_ms, delay_ms = (np.empty(PART_ROWS, dtype=np.int64) for _ in range(5))
    return Buffer(turn, kind, ordinal, ts_ms, delay_ms, np.zeros(1, dtype=np.int64))


def _directory(index: int) -> str:
    return f"label-{index:02d}"
