"""A reader of Kafka on a thread of its own, that outlives its cluster."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)
RETRY_SECONDS = 2.0


class Follower:
    """Runs `follow` until it is told to stop; where that fails, again. `failed` is told each failure, and must not raise."""

    def __init__(self, name: str, follow: Callable[[threading.Event], Awaitable[None]], failed: Callable[[Exception], None]) -> None:
        """`follow(stop)` shall end soon after `stop` is set."""
        self._follow, self._failed = follow, failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        asyncio.run(self._follow_for_ever())

    async def _follow_for_ever(self) -> None:
        while not self._stop.is_set():
            try:
                await self._follow(self._stop)
            except Exception as error:  # noqa: BLE001  # what serves must outlive its broker
                self._failed(error)
                await asyncio.to_thread(self._stop.wait, RETRY_SECONDS)
