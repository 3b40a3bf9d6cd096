"""Rows are published round and round: a cache that knows only a late part of `parameters` ends with what an early one has."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from core.rounds import Rounds
from core.stage import Stage
from learners.cache import ParameterCache
from streams import bundled, pipeline
from streams.replay import LocalPipeline
from streams.settings import load
from tests.snapshots import save

EVENTS, ITEMS = 4_000, 400


def test_rounds_cover_every_row_of_a_table_that_grows() -> None:
    rounds, seen, ends = Rounds(), [], 0
    for size in (3, 3, 5, 5, 9, 9, 9):
        span, ended = rounds.take(2, size)
        seen += range(span.start, span.stop)
        ends += ended
    assert seen == [*range(3), *range(9)]
    assert ends == 2


def test_rounds_of_nothing_and_of_a_table_that_shrank() -> None:
    rounds = Rounds()
    assert rounds.take(5, 0) == (slice(0, 0), True)
    rounds.next_row = 7
    assert rounds.take(5, 4) == (slice(4, 4), True)
    assert rounds.take(5, 4) == (slice(0, 4), True)


def _round(stage: Stage, name: str, cache: ParameterCache, rows: int) -> int:
    """One whole round into `cache`; how many calls it took."""
    calls, ended = 0, False
    while not ended:
        ended, calls = stage.touch_next(rows), calls + 1
        publication = stage.publish()
        if publication is not None:
            cache.apply(name, publication)
    return calls


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalPipeline:
    s = load(batches_partitions=2, max_users=1 << 15, max_items=1 << 14, token_refresh_seconds=60)
    local = LocalPipeline(s, tmp_path_factory.mktemp("work"))
    local.feed_items(islice(bundled.item_messages(), ITEMS))
    local.feed_events(islice(bundled.event_messages(), EVENTS), 500)
    for driver in local.users:  # what is only in memory was published since the last checkpoint, so let there be one
        save(driver, tmp_path_factory.mktemp("checkpoint"))
    return local


@pytest.mark.parametrize("rows", [7, 100_000])
def test_a_late_cache_holds_what_an_early_one_does(local: LocalPipeline, rows: int) -> None:
    before, late = local.digests(), pipeline.cache(local.s)
    for name, driver in {pipeline.LEARNER: local.learner, **{f"u{i}": driver for i, driver in enumerate(local.users)}}.items():
        calls = _round(driver.stage, name, late, rows)
        assert calls > 10 if rows == 7 else calls < 10
    assert local.digests() == before
    assert {name: size.rows for name, size in late.sizes.items()} == {name: size.rows for name, size in local.cache.sizes.items()}
    assert all(size.rows for size in late.sizes.values())
    users = sorted({key.decode() for key, _ in islice(bundled.event_messages(), EVENTS)})
    items = sorted({key.decode() for key, _ in islice(bundled.item_messages(), ITEMS)})
    for user in users[:300]:
        assert late.recommend(user, 20).items == local.cache.recommend(user, 20).items
        np.testing.assert_array_equal(late.score(user, items), local.cache.score(user, items))
    assert [late.item(item) for item in items] == [local.cache.item(item) for item in items]


def test_the_round_goes_on_after_a_restore(local: LocalPipeline, tmp_path: Path) -> None:
    local.learner.stage.touch_next(1_000)
    save(local.learner, tmp_path)
    other = pipeline.learner_stage(local.s, local.s.batches_partitions)
    other.restore(tmp_path)
    other.publish()
    local.learner.stage.publish()
    for _ in range(20):
        assert other.touch_next(500) == local.learner.stage.touch_next(500)
        ours, theirs = other.publish(), local.learner.stage.publish()
        assert ours is not None
        assert theirs is not None
        assert {name: rows["id"].to_list() for name, rows in ours.tables.items()} == {
            name: rows["id"].to_list() for name, rows in theirs.tables.items()
        }
