"""A log goes where it is to go, part by part, at its pace, until it ends or somebody stops it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from streams.logs.parts import Part, Place, parts
from streams.logs.reader import Log
from streams.producing import Message
from streams.replay.pace import Pace
from streams.signals import Stop


class Taker(Protocol):
    """Where events go: the stages of this process, or Kafka."""

    def begin(self, part: Part) -> None:
        """A whole part is next; the places where parts begin depend on the log alone."""

    def take(self, messages: Sequence[Message], ts_ms: np.ndarray, place: Place) -> None:
        """The next messages, which stand at `place`; now and then, keep how far it came."""

    def keep(self, place: Place) -> None:
        """Keep that all before `place` is taken."""


@dataclass(frozen=True)
class Job:
    """What is replayed, and how fast."""

    log: Log
    size: int  # events of a part
    events: int = 0  # at most; 0: all
    pace: Pace = field(default_factory=Pace)


Watch = Callable[[Part, Place], None]


def run(job: Job, taker: Taker, start: Place, stop: Stop, watch: Watch) -> Place:
    """From `start` on; the place that was kept last. `watch` is told how far it came."""
    place = start
    for part in parts(job.log, start, job.size, job.events):
        for due in job.pace.runs(part.ts_ms):
            if due.stop > due.start and place.events % job.size == 0:  # not at an empty run: a stop there would begin the part twice
                taker.begin(part)
            taker.take(part.messages[due], part.ts_ms[due], place)
            place = place.after(due.stop - due.start)
            watch(part, place)
            if stop.wanted:
                taker.keep(place)
                return place
        place = part.place
    taker.keep(place)
    return place
