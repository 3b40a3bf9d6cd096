"""The slow, obvious twin of the streaming join of labels: every impression is looked at whenever a row comes, and asked what it owes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.labels import KINDS, POLICIES, SLIVER_MS
from features.label_config import LabelConfig

MS = 1_000
EARLY = ("fnw", "fnc")  # tell a negative at once
MATURING = {
    "es-dfm": ("matured_in_window", "matured_late", "matured_negative"),
    "defuse": ("matured_in_window", "matured_late", "matured_negative"),
    "defer": ("final_positive", "matured_late", "final_negative"),
}


class Row(NamedTuple):
    """An event or a tick, as the join takes it."""

    ts_ms: int
    clock_ms: int
    type: str | None
    pair: tuple[int, int]
    request: int
    ordinal: int


class Told(NamedTuple):
    """A label row."""

    at: int  # rows before it
    row: int  # the row that caused it
    label: int
    kind: str
    ordinal: int
    ts_ms: int
    delay_ms: int


@dataclass
class Impression:
    pair: tuple[int, int]
    request: int
    ts_ms: int
    ordinal: int
    positive_ms: int | None = None
    left_ms: int | None = None
    told: list[str] = field(default_factory=list)
    over: bool = False


class Owed(NamedTuple):
    due_ms: int
    kind: str | None  # None: the label ends without a row
    last: bool


def cell(ms: int) -> int:
    """The end of the cell of Sliver's clock in which a time lies."""
    return -(-ms // SLIVER_MS) * SLIVER_MS


class NaiveLabel:
    """One label."""

    def __init__(self, config: LabelConfig, max_open: int) -> None:
        self.policy, self.config, self.max_open = config.policy, config, max_open
        self.window_ms = config.window_seconds * MS
        self.horizon_ms = self.window_ms if config.policy == "window" else config.horizon_seconds * MS
        self.impressions: list[Impression] = []
        self.counts: Counter[str] = Counter()

    @property
    def open(self) -> int:
        return sum(not self.is_decided(one) for one in self.impressions)

    def is_decided(self, of: Impression) -> bool:
        return of.positive_ms is not None or of.over

    def owed(self, of: Impression) -> Owed | None:
        """What the impression tells next, as things stand."""
        if of.over:
            return None
        end_ms, came = of.ts_ms + self.horizon_ms, of.positive_ms is not None
        if self.policy == "sliver":
            return Owed(cell(of.positive_ms), "in_window", True) if of.positive_ms is not None else Owed(
                cell(end_ms if of.left_ms is None else of.left_ms), "final_negative", True
            )  # fmt: skip
        if self.policy == "wait":
            return Owed(end_ms, "final_positive" if came else "final_negative", True)
        if self.policy in EARLY:
            return Owed(end_ms, None, True)  # a positive one was told, and over, at once
        if not of.told:
            in_window = of.positive_ms is not None and of.positive_ms <= of.ts_ms + self.window_ms
            last = self.policy == "window" or (in_window and self.policy == "vanilla")
            return Owed(of.ts_ms + self.window_ms, "in_window" if in_window else "negative", last)
        if of.positive_ms is not None and of.told == ["negative"]:  # it was known before the window's row
            return Owed(of.positive_ms, "late", self.policy == "vanilla")
        if self.policy == "vanilla":
            return Owed(end_ms, None, True)
        in_window, late, negative = MATURING[self.policy]
        return Owed(end_ms, late if "late" in of.told else in_window if came else negative, True)

    def tell(self, of: Impression, owed: Owed, at: int, label: int) -> list[Told]:
        of.over = owed.last
        if owed.last and of.positive_ms is None:
            self.counts["expired"] += 1
        if owed.kind is None:
            return []
        of.told.append(owed.kind)
        return [Told(at, at, label, owed.kind, of.ordinal, owed.due_ms, owed.due_ms - of.ts_ms)]

    def due(self, clock_ms: int) -> tuple[int, int, Impression, Owed] | None:
        """The first that has something to tell by then: due time, ordinal."""
        told = [(owed.due_ms, one.ordinal, one, owed) for one in self.impressions if (owed := self.owed(one)) and owed.due_ms <= clock_ms]
        return min(told, key=lambda each: each[:2], default=None)

    def take(self, row: Row, at: int, label: int) -> list[Told]:
        """What the row itself causes."""
        if row.type is None or row.pair == (0, 0):
            return []
        if row.type in self.config.opens:
            return self.opened(row, at, label)
        if row.type in self.config.positive:
            return self.positive(row, at, label)
        if row.type in self.config.exits and self.policy == "sliver":
            match, _ = self.found(row, positive=False)
            if match is not None:
                match.left_ms = row.ts_ms
        return []

    def opened(self, row: Row, at: int, label: int) -> list[Told]:
        if len(self.impressions) == self.max_open:
            self.counts["capped"] += not self.is_decided(self.impressions.pop(0))
        one = Impression(row.pair, row.request, row.ts_ms, row.ordinal)
        self.impressions.append(one)
        self.counts["opened"] += 1
        if self.policy not in EARLY:
            return []
        one.told.append("negative")
        return [Told(at, at - 1, label, "negative", row.ordinal, row.ts_ms, 0)]

    def positive(self, row: Row, at: int, label: int) -> list[Told]:
        match, newest = self.found(row, positive=True)
        if match is None:
            outcome = "orphan" if newest is None else "repeated" if newest.positive_ms is not None else "late"
            self.counts[outcome] += 1
            return []
        self.counts["matched"] += 1
        match.positive_ms = row.ts_ms
        if match.told != ["negative"]:
            return []
        match.told.append("late")
        match.over = self.policy not in MATURING
        return [Told(at, at - 1, label, "late", match.ordinal, row.ts_ms, row.ts_ms - match.ts_ms)]

    def found(self, row: Row, positive: bool) -> tuple[Impression | None, Impression | None]:
        """The impression that the event decides, and the newest one that it could belong to."""
        could = [one for one in self.impressions if one.pair == row.pair and one.ts_ms <= row.ts_ms]
        if row.request and any(one.request for one in could):
            could = [one for one in could if one.request == row.request]
        fits = [one for one in could if not self.is_decided(one) and row.ts_ms - one.ts_ms <= self.horizon_ms]
        fits = [one for one in fits if one.left_ms is None or (positive and cell(row.ts_ms) <= cell(one.left_ms))]
        return (fits[-1] if fits else None), (could[-1] if could else None)


def join(labels: Sequence[NaiveLabel], rows: Sequence[Row]) -> list[Told]:
    """The label rows of a log."""
    told: list[Told] = []
    for i, row in enumerate(rows):
        while row.clock_ms:
            due = [(found[0], found[1], label, found) for label, of in enumerate(labels) if (found := of.due(row.clock_ms))]
            if not due:
                break
            _, _, label, (_, _, one, owed) = min(due, key=lambda each: each[:3])
            told += labels[label].tell(one, owed, i, label)
        for label, of in enumerate(labels):
            told += of.take(row, i + 1, label)
    return told


assert set(EARLY) | set(MATURING) < set(POLICIES) and all(kind in KINDS for kinds in MATURING.values() for kind in kinds)
