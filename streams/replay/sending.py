"""A log on its way to Kafka, and how much of it may be sent twice."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from kafka.errors import KafkaError

from core.errors import SendError
from streams.logs.parts import Part, Place
from streams.producing import Message, Sender
from streams.replay.kept import Kept

IN_FLIGHT = 20_000  # messages at most: bounds the client's memory
ANSWER_SECONDS = 120.0
SAVE_SECONDS = 1.0  # between two places kept: what lies behind the last one is sent again after a kill


class Flight:
    """Messages handed to the producer, in order, until the broker has them."""

    def __init__(self, sender: Sender, topic: str) -> None:
        self._sender, self._topic = sender, topic
        self._pending: deque[Any] = deque()  # futures

    def __len__(self) -> int:
        """Messages not acknowledged; one that others wait for counts them in."""
        while self._pending and self._pending[0].succeeded():
            self._pending.popleft()
        return len(self._pending)

    def send(self, messages: Sequence[Message]) -> None:
        """Hand over the next messages; waits while too many are on their way.

        Raises:
            SendError: one did not arrive.
        """
        for message in messages:
            if len(self._pending) >= IN_FLIGHT and len(self) >= IN_FLIGHT:
                self._wait()
            self._pending.append(self._sender.send(self._topic, message))

    def land(self) -> None:
        """Wait until the broker has them all.

        Raises:
            SendError: one did not arrive.
        """
        self._sender.flush()

    def _wait(self) -> None:
        try:
            self._pending[0].get(ANSWER_SECONDS)
        except KafkaError as error:
            raise SendError(f"a message did not reach {self._topic}: {error!r}") from error


class Tail:
    """Keeps the place up to which the broker has everything. What lies behind it is sent again after a kill, and must be known as such.

    An event id is known for a horizon of event time. So the place is kept anew before event time has gone on by half of that, besides
    every SAVE_SECONDS: what may be sent again is younger than the memory of it.
    """

    def __init__(self, flight: Flight, kept: Kept | None, horizon_seconds: float) -> None:
        self._flight, self._kept = flight, kept
        self._most_ms = 500 * horizon_seconds if kept is not None else np.inf
        self._since_ms = -np.inf  # event time of the place kept last

    def begin(self, part: Part) -> None:
        """Nothing is to be done."""

    def take(self, messages: Sequence[Message], ts_ms: np.ndarray, place: Place) -> None:
        """Send what stands at `place`.

        Args:
            ts_ms: int64 [messages], event times in order; -1 where there is none.
        """
        start = 0
        while start < len(messages):
            beyond = np.flatnonzero(ts_ms[start:] > self._since_ms + self._most_ms)
            stop = start + int(beyond[0]) if beyond.size else len(messages)
            self._flight.send(messages[start:stop])
            if beyond.size:
                self.keep(place.after(stop))
                self._since_ms = float(ts_ms[stop])
            start = stop
        if self._kept is not None and self._kept.due():
            self.keep(place.after(start))

    def keep(self, place: Place) -> None:
        """Wait until all is acknowledged, then keep the place behind it."""
        self._flight.land()
        if self._kept is not None:
            self._kept.save(place)
