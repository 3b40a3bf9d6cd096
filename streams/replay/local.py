"""The replay host: the stages that run live, over a logged stream, in one process and without a broker.

messages -> decode -> route -> user stages -> examples -> learner stage -> cache
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.driver import StageDriver
from core.position import Record, Upstream
from core.snapshot import Snapshot
from streams import pipeline
from streams.producing import Message
from streams.replay import shown
from streams.replay.examples import LOCAL, ToExamples
from streams.settings import Settings

_FRONT, _CACHE = "front", "cache"


class LocalPipeline:
    """All stages in one process, fed with messages. With one partition of `batches` the result is the same wherever they are cut;
    with several a tick follows each batch, and the clocks with it.

    After `feed_*`, `cache` holds what a server would hold. `sent_ms` stands for the Kafka timestamp of what is fed.
    """

    def __init__(self, s: Settings, work_dir: Path, parts: Sequence[str] = pipeline.PARTS) -> None:
        """`parts`: of the learner stage; see `pipeline.learner_stage`."""
        self.s = s
        self.cache = pipeline.cache(s)
        self.front = ToExamples(s, work_dir)
        self.users, self.counts = self.front.users, self.front.counts
        stage = pipeline.learner_stage(s, s.batches_partitions, parts)
        self.learner = StageDriver(stage, Upstream(s.examples_topic, 0, LOCAL))

    def feed_items(self, messages: Iterable[Message], batch: int = 2_000) -> None:
        """Catalogue changes, in order."""
        for records in self.front.items(messages, batch):
            self._learn(records)

    def feed_events(self, messages: Iterable[Message], batch: int = 2_000) -> None:
        """Events, in order; then the clock of every partition is brought up to date."""
        for records in self.front.events(messages, batch):
            self._learn(records)

    def _learn(self, records: Sequence[Record]) -> None:
        for record in records:
            self.learner.apply(record)
        self._publish()

    def _publish(self) -> None:
        for name, driver in self._named().items():
            publication = driver.stage.publish()
            if publication is not None:
                self.cache.apply(name, publication, LOCAL)

    def _named(self) -> dict[str, StageDriver]:
        users = {f"{pipeline.FEATURES}-{d.positions.own.partition}": d for d in self.users}
        return {**users, pipeline.LEARNER: self.learner}

    def digests(self) -> dict[str, str]:
        """A hash of each stage's state: equal for equal logs."""
        return {name: driver.stage.digest() for name, driver in self._named().items()}

    def snapshot(self, into: Snapshot) -> None:
        """All that it holds, after any `feed_*`."""
        self.front.snapshot(into.within(_FRONT))
        self.learner.snapshot(into.within(pipeline.LEARNER))
        shown.snapshot(self.cache, into.within(_CACHE))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot, before any `feed_*`; what comes then is what would have come.

        Raises:
            SnapshotError: it was made under other settings.
        """
        self.front.restore(directory / _FRONT)
        self.learner.restore(directory / pipeline.LEARNER)
        shown.restore(self.cache, directory / _CACHE, self.s.batches_partitions)

    def close(self) -> None:
        self.front.close()
        self.learner.stage.close()


def replay(s: Settings, items: Iterable[Message], events: Iterable[Message], work_dir: Path) -> LocalPipeline:
    """Replay a log through all stages, catalogue first; the caller closes what it gets.

    Args:
        items, events: (key, JSON value) pairs in the order of the log.
        work_dir: an empty directory for working files.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    local = LocalPipeline(s, work_dir)
    local.feed_items(items)
    local.feed_events(events)
    return local
