"""Which items could be listed at an event: the candidates of its full rank, the same ones for every contender."""

from collections import deque

import msgspec
import numpy as np

from core.contender import Run, State, grown
from learners.tables import MAX_MS, MIN_MS
from streams.evaluate.numbers import Events, Numbers


class _Opening(msgspec.Struct):
    """Of a catalogue entry: when it may be listed, ms; always, where it does not say."""

    start: int = MIN_MS
    end: int = MAX_MS


class Candidates:
    """An item is live from its first event or catalogue entry until it is removed, a room only from its start to its end.

    State: a flag and two times an item.
    """

    def __init__(self, items: Numbers) -> None:
        self._items = items
        self._present = np.empty(0, dtype=np.bool_)
        self._start_ms, self._end_ms = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)

    def live(self, events: Events, run: Run, chosen: np.ndarray) -> dict[int, np.ndarray]:
        """Chosen event -> the items live just before it and its own, as bits (`np.packbits` of bool [items]: there may be many events);
        then all of the run are known.
        """
        self._grow(run.items)
        clock_ms, ts_ms = events.numbers("clock_ms"), run.ts_ms
        catalogue, start, found = deque(events.catalogue), 0, {}
        for at in [*np.flatnonzero(chosen).tolist(), len(run)]:
            while catalogue and catalogue[0][0] <= at:
                before, item_id, entry = catalogue.popleft()
                self._present[run.item[start:before]] = True
                start = before
                self._set(self._items[item_id], entry)
            self._present[run.item[start:at]] = True
            start = at
            if at < len(run):
                found[at] = np.packbits(self._live(int(clock_ms[at] or ts_ms[at]), int(run.item[at])))
        return found

    def _grow(self, items: int) -> None:
        held = self._present.size
        self._present, self._start_ms, self._end_ms = (grown(of, items) for of in (self._present, self._start_ms, self._end_ms))
        self._start_ms[held:], self._end_ms[held:] = MIN_MS, MAX_MS

    def _set(self, item: int, entry: str | None) -> None:
        told = _Opening() if entry is None else msgspec.json.decode(entry, type=_Opening)
        self._present[item] = entry is not None
        self._start_ms[item], self._end_ms[item] = told.start, told.end

    def _live(self, now_ms: int, item: int) -> np.ndarray:
        live = self._present & (self._start_ms <= now_ms) & (self._end_ms > now_ms)
        live[item] = True
        return live[: len(self._items.ids)]

    def save(self) -> State:
        return {"present": self._present, "start_ms": self._start_ms, "end_ms": self._end_ms}

    def load(self, state: State) -> None:
        self._present, self._start_ms, self._end_ms = (state[name].copy() for name in ("present", "start_ms", "end_ms"))
