"""Work that blocks, beside the event loop: on few threads, and not for ever."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """A handful of threads of one kind of work: where all of them hang, the others' work goes on."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, call: Callable[[], T], seconds: float) -> T:
        """Its result.

        Raises:
            TimeoutError: it took longer, or waited that long for a thread. It is not started any more; what runs, runs on.
        """
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Nothing is waited for: what hangs has no state worth it."""
        self._pool.shutdown(wait=False, cancel_futures=True)
