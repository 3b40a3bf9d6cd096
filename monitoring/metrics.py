"""Every metric that Freshet exports, and the only place where one is made.

Names follow prometheus.io/docs/practices/naming: prefix `freshet_`, base units, counters end in `_total`, no label name inside a
metric name. A label's values are a closed set or bounded by the settings; ids and messages are never labels.
"""

import contextlib
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from core.labels import JOIN_OUTCOMES
from core.labels import KINDS as LABEL_KINDS

MESSAGE_OUTCOMES = ("accepted", "dead_letter")
EVENT_OUTCOMES = ("accepted", "duplicate", "late", "future")
STAGES = ("ingest", "features", "learner", "server")
SOURCES = ("personal", "similar", "popular", "newest", "none")
REFUSALS = ("nonfinite", "stale")
PROCESSES = ("broker", "ingest", "features", "learner", "server", "page")
KINDS = ("users", "items", "authors", "categories")
CAUSES = ("first", "content", "behaviour", "codebook")  # of a change of tokens
LISTS = ("served", "popular")
STORE_USES = ("tables", "buffers")

CLOSED_LABELS: Mapping[str, tuple[str, ...]] = {
    "outcome": tuple(dict.fromkeys(MESSAGE_OUTCOMES + EVENT_OUTCOMES + JOIN_OUTCOMES)),
    "stage": STAGES,
    "source": SOURCES,
    "reason": REFUSALS,
    "child": PROCESSES,  # not "process": scrape configurations use that
    "kind": KINDS + LABEL_KINDS,
    "cause": CAUSES,
    "list": LISTS,
    "use": STORE_USES,
}
BOUNDED_LABELS: Mapping[str, str] = {
    "topic": "topics named in the settings",
    "partition": "number of partitions in the settings",
    "category": "ways to break the contract, a list in the code",
    "learner": "parts of the learner stage",
    "table": "tables that the learner stage publishes",
    "writer": "stage partitions that publish",
    "level": "levels of the tokenizer",
    "label": "labels in the settings",
}

APPLY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
CHECKPOINT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SERVING_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
FRESHNESS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60)
AGE_BUCKETS = (0.1, 1, 10, 60, 300, 900, 3_600, 10_800, 43_200, 86_400, 604_800)
DELAY_BUCKETS = (1, 10, 30, 60, 300, 900, 1_800, 3_600, 10_800, 43_200, 86_400, 259_200)
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

    def __init__(self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry | None) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = np.array([*buckets, np.inf])
        self._counts = np.zeros(len(self._bounds), dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        if registry is not None:
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


def _drop(metric: Gauge | Histogram, *labels: object) -> None:
    with contextlib.suppress(KeyError):  # never set
        metric.remove(*labels)


class Metrics:
    """The metrics of one process. Methods may be called from any thread.

    Ingest: `decoded`, `dead_letter`, `members`. Stages: `judged`, `aged`, `batch`, `timed_stage`, `timed_publish`, `skipped`, `lag`,
    `opened`, `checkpointed`, `republished`, `published`, `stored`, `left`. Labels: `joined`, `undecided`, `labelled`, `missed`,
    `modelled`. Learner: `updated`, `held`, `turned_over`, `recoded`, `tokenized`. Serving: `visible`, `cached`, `applied`, `refused`,
    `served`, `listed`, `overtaken`. Process: `restarted`.
    """

    def __init__(self, registry: CollectorRegistry, process: str = "") -> None:
        """Register in `registry` what `process` measures: a zero of what it does not would be a lie. Without a process, everything."""
        disable_created_metrics()  # a creation time per series doubles the scrape and answers no question of ours
        sections: dict[Callable[[], None], tuple[str, ...]] = {
            self._define_ingest: ("ingest",),
            self._define_features: ("features",),
            self._define_labels: ("features",),
            self._define_records: ("ingest", "features"),
            self._define_lag: ("ingest", "features", "learner", "server"),
            self._define_stages: ("features", "learner"),
            self._define_learner: ("learner",),
            self._define_label_models: ("learner",),
            self._define_tokens: ("learner",),
            self._define_serving: ("server",),
            self._define_prequential: ("server",),
            self._define_restarts: ("up",),
        }
        for define, processes in sections.items():
            self._registry = registry if not process or process in processes else None
            define()
        self.build = Info("freshet_build", "The running build", registry=registry)
        self.build.info({"version": version(), "python": platform.python_version()})

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
        self.group_members = self._gauge("group_members", "Workers that Kafka counts in the group of a stage", "stage")

    def members(self, stage: str, count: int) -> None:
        """Kafka counts this many workers of a stage."""
        self.group_members.labels(stage).set(count)

    def decoded(self, topic: str, rows: int, foreign_keys: int, missing_keys: int) -> None:
        """A run of messages was accepted as `rows` rows."""
        self.messages.labels(topic, "accepted").inc(rows)
        self.messages.labels(topic, "dead_letter")  # there before the first, so that a ratio has both
        self.foreign_keys.labels(topic).inc(foreign_keys)
        self.missing_keys.labels(topic).inc(missing_keys)

    def dead_letter(self, topic: str, category: str) -> None:
        """One message of `topic` was refused."""
        self.messages.labels(topic, "dead_letter").inc()
        self.dead_letters.labels(topic, category).inc()

    # Features

    def _define_features(self) -> None:
        self.events = self._counter("events_total", "Events that reached the feature stage, by its judgement", "outcome")
        for outcome in EVENT_OUTCOMES:
            self.events.labels(outcome)
        self.event_age = self._bulk("event_age_seconds", "Kafka timestamp less event time, of accepted events", AGE_BUCKETS)
        self.store_bytes = self._gauge("store_bytes", "Size of the state store, by what it is used for", "stage", "partition", "use")
        self.store_cache_bytes = self._gauge("store_cache_bytes", "Block cache in use, shared by the stores of the process")

    def judged(self, outcome: str, events: int) -> None:
        """The feature stage found this many events to be `outcome`, one of EVENT_OUTCOMES."""
        self.events.labels(outcome).inc(events)

    def aged(self, seconds: np.ndarray) -> None:
        """Float [n]: how old accepted events were when Kafka got them."""
        self.event_age.observe(seconds)

    def stored(self, stage: str, partition: int, sizes_bytes: Mapping[str, int]) -> None:
        """What a stage partition's store takes: STORE_USES, and `cache` of the process."""
        for use in STORE_USES:
            self.store_bytes.labels(stage, partition, use).set(sizes_bytes[use])
        self.store_cache_bytes.set(sizes_bytes["cache"])

    # Labels

    def _define_labels(self) -> None:
        self.join_outcomes = self._counter(
            "join_outcomes_total", "Impressions, and events that could make them positive, by what became of them", "label", "outcome"
        )
        self.open_impressions = self._gauge("open_impressions_rows", "Impressions whose label is undecided", "label", "partition")
        self.labelled_rows = self._counter("labelled_rows_total", "Label rows written, by what they say", "label", "kind")
        self.labelled_delay = self._histogram(
            "labelled_delay_seconds", "Event time from an impression to its label row", DELAY_BUCKETS, "label"
        )

    def joined(self, label: str, outcomes: Mapping[str, int]) -> None:
        """Impressions, and events that could make them positive, ended so: JOIN_OUTCOMES."""
        for outcome, count in outcomes.items():
            self.join_outcomes.labels(label, outcome).inc(count)

    def undecided(self, label: str, partition: int, impressions: int) -> None:
        """How many impressions of a partition await their label."""
        self.open_impressions.labels(label, partition).set(impressions)

    def labelled(self, label: str, kinds: Mapping[str, int], delays_seconds: Sequence[float]) -> None:
        """Label rows were written, of these kinds, so long after their impressions."""
        for kind, rows in kinds.items():
            self.labelled_rows.labels(label, kind).inc(rows)
        observe = self.labelled_delay.labels(label).observe
        for seconds in delays_seconds:
            observe(seconds)

    # Records between stages

    def _define_records(self) -> None:
        self.batch_rows = self._histogram("batch_rows", "Rows of a record written", ROWS_BUCKETS, "stage")
        self.batch_bytes = self._histogram("batch_bytes", "Bytes of a record written", BYTES_BUCKETS, "stage")

    def batch(self, stage: str, rows: int, size_bytes: int) -> None:
        """A record of `rows` rows was written by `stage`."""
        self.batch_rows.labels(stage).observe(rows)
        self.batch_bytes.labels(stage).observe(size_bytes)

    def _define_lag(self) -> None:
        inputs = ("stage", "topic", "partition")
        self.lag_records = self._gauge("lag_records", "End of the input partition less own position", *inputs)
        self.lag_seconds = self._gauge("lag_seconds", "Now less the Kafka timestamp of the last record applied, 0 at the end", *inputs)

    def lag(self, stage: str, topic: str, partition: int, records: int, seconds: float) -> None:
        """How far a stage is behind a partition of its input."""
        self.lag_records.labels(stage, topic, partition).set(records)
        self.lag_seconds.labels(stage, topic, partition).set(seconds)

    # Stages

    def _define_stages(self) -> None:
        each = ("stage", "partition")
        self.apply_seconds = self._histogram("apply_seconds", "Time to apply what waited: one record or several", APPLY_BUCKETS, "stage")
        self.publish_seconds = self._histogram("publish_seconds", "Time to gather and encode one publication", APPLY_BUCKETS, "stage")
        self.skipped_rows = self._counter("skipped_rows_total", "Rows skipped because they were applied before", "stage")
        self.republish_round = self._gauge("republish_round_seconds", "How long the last round over all rows took", *each)
        self.checkpoint_seconds = self._histogram("checkpoint_seconds", "Time to make a checkpoint durable", CHECKPOINT_BUCKETS, *each)
        self.checkpoint_bytes = self._gauge("checkpoint_bytes", "Size of the newest checkpoint, linked files included", *each)
        self.checkpoint_timestamp = self._gauge("checkpoint_timestamp_seconds", "When the newest checkpoint was made", *each)
        self.published_version = self._gauge("published_version", "Input rows behind the newest publication sent", "writer")

    def timed_stage(self, stage: str) -> AbstractContextManager[object]:
        """Times one call of a stage."""
        return self.apply_seconds.labels(stage).time()

    def timed_publish(self, stage: str) -> AbstractContextManager[object]:
        """Times one publication."""
        return self.publish_seconds.labels(stage).time()

    def skipped(self, stage: str, rows: int) -> None:
        """Rows that a stage had seen already."""
        self.skipped_rows.labels(stage).inc(rows)

    def opened(self, stage: str, partition: int, checkpoint_at: float) -> None:
        """A stage partition was taken up, from a checkpoint made at that time (Unix seconds), or without one then."""
        self.checkpoint_timestamp.labels(stage, partition).set(checkpoint_at)

    def checkpointed(self, stage: str, partition: int, seconds: float, directory: Path) -> None:
        """A checkpoint became durable in `directory`."""
        self.checkpoint_seconds.labels(stage, partition).observe(seconds)
        self.checkpoint_bytes.labels(stage, partition).set(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()))
        self.checkpoint_timestamp.labels(stage, partition).set_to_current_time()

    def republished(self, stage: str, partition: int, seconds: float) -> None:
        """Every row of a stage partition was published once more."""
        self.republish_round.labels(stage, partition).set(seconds)

    def published(self, writer: str, version: int) -> None:
        """A publication of a stage partition went out."""
        self.published_version.labels(writer).set(version)

    def left(self, stage: str, topic: str, partition: int) -> None:
        """A stage partition is another process's now: what was said of it here would stand still for ever."""
        for gauge in (self.lag_records, self.lag_seconds):
            _drop(gauge, stage, topic, partition)
        for metric in (self.republish_round, self.checkpoint_seconds, self.checkpoint_bytes, self.checkpoint_timestamp):
            _drop(metric, stage, partition)
        _drop(self.published_version, f"{stage}/{partition}")
        for use in STORE_USES:
            _drop(self.store_bytes, stage, partition, use)
        if stage == "features":
            self.open_impressions.remove_by_labels({"partition": str(partition)})

    # Learner

    def _define_learner(self) -> None:
        self.updates = self._counter("updates_total", "Gradient updates", "learner")
        self.nonfinite_updates = self._counter("nonfinite_updates_total", "Updates left out because they were not finite", "learner")
        self.training_loss = self._gauge("training_loss_ewma", "Mean loss of an update before it is made, recent ones first", "learner")
        self.held_rows = self._gauge("held_rows", "Rows in use", "learner", "kind")
        self.capacity_rows = self._gauge("capacity_rows", "Rows that there is room for", "learner", "kind")
        self.admissions = self._counter("admissions_total", "Ids that were given a row", "learner", "kind")
        self.evictions = self._counter("evictions_total", "Ids longest unused that lost their row to make room", "learner", "kind")

    def updated(self, learner: str, updates: int, nonfinite: int, loss: float) -> None:
        """A part of the learner stage learned; `loss` is its moving average, NaN before the first update."""
        self.updates.labels(learner).inc(updates)
        self.nonfinite_updates.labels(learner).inc(nonfinite)
        self.training_loss.labels(learner).set(loss)

    def held(self, learner: str, kind: str, rows: int, capacity: int) -> None:
        """How many rows of KINDS a part of the learner stage has in use."""
        self.held_rows.labels(learner, kind).set(rows)
        self.capacity_rows.labels(learner, kind).set(capacity)

    def turned_over(self, learner: str, kind: str, admitted: int, evicted: int) -> None:
        """Ids came into a table, and went to make room."""
        self.admissions.labels(learner, kind).inc(admitted)
        self.evictions.labels(learner, kind).inc(evicted)

    def _define_label_models(self) -> None:
        self.missing_impressions = self._counter("missing_impressions_total", "Label rows whose impression the learner no longer had")
        self.prediction_loss = self._gauge(
            "prediction_loss_ewma", "Log loss of the label's model before it learns, recent impressions first", "label"
        )
        self.predicted = self._gauge("predicted_ratio", "Mean predicted probability, recent impressions first", "label")
        self.observed_share = self._gauge("observed_ratio", "Share of positive labels, recent impressions first", "label")
        self.clipped_predictions = self._counter(
            "clipped_predictions_total", "Rows at which a model of policy fnc gave no probability", "label"
        )

    def missed(self, rows: int) -> None:
        """Label rows came too late for their impressions."""
        self.missing_impressions.inc(rows)

    def modelled(self, label: str, log_loss: float, predicted: float, observed: float, clipped: int) -> None:
        """What the model of a label is worth: decayed means, NaN before the first label; rows clipped since the last call."""
        self.prediction_loss.labels(label).set(log_loss)
        self.predicted.labels(label).set(predicted)
        self.observed_share.labels(label).set(observed)
        self.clipped_predictions.labels(label).inc(clipped)

    def _define_tokens(self) -> None:
        self.token_changes = self._counter("token_changes_total", "Items whose tokens changed, by what moved", "cause")
        self.token_encodes = self._counter("token_encodes_total", "Searches for the best tokens of an item, changed or not")
        self.tokenized_rows = self._gauge("tokenized_rows", "Items with tokens")
        self.token_utilisation = self._gauge("token_utilisation_ratio", "Words in use at the last pass of a refresh", "level")
        self.token_collisions = self._gauge("token_collisions_ratio", "Items that share all tokens with another")
        self.token_distortion = self._gauge("token_distortion_ratio", "Squared error over squared norm at the last pass of a refresh")
        self.codebook_version = self._gauge("codebook_version", "Input rows behind the published codebook, -1 before the first")

    def recoded(self, changes: Mapping[str, int], encodes: int) -> None:
        """Tokens changed, by CAUSES; `encodes` searches were made."""
        for cause, count in changes.items():
            self.token_changes.labels(cause).inc(count)
        self.token_encodes.inc(encodes)

    def tokenized(self, rows: int, collisions: float, distortion: float, utilisation: Sequence[float], codebook: int) -> None:
        """The state of the tokenizer: ratios in [0, 1], `utilisation` by level."""
        self.tokenized_rows.set(rows)
        self.token_collisions.set(collisions)
        self.token_distortion.set(distortion)
        self.codebook_version.set(codebook)
        for level, used in enumerate(utilisation):
            self.token_utilisation.labels(level).set(used)

    # Serving

    def _define_serving(self) -> None:
        self.freshness = self._bulk("freshness_seconds", "Kafka timestamp of an event until visible in the cache", FRESHNESS_BUCKETS)
        self.cache_rows = self._gauge("cache_rows", "Rows held by the serving cache", "table")
        self.cache_bytes = self._gauge("cache_bytes", "Size of the serving cache", "table")
        self.cache_version = self._gauge("cache_version", "Input rows behind the newest publication applied", "writer")
        self.cache_timestamp = self._gauge("cache_timestamp_seconds", "When the newest publication was applied", "writer")
        self.cache_refused_rows = self._counter("cache_refused_rows_total", "Published rows that the cache refused", "reason")
        self.serving_seconds = self._histogram("serving_seconds", "Time to answer, by the link that answered", SERVING_BUCKETS, "source")
        for reason in REFUSALS:
            self.cache_refused_rows.labels(reason)
        for source in SOURCES:
            self.serving_seconds.labels(source)

    def visible(self, seconds: np.ndarray) -> None:
        """Float [n]: the freshness of each event that a delta made visible."""
        self.freshness.observe(seconds)

    def cached(self, table: str, rows: int, size_bytes: int) -> None:
        """What the cache holds of a table."""
        self.cache_rows.labels(table).set(rows)
        self.cache_bytes.labels(table).set(size_bytes)

    def applied(self, writer: str, version: int) -> None:
        """A publication of `writer` is visible."""
        self.cache_version.labels(writer).set(version)
        self.cache_timestamp.labels(writer).set_to_current_time()

    def refused(self, reason: str, rows: int) -> None:
        """Rows of a delta that the cache did not take, for one of REFUSALS."""
        self.cache_refused_rows.labels(reason).inc(rows)

    def served(self, source: str, seconds: float) -> None:
        """A request was answered by one of SOURCES."""
        self.serving_seconds.labels(source).observe(seconds)

    def _define_prequential(self) -> None:
        self.prequential_judged = self._counter("prequential_judged_total", "Clicks looked for in the lists from before them")
        self.prequential_hits = self._counter("prequential_hits_total", "Clicks on an item of the list", "list")
        self.prequential_ranks = self._counter("prequential_reciprocal_ranks_total", "Sum of 1 / rank of the items clicked", "list")
        self.prequential_overtaken = self._counter("prequential_overtaken_total", "Clicks left out: the cache knew of them already")
        for name in LISTS:
            self.prequential_hits.labels(name)
            self.prequential_ranks.labels(name)

    def listed(self, reciprocal_ranks: Mapping[str, float]) -> None:
        """A click was looked for in each of LISTS: 1 / rank, 0 where it was not in it."""
        self.prequential_judged.inc()
        for name, reciprocal_rank in reciprocal_ranks.items():
            self.prequential_hits.labels(name).inc(reciprocal_rank > 0)
            self.prequential_ranks.labels(name).inc(reciprocal_rank)

    def overtaken(self) -> None:
        """A click came too late to be judged."""
        self.prequential_overtaken.inc()

    # Supervisor

    def _define_restarts(self) -> None:
        self.restarts = self._counter("restarts_total", "Child processes started again after they died", "child")
        for process in PROCESSES:
            self.restarts.labels(process)

    def restarted(self, process: str) -> None:
        """One of PROCESSES died and was started again."""
        self.restarts.labels(process).inc()
