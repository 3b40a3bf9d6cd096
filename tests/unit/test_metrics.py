"""Metric names follow the conventions, labels are bounded, and every method lands where it says."""

import platform
import re
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from monitoring import metrics
from monitoring.metrics import BOUNDED_LABELS, CLOSED_LABELS, STAGES, BulkHistogram, Metrics, version

BASE_UNITS = ("seconds", "bytes", "ratio")
COUNTED = ("rows", "records", "members", "version", "ewma", "info")  # what a gauge or histogram without a base unit may end in
NOT_BASE_UNITS = re.compile(r"_(ms|milliseconds|micros|minutes|hours|days|kb|mb|mib|kib|percent)(_|$)")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def used(registry: CollectorRegistry, tmp_path: Path) -> Metrics:
    """Metrics of which every method was called once."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "chunk").write_bytes(b"12345")
    (tmp_path / "manifest").write_bytes(b"123")
    m = Metrics(registry)
    m.decoded("events", 5, 2, 1)
    m.dead_letter("events", "missing_field")
    m.judged("late", 3)
    m.aged(np.array([0.05, 70.0]))
    m.batch("ingest", 2_000, 44_000)
    with m.timed_stage("features"), m.timed_publish("learner"):
        pass
    m.skipped("features", 7)
    m.members("features", 2)
    m.lag("learner", "freshet.examples", 0, 12, 0.25)
    m.opened("features", 3, 1_000.5)
    m.checkpointed("learner", 0, 0.5, tmp_path)
    m.republished("learner", 0, 600.0)
    m.published("learner/0", 4_100)
    m.stored("features", 3, {"tables": 100, "buffers": 20, "cache": 7, "cache_limit": 64})
    m.joined("click", {"opened": 4, "matched": 3, "repeated": 0})
    m.undecided("click", 3, 11)
    m.labelled("click", {"in_window": 2, "final_negative": 1}, [30.0, 12.0, 3_000.0])
    m.missed(2)
    m.modelled("click", 0.25, 0.5, 0.125, 3)
    m.updated("supa", 256, 1, 0.75)
    m.held("supa", "users", 10, 4_096)
    m.turned_over("supa", "users", 12, 2)
    m.recoded({"first": 5, "codebook": 3}, 9)
    m.tokenized(5, 0.125, 0.5, [0.25, 1.0], 512)
    m.visible(np.array([0.004, 0.3, 0.3, 100.0, -0.2]))
    m.cached("items", 10, 640)
    m.applied("learner/0", 4_096)
    m.refused("nonfinite", 2)
    m.served("personal", 0.0002)
    m.listed({"served": 0.5, "popular": 0.0})
    m.listed({"served": 0.25, "popular": 1.0})
    m.overtaken()
    m.restarted("broker")
    return m


def scrape(registry: CollectorRegistry) -> list[Metric]:
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


def test_names_follow_the_conventions(used: Metrics, registry: CollectorRegistry) -> None:
    families = scrape(registry)
    assert len(families) >= 25
    for family in families:
        assert re.fullmatch(r"freshet_[a-z]+(_[a-z]+)*", family.name), family.name
        assert not NOT_BASE_UNITS.search(family.name), family.name
        assert family.documentation
        if family.type == "counter":
            assert {s.name for s in family.samples} == {family.name + "_total"}, family.name
        else:
            assert family.name.endswith(BASE_UNITS + COUNTED), family.name


def test_no_label_name_is_in_a_metric_name_and_every_label_is_declared(used: Metrics, registry: CollectorRegistry) -> None:
    for family in scrape(registry):
        if family.name == "freshet_build_info":
            continue
        for label in {name for sample in family.samples for name in sample.labels} - {"le"}:
            assert label in {**CLOSED_LABELS, **BOUNDED_LABELS}, (family.name, label)
            assert label not in family.name.split("_"), (family.name, label)


def test_values_of_closed_labels_are_in_their_sets(used: Metrics, registry: CollectorRegistry) -> None:
    seen = {name: value for family in scrape(registry) for sample in family.samples for name, value in sample.labels.items()}
    assert set(CLOSED_LABELS) <= set(seen)  # the loop below meets every closed set
    for family in scrape(registry):
        for sample in family.samples:
            for name, value in sample.labels.items():
                assert value in CLOSED_LABELS.get(name, (value,)), (family.name, name, value)


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("messages_total", {"topic": "events", "outcome": "accepted"}, 5),
        ("messages_total", {"topic": "events", "outcome": "dead_letter"}, 1),
        ("dead_letters_total", {"topic": "events", "category": "missing_field"}, 1),
        ("foreign_keys_total", {"topic": "events"}, 2),
        ("missing_keys_total", {"topic": "events"}, 1),
        ("events_total", {"outcome": "late"}, 3),
        ("events_total", {"outcome": "accepted"}, 0),  # there before it happens, so that a rate sees the first
        ("event_age_seconds_count", {}, 2),
        ("join_outcomes_total", {"label": "click", "outcome": "matched"}, 3),
        ("join_outcomes_total", {"label": "click", "outcome": "repeated"}, 0),
        ("open_impressions_rows", {"label": "click", "partition": "3"}, 11),
        ("labelled_rows_total", {"label": "click", "kind": "in_window"}, 2),
        ("labelled_delay_seconds_sum", {"label": "click"}, 3_042),
        ("missing_impressions_total", {}, 2),
        ("prediction_loss_ewma", {"label": "click"}, 0.25),
        ("predicted_ratio", {"label": "click"}, 0.5),
        ("observed_ratio", {"label": "click"}, 0.125),
        ("clipped_predictions_total", {"label": "click"}, 3),
        ("batch_rows_sum", {"stage": "ingest"}, 2_000),
        ("batch_bytes_sum", {"stage": "ingest"}, 44_000),
        ("apply_seconds_count", {"stage": "features"}, 1),
        ("publish_seconds_count", {"stage": "learner"}, 1),
        ("skipped_rows_total", {"stage": "features"}, 7),
        ("group_members", {"stage": "features"}, 2),
        ("lag_records", {"stage": "learner", "topic": "freshet.examples", "partition": "0"}, 12),
        ("lag_seconds", {"stage": "learner", "topic": "freshet.examples", "partition": "0"}, 0.25),
        ("checkpoint_timestamp_seconds", {"stage": "features", "partition": "3"}, 1_000.5),
        ("republish_round_seconds", {"stage": "learner", "partition": "0"}, 600),
        ("published_version", {"writer": "learner/0"}, 4_100),
        ("store_bytes", {"stage": "features", "partition": "3", "use": "tables"}, 100),
        ("store_bytes", {"stage": "features", "partition": "3", "use": "buffers"}, 20),
        ("store_cache_bytes", {}, 7),
        ("checkpoint_seconds_sum", {"stage": "learner", "partition": "0"}, 0.5),
        ("checkpoint_bytes", {"stage": "learner", "partition": "0"}, 8),
        ("updates_total", {"learner": "supa"}, 256),
        ("nonfinite_updates_total", {"learner": "supa"}, 1),
        ("training_loss_ewma", {"learner": "supa"}, 0.75),
        ("held_rows", {"learner": "supa", "kind": "users"}, 10),
        ("capacity_rows", {"learner": "supa", "kind": "users"}, 4_096),
        ("admissions_total", {"learner": "supa", "kind": "users"}, 12),
        ("evictions_total", {"learner": "supa", "kind": "users"}, 2),
        ("token_changes_total", {"cause": "codebook"}, 3),
        ("token_encodes_total", {}, 9),
        ("tokenized_rows", {}, 5),
        ("token_utilisation_ratio", {"level": "1"}, 1.0),
        ("token_collisions_ratio", {}, 0.125),
        ("token_distortion_ratio", {}, 0.5),
        ("codebook_version", {}, 512),
        ("freshness_seconds_bucket", {"le": "0.005"}, 2),
        ("freshness_seconds_bucket", {"le": "0.5"}, 4),
        ("freshness_seconds_bucket", {"le": "60.0"}, 4),
        ("freshness_seconds_bucket", {"le": "+Inf"}, 5),
        ("cache_rows", {"table": "items"}, 10),
        ("cache_bytes", {"table": "items"}, 640),
        ("cache_version", {"writer": "learner/0"}, 4_096),
        ("prequential_judged_total", {}, 2),
        ("prequential_hits_total", {"list": "served"}, 2),
        ("prequential_hits_total", {"list": "popular"}, 1),
        ("prequential_reciprocal_ranks_total", {"list": "served"}, 0.75),
        ("prequential_overtaken_total", {}, 1),
        ("cache_refused_rows_total", {"reason": "nonfinite"}, 2),
        ("cache_refused_rows_total", {"reason": "stale"}, 0),
        ("serving_seconds_sum", {"source": "personal"}, 0.0002),
        ("restarts_total", {"child": "broker"}, 1),
        ("build_info", {"version": version(), "python": platform.python_version()}, 1),
    ],
)
def test_each_method_counts_where_it_says(
    used: Metrics, registry: CollectorRegistry, name: str, labels: dict[str, str], value: float
) -> None:
    assert registry.get_sample_value(f"freshet_{name}", labels) == value


def test_checkpoint_time_is_now(used: Metrics, registry: CollectorRegistry) -> None:
    at = registry.get_sample_value("freshet_checkpoint_timestamp_seconds", {"stage": "learner", "partition": "0"})
    assert at is not None
    assert 0 <= time.time() - at < 3_600


def test_what_a_partition_left_behind_is_gone_and_the_others_stay(used: Metrics, registry: CollectorRegistry, tmp_path: Path) -> None:
    used.lag("learner", "freshet.examples", 1, 3, 0.5)
    used.checkpointed("learner", 1, 0.5, tmp_path)
    used.left("learner", "freshet.examples", 0)
    used.left("learner", "freshet.examples", 0)  # twice is once
    used.left("features", "freshet.batches", 3)
    left = {sample.name: sample.labels for family in scrape(registry) for sample in family.samples if sample.labels.get("partition")}
    assert left and all(labels == {**labels, "stage": "learner", "partition": "1"} for labels in left.values())
    assert registry.get_sample_value("freshet_published_version", {"writer": "learner/0"}) is None
    assert registry.get_sample_value("freshet_cache_version", {"writer": "learner/0"}) == 4_096  # a server's, not the stage's


def test_no_series_of_creation_times(used: Metrics, registry: CollectorRegistry) -> None:
    assert b"_created" not in generate_latest(registry)


def test_a_process_exports_what_it_measures_and_nothing_else() -> None:
    families: dict[str, set[str]] = {}
    for process in (*STAGES, "page", "up"):
        own = CollectorRegistry()
        Metrics(own, process)
        families[process] = {family.name for family in own.collect()}
    everything = CollectorRegistry()
    Metrics(everything)
    assert set().union(*families.values()) == {family.name for family in everything.collect()}
    assert families["page"] == {"freshet_build"}
    assert families["up"] == {"freshet_build", "freshet_restarts"}
    assert "freshet_cache_version" in families["server"] and "freshet_cache_version" not in families["learner"]
    assert "freshet_updates" in families["learner"] and "freshet_updates" not in families["features"]


def test_two_registries_do_not_share_state(used: Metrics) -> None:
    other = CollectorRegistry()
    Metrics(other)
    assert other.get_sample_value("freshet_freshness_seconds_count") == 0
    assert other.get_sample_value("freshet_skipped_rows_total", {"stage": "features"}) is None


def test_a_second_registration_is_refused(used: Metrics, registry: CollectorRegistry) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)


def test_bulk_histogram_equals_one_observation_at_a_time(registry: CollectorRegistry) -> None:
    buckets = metrics.FRESHNESS_BUCKETS
    drawn = np.random.Generator(np.random.Philox(5)).lognormal(-2.0, 2.5, 500)
    seconds = np.concatenate([drawn, np.array(buckets), np.zeros(1)])  # the bounds themselves belong below
    bulk = BulkHistogram("freshet_bulk_seconds", "text", buckets, registry)
    bulk.observe(seconds[:100])
    bulk.observe(seconds[100:])
    bulk.observe(np.empty(0))
    for bound in buckets:
        wanted = sum(1 for value in seconds if value <= bound)
        assert registry.get_sample_value("freshet_bulk_seconds_bucket", {"le": str(float(bound))}) == wanted
    assert registry.get_sample_value("freshet_bulk_seconds_count") == len(seconds)
    assert registry.get_sample_value("freshet_bulk_seconds_sum") == pytest.approx(seconds.sum())
