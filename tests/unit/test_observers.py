"""What the metrics say of real stages equals what the stages say of themselves, and only what came since they were taken up counts."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.composite import CompositeStage
from learners.supa.learner import SupaLearner
from learners.tokenizer.learner import TokenizerLearner
from monitoring.metrics import Metrics
from streams import bundled
from streams.observers import FeatureObserver, LearnerObserver
from streams.replay import LocalPipeline
from streams.settings import load

SETTINGS = load(batches_partitions=1, max_users=4_096, max_items=4_096, dimensions=16, token_words=8)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalPipeline]:
    """A pipeline that has learned two thousand events already."""
    local = LocalPipeline(SETTINGS, tmp_path)
    local.feed_items(islice(bundled.item_messages(), 300))
    local.feed_events(islice(bundled.event_messages(), 2_000))
    yield local
    local.close()


def test_the_learner_tells_what_came_since(local: LocalPipeline, registry: CollectorRegistry) -> None:
    stage = local.learner.stage
    assert isinstance(stage, CompositeStage)
    *_, supa, tokens = stage.parts
    assert isinstance(supa, SupaLearner) and isinstance(tokens, TokenizerLearner)
    observer, before = LearnerObserver(stage, Metrics(registry)), (supa.updates, supa.users.ids.admitted, tokens.recoded, tokens.encodes)
    observer.look()
    local.feed_events(islice(bundled.event_messages(), 2_000, 4_000))
    observer.look()
    observer.look()  # a look changes nothing by itself

    told = {"learner": "supa", "kind": "users"}
    assert value(registry, "updates_total", learner="supa") == supa.updates - before[0] > 0
    assert value(registry, "admissions_total", **told) == supa.users.ids.admitted - before[1] > 0
    assert value(registry, "held_rows", **told) == len(supa.users.ids)
    assert value(registry, "capacity_rows", **told) == 4_096
    assert 0 < value(registry, "training_loss_ewma", learner="supa") == supa.loss < 10
    for cause, total in tokens.recoded.items():
        assert value(registry, "token_changes_total", cause=cause) == total - before[2][cause]
    assert value(registry, "token_encodes_total") == tokens.encodes - before[3] > 0
    assert value(registry, "tokenized_rows") == tokens.items > 100
    assert value(registry, "token_utilisation_ratio", level="0") == tokens.utilisation[0] > 0
    assert 0 < value(registry, "token_distortion_ratio") == tokens.distortion < 1
    assert value(registry, "token_collisions_ratio") == tokens.collisions < 1
    assert value(registry, "codebook_version") == tokens.codebook_version


def test_evictions_are_told(tmp_path: Path, registry: CollectorRegistry) -> None:
    local = LocalPipeline(SETTINGS, tmp_path)
    observer = LearnerObserver(local.learner.stage, Metrics(registry))
    local.feed_events([(None, b'{"type": "click", "user_id": "u%d", "item_id": "i", "ts": 1767225600000}' % at) for at in range(6_000)])
    observer.look()
    local.close()
    told = {"learner": "supa", "kind": "users"}
    gone = value(registry, "evictions_total", **told)
    assert gone > 1_000
    assert value(registry, "held_rows", **told) == 6_000 - gone
    assert value(registry, "admissions_total", **told) == 6_000


def test_the_feature_stage_tells_outcomes_and_the_size_of_its_store(local: LocalPipeline, registry: CollectorRegistry) -> None:
    [driver] = local.users
    observer, before = FeatureObserver(driver.stage, Metrics(registry)), dict(driver.stage.outcomes)
    local.feed_events(islice(bundled.event_messages(), 2_000, 3_000))
    observer.applied([])
    observer.look()
    for outcome, total in driver.stage.outcomes.items():
        assert value(registry, "events_total", outcome=outcome) == total - before[outcome]
    assert value(registry, "events_total", outcome="accepted") == 1_000
    sizes = driver.stage.store.sizes_bytes()
    assert value(registry, "store_bytes", stage="features", partition="0", use="buffers") == sizes["buffers"] > 0


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = registry.get_sample_value(f"freshet_{name}", labels)
    assert found is not None, (name, labels)
    return found
