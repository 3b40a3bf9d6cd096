"""The same log gives the same state, byte for byte: through Kafka as in one process, and however it is cut into batches."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from freshet.testing import Pipeline
from streams import bundled, pipeline
from streams.broker import EmbeddedBroker
from streams.replay import LocalPipeline
from streams.settings import Settings, load
from tests import live

EVENTS, ITEMS = 6_000, 500
LINKS = (None, ["personal"], ["similar"], ["popular"], ["newest"])


def _replayed(s: Settings, work_dir: Path, events: int, batch: int) -> LocalPipeline:
    local = LocalPipeline(s, work_dir)
    local.feed_items(islice(bundled.item_messages(), ITEMS), batch)
    local.feed_events(islice(bundled.event_messages(), events), batch)
    return local


def _lists(local: LocalPipeline, users: Sequence[str]) -> list[list[str]]:
    """What each user is recommended along each link of the chain, a stranger included."""
    answers = [local.cache.recommend(user, 20, links) for user in [*users, "nobody-knows-me"] for links in LINKS]
    return [[item.item_id for item in answer.items] for answer in answers]


@pytest.mark.kafka
def test_a_run_through_kafka_equals_a_local_replay(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path, events_partitions=1, batches_partitions=1)
    live.produce(s, list(islice(bundled.item_messages(), ITEMS)), s.items_topic)
    with live.Processes(s) as processes:
        live.wait(lambda: live.ingested(s), "the catalogue", check=processes.check)
        live.produce(s, list(islice(bundled.event_messages(), EVENTS)), s.events_topic)
        live.drain(s, processes)
    local = _replayed(s, tmp_path / "local", EVENTS, 700)
    assert _live_digests(s, tmp_path) == local.digests()
    assert local.counts == {"events": EVENTS, "items": ITEMS, "dead_letters": 0}
    local.close()


def _live_digests(s: Settings, directory: Path) -> dict[str, str]:
    """Of the stages as their newest checkpoints have them, under the names of `LocalPipeline.digests`."""
    [batches], [examples] = live.upstreams(s, s.batches_topic), live.upstreams(s, s.examples_topic)
    users = live.restored(s, pipeline.FEATURES, batches, pipeline.user_stage(s, batches, directory / "restored"))
    learner = live.restored(s, pipeline.LEARNER, examples, pipeline.learner_stage(s, s.batches_partitions))
    digests = {f"{pipeline.FEATURES}-0": users.stage.digest(), pipeline.LEARNER: learner.stage.digest()}
    users.stage.close()
    learner.stage.close()
    return digests


@pytest.mark.parametrize(("events", "batches"), [(400, (1, 7)), (5_000, (7, 256, 5_000))], ids=["one by one", "long"])
def test_the_cut_into_batches_does_not_matter(events: int, batches: tuple[int, ...], tmp_path: Path) -> None:
    s = load(data_dir=tmp_path, batches_partitions=1, max_users=1 << 15, max_items=1 << 14)
    users = sorted({key.decode() for key, _ in islice(bundled.event_messages(), events)})[:50]
    found = []
    for batch in batches:
        local = _replayed(s, tmp_path / str(batch), events, batch)
        found.append((local.digests(), local.counts, _lists(local, users)))
        local.close()
    assert any(found[0][2])
    for other in found[1:]:
        assert other == found[0]


def test_another_log_gives_another_state() -> None:
    """Or the equal digests above would say nothing."""
    digests = []
    for events in (299, 300):
        with Pipeline(max_users=4_096, max_items=4_096) as p:
            p.feed(islice(bundled.event_messages(), events), islice(bundled.item_messages(), ITEMS))
            digests.append(p.digests())
    assert digests[0].keys() == digests[1].keys()
    assert all(digests[0][name] != digests[1][name] for name in digests[0])
