"""Prequential quality of what is served, live: clicks are looked for in the lists that the cache would have given just before them.

Ingest's `batches` are ahead of what was learned of them: a click that comes out of there meets a cache that does not know of it yet.
Where the cache was faster (a row of the user's is as new as the click), the click is left out, and counted as overtaken.
The users of one partition are judged, a sample by hash, and at most so many clicks a second: the rest is not even decoded.
"""

import logging
import threading
import time
from collections.abc import Iterator

import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition

from core.schemas import EVENT, decode
from learners.cache import ParameterCache
from monitoring.metrics import Metrics
from streams.following import Follower
from streams.prequential import K, reciprocal_rank
from streams.reading import at, consumer, release
from streams.settings import Settings

log = logging.getLogger(__name__)
PARTITION = 0
CLICK = "click"
LINKS = {"served": None, "popular": ["popular"]}  # list -> links that may fill it
STALE_SECONDS = 1.0  # a record that waited that long has been learned: not worth decoding


class Allowance:
    """At most `per_second` on average, and a second's worth at once."""

    def __init__(self, per_second: float) -> None:
        self._per_second, self._left, self._at = per_second, max(1.0, per_second), time.monotonic()

    def whole(self) -> int:
        """How many may be taken now."""
        now = time.monotonic()
        self._left = min(max(1.0, self._per_second), self._left + (now - self._at) * self._per_second)
        self._at = now
        return int(self._left)

    def take(self, count: int) -> None:
        self._left -= count


class Judge:
    """Scores the served lists of a cache beside `popular now`, in the metrics `freshet_prequential_*`."""

    def __init__(self, s: Settings, cache: ParameterCache, metrics: Metrics) -> None:
        self.s, self.cache, self.metrics = s, cache, metrics
        self._allowance = Allowance(s.judged_clicks_per_second)
        self._follower = Follower("judge", self._follow, lambda error: log.warning("clicks are not judged, tries again: %s", error))

    def start(self) -> None:
        if self.s.judged_clicks_per_second:
            self._follower.start()

    def stop(self) -> None:
        if self.s.judged_clicks_per_second:
            self._follower.stop()

    async def _follow(self, stop: threading.Event) -> None:
        """From the end on: what is older has been learned."""
        reader, tp = consumer(self.s), TopicPartition(self.s.batches_topic, PARTITION)
        await reader.start()
        try:
            at(reader, await reader.end_offsets([tp]))
            while not stop.is_set():
                await self._read(reader, tp)
        finally:
            await release(reader)

    async def _read(self, reader: AIOKafkaConsumer, tp: TopicPartition) -> None:
        for record in (await reader.getmany(tp, timeout_ms=200)).get(tp, ()):
            if self._allowance.whole() and time.time() - record.timestamp / 1000 < STALE_SECONDS:
                self.judge(decode(record.value))

    def judge(self, rows: pl.DataFrame) -> None:
        """Judge the clicks among the rows of one `batches` record, as far as the allowance goes."""
        count = 0
        for user_id, item_id, ts_ms in _clicks(rows, self._allowance.whole()):
            self._judge(user_id, item_id, ts_ms)
            count += 1
        self._allowance.take(count)

    def _judge(self, user_id: str, item_id: str, ts_ms: int) -> None:
        lists = {name: self.cache.recommend(user_id, K, links).items for name, links in LINKS.items()}
        if self.cache.known_until_ms(user_id) >= ts_ms:  # asked last: neither list came from a later version
            self.metrics.overtaken()
            return
        self.metrics.listed({name: reciprocal_rank([listed.item_id for listed in items], item_id) for name, items in lists.items()})


def _clicks(rows: pl.DataFrame, most: int) -> Iterator[tuple[str, str, int]]:
    """(user, item, event time in ms) of the first clicks."""
    clicks = rows.filter((pl.col("kind") == EVENT) & (pl.col("type") == CLICK)).head(most)
    return clicks.select("user_id", "item_id", "ts_ms").iter_rows()
