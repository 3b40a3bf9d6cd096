"""A log in parts of equal size, and the places in it where a reader may stop and go on."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from streams.logs.reader import Log
from streams.producing import Message


class Place(NamedTuple):
    """Where a log goes on."""

    row: int = 0  # to read from
    skip: int = 0  # events from that row on that are taken already
    events: int = 0  # taken in all

    def after(self, events: int) -> "Place":
        """So many events further on."""
        return Place(self.row, self.skip + events, self.events + events)


class Part(NamedTuple):
    """Consecutive events of a log."""

    messages: list[Message]
    ts_ms: np.ndarray  # int64 [messages], -1 where there is no time
    place: Place  # behind them
    rows: tuple[int, int]  # of the log, from and to, about: for a bar

    def row(self, done: int) -> int:
        """Of the log, about, where so many of the events are done."""
        first, last = self.rows
        return first + (last - first) * done // len(self.messages)


def parts(log: Log, start: Place, size: int, limit: int = 0) -> Iterator[Part]:
    """From `start` on, up to `limit` events of the log in all (0: all of them).

    Cuts lie at multiples of `size` events of the log, wherever it starts: so a run that goes on has the parts of one that never stopped.

    Raises:
        LogOrderError: see `Log.batches`.
    """
    messages, times = list[Message](), list[np.ndarray]()
    row, skip, taken = start.row, start.skip, start.events
    first = row  # of the part
    if limit and taken >= limit:
        return
    for batch in log.batches(start.row):
        count = len(batch.messages)
        at = min(skip, count)
        skip -= at
        while at < count:
            room = size - taken % size
            stop = min(count, at + (min(room, limit - taken) if limit else room))
            messages += batch.messages[at:stop]
            times.append(batch.ts_ms[at:stop])
            at, taken = stop, taken + stop - at
            if taken % size == 0 or taken == limit:
                last = row + (batch.next_row - row) * at // count
                yield Part(messages, np.concatenate(times), Place(row, at, taken), (first, last))
                messages, times, first = [], [], last
            if taken == limit:
                return
        row = batch.next_row
    if messages:
        yield Part(messages, np.concatenate(times), Place(row, 0, taken), (first, row))
