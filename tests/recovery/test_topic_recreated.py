"""Positions that no log can continue: an error that names the way out, never a silent jump; and groups ahead of the checkpoints."""

import shutil
from itertools import islice
from pathlib import Path

import pytest
from kafka import TopicPartition

from core.errors import PositionLostError
from core.position import Upstream
from features.user_stage import UserStage
from streams import bundled, pipeline, topics
from streams.broker import EmbeddedBroker
from streams.replay import replay_topic
from streams.settings import Settings
from tests import live, streams_support

pytestmark = pytest.mark.kafka
EVENTS = 300
WAY_OUT = "set `namespace`"


@pytest.fixture
def s(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> Settings:
    """A short run behind us: events ingested, the user stage checkpointed at the end of `batches`."""
    made = live.settings(broker.bootstrap_servers, namespace, tmp_path, events_partitions=1, batches_partitions=1)
    _send_events(made, 0)
    streams_support.compute_features(made, tmp_path / "first")
    return made


def _send_events(s: Settings, start: int) -> None:
    live.produce(s, list(islice(bundled.event_messages(), start, start + EVENTS)), s.events_topic)
    streams_support.ingest_all(s)


def _batches(s: Settings) -> Upstream:
    [upstream] = live.upstreams(s, s.batches_topic)
    return upstream


def test_batches_made_anew_and_shorter(s: Settings, tmp_path: Path) -> None:
    streams_support.recreate(s, s.batches_topic)
    with pytest.raises(PositionLostError, match=WAY_OUT) as lost:
        streams_support.compute_features(s, tmp_path / "second")
    assert "goes on at" in str(lost.value)


def test_batches_made_anew_and_longer(s: Settings, tmp_path: Path) -> None:
    behind = live.checkpointed(s, pipeline.FEATURES, s.batches_topic)[0]
    streams_support.recreate(s, s.batches_topic)
    _send_events(s, EVENTS)
    while live.end(s, _batches(s)) <= behind:
        _send_events(s, 0)
    with pytest.raises(PositionLostError, match=WAY_OUT) as lost:
        streams_support.compute_features(s, tmp_path / "second")
    assert "id is now" in str(lost.value)


def test_events_made_anew(s: Settings) -> None:
    streams_support.recreate(s, s.events_topic)
    with pytest.raises(PositionLostError, match=WAY_OUT):
        streams_support.ingest_all(s)
    live.produce(s, list(islice(bundled.event_messages(), 2 * EVENTS)), s.events_topic)
    with pytest.raises(PositionLostError, match="made anew"):  # now the old position is in range, and its topic's id is not
        streams_support.ingest_all(s)


def test_batches_cut_above_the_checkpoint(s: Settings, tmp_path: Path) -> None:
    behind = live.checkpointed(s, pipeline.FEATURES, s.batches_topic)[0]
    _send_events(s, EVENTS)
    _send_events(s, 2 * EVENTS)
    _cut(s, s.batches_topic, behind + 1)
    with pytest.raises(PositionLostError, match=WAY_OUT) as lost:
        streams_support.compute_features(s, tmp_path / "second")
    assert f"holds {behind + 1}.." in str(lost.value)
    assert f"the checkpoint goes on at {behind};" in str(lost.value)


def test_events_cut_above_what_was_ingested(s: Settings) -> None:
    live.produce(s, list(islice(bundled.event_messages(), EVENTS, EVENTS + 10)), s.events_topic)
    _cut(s, s.events_topic, EVENTS + 1)
    with pytest.raises(PositionLostError, match=WAY_OUT):
        streams_support.ingest_all(s)


def _cut(s: Settings, topic: str, first: int) -> None:
    """As retention does: the log starts here."""
    with topics.admin(s) as admin:
        admin.client.delete_records({TopicPartition(topic, 0): first})


def test_a_cut_up_to_the_checkpoint_is_no_loss(s: Settings, tmp_path: Path) -> None:
    _send_events(s, EVENTS)
    _cut(s, s.batches_topic, live.checkpointed(s, pipeline.FEATURES, s.batches_topic)[0])
    streams_support.compute_features(s, tmp_path / "second")
    assert _digest(s, tmp_path)[1] == 2 * EVENTS


def test_a_group_ahead_of_emptied_checkpoints_is_moved_back(s: Settings, tmp_path: Path) -> None:
    tp, end = TopicPartition(s.batches_topic, 0), live.end(s, _batches(s))
    group = f"{s.namespace}{pipeline.FEATURES}"
    with topics.admin(s) as admin:
        admin.commit(group, {tp: end})
        assert admin.committed(group, [tp]) == {tp: end}
    before = _digest(s, tmp_path / "before")
    shutil.rmtree(s.state_dir)
    streams_support.compute_features(s, tmp_path / "second")
    replayed, _ = replay_topic(s, _batches(s), pipeline.user_stage(s, _batches(s), tmp_path / "replayed"))
    assert _digest(s, tmp_path / "after") == before == (replayed.stage.digest(), EVENTS)
    replayed.stage.close()


def _digest(s: Settings, directory: Path) -> tuple[str, int]:
    """The user stage as its newest checkpoint has it, and how many events it took."""
    driver = live.restored(s, pipeline.FEATURES, _batches(s), pipeline.user_stage(s, _batches(s), directory))
    assert isinstance(driver.stage, UserStage)
    digest, accepted = driver.stage.digest(), driver.stage.outcomes["accepted"]
    driver.stage.close()
    return digest, accepted
