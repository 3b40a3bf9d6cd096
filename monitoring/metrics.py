"""Every metric that Freshet exports, and the only place where one is made.

Names follow prometheus.io/docs/practices/naming: prefix `freshet_`, base units, counters end in `_total`, no label name inside a
metric name. A label's values are a closed set or bounded by the settings; ids and messages are never labels.
"""

import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MESSAGE_OUTCOMES = ("accepted", "dead_letter")
EVENT_OUTCOMES = ("accepted", "duplicate", "late", "future")
STAGES = ("ingest", "features", "learner")
SOURCES = ("personal", "similar", "popular", "newest", "none")
REFUSALS = ("nonfinite", "stale")
PROCESSES = ("broker", "ingest", "features", "learner", "server")

CLOSED_LABELS: Mapping[str, tuple[str, ...]] = {
    "outcome": tuple(dict.fromkeys(MESSAGE_OUTCOMES + EVENT_OUTCOMES)),
    "stage": STAGES,
    "source": SOURCES,
    "reason": REFUSALS,
    "process": PROCESSES,
}
BOUNDED_LABELS: Mapping[str, str] = {
    "topic": "topics named in the settings",
    "partition": "number of partitions in the settings",
    "category": "ways to break the contract, a list in the code",
    "learner": "parts of the learner stage",
    "table": "tables that the learner stage publishes",
    "writer": "stage partitions that publish",
}

APPLY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CHECKPOINT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SERVING_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
FRESHNESS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60)
AGE_BUCKETS = (0.1, 1, 10, 60, 300, 900, 3_600, 10_800, 43_200, 86_400, 604_800)
ROWS_BUCKETS = (1, 10, 50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000)
BYTES_BUCKETS = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20)


def version() -> str:
    """Freshet's installed version; "unknown" when it runs from sources that were never installed."""
    try:
        return metadata.version("freshet")
    except metadata.PackageNotFoundError:
        return "unknown"


class BulkHistogram(Collector):
    """A histogram without labels that takes an array of observations at once: one per event is too slow one by one."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = np.array([*buckets, np.inf])
        self._counts = np.zeros(len(self._bounds), dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, values: np.ndarray) -> None:
        """Count float [n] values. One below 0 counts as 0: two machines' clocks differ, and a sum must not fall."""
        positive = np.maximum(values, 0.0)
        counts = np.bincount(np.searchsorted(self._bounds, positive), minlength=len(self._bounds))
        with self._lock:
            self._counts += counts
            self._sum += float(positive.sum())

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._documentation)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        with self._lock:
            cumulated, total = self._counts.cumsum(), self._sum
        buckets = [(floatToGoString(bound), float(count)) for bound, count in zip(self._bounds, cumulated, strict=True)]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)


class Metrics:
    """The metrics of one process, registered in `registry`. Methods may be called from any thread.

    Ingest: `decoded`, `dead_letter`. Stages: `judged`, `aged`, `batch`, `timed_stage`, `timed_publish`, `skipped`, `lag`,
    `checkpointed`, `republished`. Learner: `updated`. Serving: `visible`, `cached`, `refused`, `served`. Process: `restarted`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # a creation time per series doubles the scrape and answers no question of ours
        self._registry = registry
        self._define_ingest()
        self._define_stages()
        self._define_lag_and_checkpoints()
        self._define_learner()
        self._define_serving()
        self._define_process()

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"freshet_{name}", documentation, labels, registry=self._registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"freshet_{name}", documentation, labels, registry=self._registry)

    def _histogram(self, name: str, documentation: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"freshet_{name}", documentation, labels, registry=self._registry, buckets=buckets)

    def _bulk(self, name: str, documentation: str, buckets: Sequence[float]) -> BulkHistogram:
        return BulkHistogram(f"freshet_{name}", documentation, buckets, self._registry)

    # Ingest

    def _define_ingest(self) -> None:
        self.messages = self._counter("messages_total", "Messages read from producers' topics, by what became of them", "topic", "outcome")
        self.dead_letters = self._counter("dead_letters_total", "Messages sent to a dead-letter topic", "topic", "category")
        self.foreign_keys = self._counter("foreign_keys_total", "Accepted messages whose key is not the id in their value", "topic")
        self.missing_keys = self._counter("missing_keys_total", "Accepted messages without a key", "topic")

    def decoded(self, topic: str, rows: int, foreign_keys: int, missing_keys: int) -> None:
        """A run of messages was accepted as `rows` rows."""
        self.messages.labels(topic, "accepted").inc(rows)
        self.foreign_keys.labels(topic).inc(foreign_keys)
        self.missing_keys.labels(topic).inc(missing_keys)

    def dead_letter(self, topic: str, category: str) -> None:
        """One message of `topic` was refused."""
        self.messages.labels(topic, "dead_letter").inc()
        self.dead_letters.labels(topic, category).inc()

    # Stages

    def _define_stages(self) -> None:
        self.events = self._counter("events_total", "Events that reached the feature stage, by its judgement", "outcome")
        for outcome in EVENT_OUTCOMES:
            self.events.labels(outcome)
        self.event_age = self._bulk("event_age_seconds", "Kafka timestamp less event time, of accepted events", AGE_BUCKETS)
        self.batch_rows = self._histogram("batch_rows", "Rows of a record written", ROWS_BUCKETS, "stage")
        self.batch_bytes = self._histogram("batch_bytes", "Bytes of a record written", BYTES_BUCKETS, "stage")
        self.apply_seconds = self._histogram("apply_seconds", "Time to apply what waited: one record or several", APPLY_BUCKETS, "stage")
        self.publish_seconds = self._histogram("publish_seconds", "Time to gather and encode one publication", APPLY_BUCKETS, "stage")
        self.skipped_rows = self._counter("skipped_rows_total", "Rows skipped because they were applied before", "stage")

    def judged(self, outcome: str, events: int) -> None:
        """The feature stage found this many events to be `outcome`, one of EVENT_OUTCOMES."""
        self.events.labels(outcome).inc(events)

    def aged(self, seconds: np.ndarray) -> None:
        """Float [n]: how old accepted events were when Kafka got them."""
        self.event_age.observe(seconds)

    def batch(self, stage: str, rows: int, size_bytes: int) -> None:
        """A record of `rows` rows was written by `stage`."""
        self.batch_rows.labels(stage).observe(rows)
        self.batch_bytes.labels(stage).observe(size_bytes)

    def timed_stage(self, stage: str) -> AbstractContextManager[object]:
        """Times one call of a stage."""
        return self.apply_seconds.labels(stage).time()

    def timed_publish(self, stage: str) -> AbstractContextManager[object]:
        """Times one publication."""
        return self.publish_seconds.labels(stage).time()

    def skipped(self, stage: str, rows: int) -> None:
        """Rows that a stage had seen already."""
        self.skipped_rows.labels(stage).inc(rows)

    def _define_lag_and_checkpoints(self) -> None:
        each = ("stage", "partition")
        self.lag_records = self._gauge("lag_records", "End of the input partition less own position", *each)
        self.lag_seconds = self._gauge("lag_seconds", "Now less the Kafka timestamp of the last record applied", *each)
        self.republish_round = self._gauge("republish_round_seconds", "How long the last round over all rows took", *each)
        self.checkpoint_seconds = self._histogram("checkpoint_seconds", "Time to make a checkpoint durable", CHECKPOINT_BUCKETS, *each)
        self.checkpoint_bytes = self._gauge("checkpoint_bytes", "Size of the newest checkpoint, linked files included", *each)
        self.checkpoint_timestamp = self._gauge("checkpoint_timestamp_seconds", "When the newest checkpoint was made", *each)

    def republished(self, stage: str, partition: int, seconds: float) -> None:
        """Every row of a stage partition was published once more."""
        self.republish_round.labels(stage, partition).set(seconds)

    def lag(self, stage: str, partition: int, records: int, seconds: float) -> None:
        """How far a stage partition is behind its input."""
        self.lag_records.labels(stage, partition).set(records)
        self.lag_seconds.labels(stage, partition).set(seconds)

    def checkpointed(self, stage: str, partition: int, seconds: float, directory: Path) -> None:
        """A checkpoint became durable in `directory`."""
        self.checkpoint_seconds.labels(stage, partition).observe(seconds)
        self.checkpoint_bytes.labels(stage, partition).set(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()))
        self.checkpoint_timestamp.labels(stage, partition).set_to_current_time()

    # Learner

    def _define_learner(self) -> None:
        self.updates = self._counter("updates_total", "Gradient updates", "learner")
        self.nonfinite_updates = self._counter("nonfinite_updates_total", "Updates left out because they were not finite", "learner")

    def updated(self, learner: str, updates: int, nonfinite: int) -> None:
        """A part of the learner stage learned."""
        self.updates.labels(learner).inc(updates)
        self.nonfinite_updates.labels(learner).inc(nonfinite)

    # Serving

    def _define_serving(self) -> None:
        self.freshness = self._bulk("freshness_seconds", "Kafka timestamp of an event until visible in the cache", FRESHNESS_BUCKETS)
        self.cache_rows = self._gauge("cache_rows", "Rows held by the serving cache", "table")
        self.cache_version = self._gauge("cache_version", "Input rows behind the newest publication applied", "writer")
        self.cache_refused_rows = self._counter("cache_refused_rows_total", "Published rows that the cache refused", "reason")
        self.serving_seconds = self._histogram("serving_seconds", "Time to answer, by the link that answered", SERVING_BUCKETS, "source")
        for reason in REFUSALS:
            self.cache_refused_rows.labels(reason)
        for source in SOURCES:
            self.serving_seconds.labels(source)

    def visible(self, seconds: np.ndarray) -> None:
        """Float [n]: the freshness of each event that a delta made visible."""
        self.freshness.observe(seconds)

    def cached(self, rows: Mapping[str, int], versions: Mapping[str, int]) -> None:
        """What the cache holds: rows per table, version per writer."""
        for table, count in rows.items():
            self.cache_rows.labels(table).set(count)
        for writer, newest in versions.items():
            self.cache_version.labels(writer).set(newest)

    def refused(self, reason: str, rows: int) -> None:
        """Rows of a delta that the cache did not take, for one of REFUSALS."""
        self.cache_refused_rows.labels(reason).inc(rows)

    def served(self, source: str, seconds: float) -> None:
        """A request was answered by one of SOURCES."""
        self.serving_seconds.labels(source).observe(seconds)

    # Process

    def _define_process(self) -> None:
        self.restarts = self._counter("restarts_total", "Child processes started again after they died", "process")
        self.build = Info("freshet_build", "The running build", registry=self._registry)
        self.build.info({"version": version(), "python": platform.python_version()})

    def restarted(self, process: str) -> None:
        """One of PROCESSES died and was started again."""
        self.restarts.labels(process).inc()
