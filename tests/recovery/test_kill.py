"""Kill -9 at seeded random moments: what comes of it is byte for byte a replay of the retained logs, every event once."""

import itertools
import random
import re
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from core.composite import CompositeStage
from core.schemas import EVENT, EXAMPLE_BASE, ITEM
from features.item_stage import ItemFeatures
from features.user_stage import UserStage
from streams import bundled, pipeline
from streams.broker import EmbeddedBroker
from streams.replay import replay_topic
from streams.settings import Settings
from tests import live
from tests.naive_items import NaiveItems, Recorder

pytestmark = pytest.mark.kafka
EVENTS, ITEMS, KILLS = 9_000, 400, 6


def _send_while_killing(s: Settings, processes: live.Processes, seed: int) -> None:
    """Events go out in portions; between them a process dies, each kind twice, in a random order."""
    chance = random.Random(seed)
    victims = ["ingest", "features", "learner"] * (KILLS // 3)
    chance.shuffle(victims)
    events = list(bundled.event_messages())[:EVENTS]
    cuts = [0, *sorted(chance.sample(range(500, EVENTS - 500), KILLS)), EVENTS]
    for index, (start, stop) in enumerate(itertools.pairwise(cuts)):
        live.produce(s, events[start:stop], s.events_topic, by_crc=bool(index % 2))
        if index < KILLS:
            threading.Event().wait(chance.uniform(0.5, 2.5))
            processes.kill(victims[index])


def test_killed_at_random_moments(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path)
    live.produce(s, list(bundled.item_messages())[:ITEMS], s.items_topic)
    with live.Processes(s) as processes:
        _send_while_killing(s, processes, seed=20_260_122)
        live.drain(s, processes)
    _equals_replay(s, tmp_path)


def test_workers_share_the_partitions(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    """Two feature workers; partitions change hands where one is away, comes back, and is killed. It shows in no state and no output."""
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path)
    live.produce(s, list(bundled.item_messages())[:ITEMS], s.items_topic)
    events = list(bundled.event_messages())[:EVENTS]
    with live.Processes(s, ("ingest", "features", "features-2", "learner")) as processes:
        live.wait(lambda: all(_opened(processes, name) for name in ("features", "features-2")), "both to have partitions")
        live.produce(s, events[: EVENTS // 3], s.events_topic)
        processes.stop("features-2")
        live.produce(s, events[EVENTS // 3 : 2 * EVENTS // 3], s.events_topic)
        live.wait(lambda: _opened(processes, "features") == {0, 1, 2, 3}, "the one left to have all partitions", check=processes.check)
        processes.children["features-2"].start()
        live.produce(s, events[2 * EVENTS // 3 :], s.events_topic)
        processes.kill("features")
        live.drain(s, processes)
    _equals_replay(s, tmp_path)


def _equals_replay(s: Settings, directory: Path) -> None:
    """Every event once; user state, examples, item columns and all that was learned and published as the retained logs give them."""
    _every_event_once(s)
    outputs = _features_equal_replay(s, directory)
    _examples_equal_replay(s, outputs)
    _learner_equals_replay(s)
    _item_columns_equal_a_naive_pass(s)


def _opened(processes: live.Processes, name: str) -> set[int]:
    """The partitions that a worker has had."""
    return {int(partition) for partition in re.findall(r"/(\d+) goes on at offset", processes.children[name].log_path.read_text())}


def _every_event_once(s: Settings) -> None:
    """Each source offset is in exactly one row of `batches`, in its user's partition."""
    seen: list[tuple[int, int]] = []
    for upstream in live.upstreams(s, s.batches_topic):
        for record, rows in live.once(live.retained(s, upstream), upstream):
            partitions = [r.upstream.partition for r in record.stamp.ranges]
            events = rows.filter(pl.col("kind") == EVENT)
            seen += [(partitions[source], offset) for source, offset in events.select("source", "offset").iter_rows()]
    sent = {(u.partition, offset) for u in live.upstreams(s, s.events_topic) for offset in range(live.end(s, u))}
    assert len(sent) == EVENTS
    assert len(seen) == EVENTS
    assert set(seen) == sent


def _features_equal_replay(s: Settings, directory: Path) -> dict[int, pl.DataFrame]:
    """User state of every partition; returns what the replay puts out."""
    outputs, accepted = {}, 0
    for upstream in live.upstreams(s, s.batches_topic):
        fresh = pipeline.user_stage(s, upstream, directory / f"fresh-{upstream.partition}")
        replayed, frames = replay_topic(s, upstream, fresh)
        own = live.restored(s, pipeline.FEATURES, upstream, pipeline.user_stage(s, upstream, directory / f"kept-{upstream.partition}"))
        assert own.stage.digest() == replayed.stage.digest()
        assert own.positions.to_json() == replayed.positions.to_json()
        assert isinstance(fresh, UserStage)
        accepted += fresh.outcomes["accepted"]
        outputs[upstream.partition] = pl.concat(frames)
        replayed.stage.close()
        own.stage.close()
    assert accepted == EVENTS
    return outputs


def _examples_equal_replay(s: Settings, outputs: dict[int, pl.DataFrame]) -> None:
    """The rows of `examples` that count, per upstream, are the replay's rows."""
    [examples] = live.upstreams(s, s.examples_topic)
    taken = live.once(live.retained(s, examples), examples)
    for partition, expected in outputs.items():
        written = [rows.filter(pl.col("upstream") == partition) for record, rows in taken if record.stamp.writer == pipeline.FEATURES]
        assert_frame_equal(pl.concat(written).drop("source"), expected.drop("source"), check_exact=True)


def _item_columns_equal_a_naive_pass(s: Settings) -> None:
    """Over the one log that several feature workers wrote: the items' counters before each example, and popularity in the end."""
    [examples] = live.upstreams(s, s.examples_topic)
    config = pipeline.item_config(s)
    items, recorder = ItemFeatures(config), Recorder()
    replay_topic(s, examples, CompositeStage([items, recorder], s.batches_partitions))
    naive = NaiveItems(config, s.batches_partitions)
    rows = (
        row
        for _, rows in live.once(live.retained(s, examples), examples)
        for row in rows.select(EXAMPLE_BASE.names()).iter_rows(named=True)
    )
    expected = [before for row in rows if (before := naive.learn(row)) is not None]
    counts = np.concatenate(recorder.columns)[:, : naive.width]
    assert len(counts) >= EVENTS + ITEMS
    assert counts.any()
    np.testing.assert_allclose(counts, np.array(expected), rtol=1e-5, atol=1e-30)
    known = sorted(naive.items)
    scores = [naive.score(id_, naive.learned_ms) for id_ in known]
    np.testing.assert_allclose(items.score("u", known), [np.nan if x is None else x for x in scores], rtol=1e-4, atol=1e-4)


def _learner_equals_replay(s: Settings) -> None:
    """Item state, vectors, tokens, and every row that was published."""
    [examples] = live.upstreams(s, s.examples_topic)
    own = live.restored(s, pipeline.LEARNER, examples, pipeline.learner_stage(s, s.batches_partitions))
    fresh = pipeline.learner_stage(s, s.batches_partitions)
    replayed, _ = replay_topic(s, examples, fresh)
    assert own.stage.digest() == replayed.stage.digest()
    assert isinstance(own.stage, CompositeStage)
    assert own.stage.learned == EVENTS + ITEMS
    published = fresh.publish()
    assert published is not None
    lived = live.folded(live.publications(s), f"{pipeline.LEARNER}/0")
    again = live.folded([("replay", published)], "replay")
    assert lived.keys() == again.keys()
    for table in sorted(lived):
        assert_frame_equal(lived[table], again[table], check_exact=True)


def test_items_reach_every_partition(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path)
    live.produce(s, list(bundled.item_messages())[:50], s.items_topic)
    with live.Processes(s, ("ingest",)) as processes:
        live.wait(lambda: live.ingested(s), "the catalogue", check=processes.check)
    for upstream in [*live.upstreams(s, s.batches_topic), *live.upstreams(s, s.examples_topic)]:
        rows = pl.concat([rows for _, rows in live.once(live.retained(s, upstream), upstream)])
        assert rows.filter(pl.col("kind") == ITEM).height == 50
