"""Compile every kernel before the first live event: a cold one takes seconds, which would be that event's freshness."""

import itertools
import logging
import tempfile
import time
from pathlib import Path

from streams import bundled
from streams.replay import replay
from streams.settings import Settings, load

log = logging.getLogger(__name__)
EVENTS, ITEMS = 1_500, 200  # half an hour of the bundled log: enough for a codebook, a refresh and a personal list


def warm_up(s: Settings) -> float:
    """Replay a little of the bundled log through small tables; seconds taken. Quick where the disk cache is warm."""
    started = time.monotonic()
    small = s.model_copy(update={"max_users": 4_096, "max_items": 4_096, "token_words": 8, "batches_partitions": 1})
    items, events = itertools.islice(bundled.item_messages(), ITEMS), list(itertools.islice(bundled.event_messages(), EVENTS))
    with tempfile.TemporaryDirectory(prefix="freshet-warm-") as directory:
        local = replay(small, items, events, Path(directory))
        for link in ("personal", "similar", "popular", "newest"):
            for user in {key.decode() for key, _ in events[-50:]}:
                local.cache.recommend(user, 10, [link])
        local.close()
    seconds = time.monotonic() - started
    log.info("kernels are ready after %.1f s", seconds)
    return seconds


if __name__ == "__main__":
    print(f"kernels are ready after {warm_up(load()):.1f} s")  # noqa: T201  # a command's answer
