"""Ctrl-C and SIGTERM, in the three ways in which a command ends in order."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handler: Handler, *numbers: int) -> Iterator[None]:
    """These signals go to the handler, until the block ends."""
    held = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in held.items():
            signal.signal(number, before)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event set by Ctrl-C or SIGTERM, so that a block ends in order."""
    stop = threading.Event()
    with handled(lambda number, frame: stop.set(), signal.SIGINT, signal.SIGTERM):
        yield stop


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: everything it started is stopped on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled(interrupt, signal.SIGTERM):
        yield


class Stop:
    """Ctrl-C and SIGTERM as a wish that a loop looks at where it can stop. The second one ends the process at once."""

    def __init__(self) -> None:
        self.wanted = 0  # number of the signal
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> "Stop":
        for number in self._before:
            signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.wanted = number
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
