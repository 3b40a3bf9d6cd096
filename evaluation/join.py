"""Impressions and what came of them: a label is revealed when its event arrives, or when its time is over.

impression -> open -> first event of the positive type within the horizon: 1, at the event's time
                   -> none by then: 0, at the end of the horizon
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

OUTCOMES = ("matched", "expired", "repeated", "late", "orphan", "capped")
SETTLED_ENDS = 1_024  # of labels that are known, kept in the heap however few are open
Pair = tuple[str, str]  # user id, item id


class Label(NamedTuple):
    """A label of impressions: whether an event of type `positive` follows within the horizon."""

    name: str
    positive: str
    horizon_ms: int


class Revealed(NamedTuple):
    """One label of one impression, known now."""

    shown: Any  # what `LabelJoin.shown` was given
    label: str
    y: int
    revealed_ms: int  # event time


class _Open:
    """An impression with labels that are not known yet."""

    __slots__ = ("expired", "number", "pair", "pending", "request_id", "shown", "ts_ms")

    def __init__(
        self, number: int, pair: Pair, request_id: str | None, ts_ms: int, shown: Any, pending: list[str], expired: list[str]
    ) -> None:
        self.number, self.pair, self.request_id, self.ts_ms = number, pair, request_id, ts_ms
        self.shown, self.pending, self.expired = shown, pending, expired

    def plain(self) -> list[Any]:
        return [self.number, list(self.pair), self.request_id, self.ts_ms, self.shown, self.pending, self.expired]


class LabelJoin:
    """An event belongs to the impression of its request, or else to the newest open one of its user and item; where all of these name
    other requests, it belongs to none.

    State: at most `max_open` open impressions, oldest dropped first ("capped"), and as many pairs whose last one is over. By these an
    event that matches none is "repeated" (the label is known to be positive), "late" (its horizon is over) or an "orphan". Time is the
    latest event time so far.
    """

    def __init__(self, labels: Sequence[Label], max_open: int = 1_000_000) -> None:
        self.labels, self._max_open = tuple(labels), max_open
        self._by_type: dict[str, list[Label]] = {}
        for label in labels:
            self._by_type.setdefault(label.positive, []).append(label)
        self.outcomes = {label.name: dict.fromkeys(OUTCOMES, 0) for label in labels}
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._of_pair: dict[Pair, list[int]] = {}
        self._ends: list[tuple[int, int, str]] = []  # heap: end of the horizon, impression, label
        self._over: OrderedDict[Pair, None] = OrderedDict()
        self._number, self.now_ms = 0, 0

    def advance(self, ts_ms: int) -> Iterator[Revealed]:
        """An event of that time arrives: labels whose horizon has ended by then."""
        self.now_ms = max(self.now_ms, ts_ms)
        while self._ends and self._ends[0][0] < self.now_ms:
            end_ms, number, label = heapq.heappop(self._ends)
            held = self._open.get(number)
            if held is not None and label in held.pending:
                self.outcomes[label]["expired"] += 1
                held.expired.append(label)
                self._settle(held, label)
                yield Revealed(held.shown, label, 0, end_ms)

    def shown(self, user_id: str, item_id: str, request_id: str | None, ts_ms: int, shown: Any) -> None:
        """An impression. `shown` comes back with its labels; plain values, where the state is saved."""
        self._number += 1
        held = _Open(self._number, (user_id, item_id), request_id, ts_ms, shown, [label.name for label in self.labels], [])
        self._open[held.number] = held
        self._of_pair.setdefault(held.pair, []).append(held.number)
        for label in self.labels:
            heapq.heappush(self._ends, (ts_ms + label.horizon_ms, held.number, label.name))
        if len(self._open) > self._max_open:
            self._drop(next(iter(self._open.values())))
        if len(self._ends) > 2 * len(self.labels) * len(self._open) + SETTLED_ENDS:
            self._ends = self._open_ends()

    def event(self, type_: str, user_id: str, item_id: str, request_id: str | None, ts_ms: int) -> Iterator[Revealed]:
        """An event of another kind: labels that it makes positive."""
        for label in self._by_type.get(type_, ()):
            held, outcome = self._match((user_id, item_id), request_id, label)
            self.outcomes[label.name][outcome] += 1
            if held is not None:
                self._settle(held, label.name)
                yield Revealed(held.shown, label.name, 1, ts_ms)

    def _match(self, pair: Pair, request_id: str | None, label: Label) -> tuple[_Open | None, str]:
        candidates = [self._open[number] for number in self._of_pair.get(pair, ())]
        if request_id is not None and any(held.request_id is not None for held in candidates):
            candidates = [held for held in candidates if held.request_id == request_id]
        if not candidates:
            return None, "late" if pair in self._over else "orphan"
        pending = [held for held in candidates if label.name in held.pending]
        if pending:
            return pending[-1], "matched"
        return None, "late" if label.name in candidates[-1].expired else "repeated"

    def _settle(self, held: _Open, label: str) -> None:
        held.pending.remove(label)
        if not held.pending:
            self._close(held)

    def _close(self, held: _Open) -> None:
        del self._open[held.number]
        of_pair = self._of_pair[held.pair]
        of_pair.remove(held.number)
        if not of_pair:
            del self._of_pair[held.pair]
        self._over[held.pair] = None
        self._over.move_to_end(held.pair)
        if len(self._over) > self._max_open:
            self._over.popitem(last=False)

    def _drop(self, held: _Open) -> None:
        for label in held.pending:
            self.outcomes[label]["capped"] += 1
        held.pending = []
        self._close(held)

    def _open_ends(self) -> list[tuple[int, int, str]]:
        """The heap without the ends of labels that are known."""
        horizon = {label.name: label.horizon_ms for label in self.labels}
        ends = [(held.ts_ms + horizon[label], held.number, label) for held in self._open.values() for label in held.pending]
        heapq.heapify(ends)
        return ends

    @property
    def open(self) -> dict[str, int]:
        """Label -> impressions whose label is not known yet."""
        return {label.name: sum(label.name in held.pending for held in self._open.values()) for label in self.labels}

    def state(self) -> dict[str, Any]:
        """Plain values, for `restore`."""
        held = [impression.plain() for impression in self._open.values()]
        return {"open": held, "over": list(self._over), "number": self._number, "now_ms": self.now_ms, "outcomes": self.outcomes}

    def restore(self, state: dict[str, Any]) -> None:
        for number, pair, *rest in state["open"]:
            held = self._open[number] = _Open(number, (pair[0], pair[1]), *rest)
            self._of_pair.setdefault(held.pair, []).append(number)
        self._ends = self._open_ends()
        self._over = OrderedDict.fromkeys((user, item) for user, item in state["over"])
        self._number, self.now_ms, self.outcomes = state["number"], state["now_ms"], state["outcomes"]
