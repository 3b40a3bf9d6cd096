"""The evaluation host: its lists are the cache's, its cut changes nothing, and a leak would show."""

from pathlib import Path

import numpy as np
import pytest

from core.contender import Run
from evaluation.summary import Judgements, result
from streams import bundled
from streams.evaluate import Evaluation, Options
from streams.evaluate.host import K, group_starts
from streams.replay import LocalPipeline
from streams.settings import Settings

SETTINGS = Settings(batches_partitions=1, max_users=8_192, max_items=8_192, dimensions=16)
ITEMS = list(bundled.item_messages())[:2_000]
EVENTS = list(bundled.event_messages())[:4_000]


def judged(tmp_path: Path, options: Options, batch: int, rivals: tuple[object, ...] = ()) -> Judgements:
    evaluation = Evaluation(SETTINGS, options, tmp_path / str(batch))
    evaluation._rivals += list(rivals)
    evaluation.items(ITEMS)
    evaluation.feed(EVENTS, batch)
    return evaluation.finish()


def test_the_cut_into_batches_changes_no_rank(tmp_path: Path) -> None:
    options = Options(sample=0.1, baselines=("popular-30m", "recent", "covisitation", "covisitation-fresh", "edgebank"))
    one, other = judged(tmp_path, options, 4_000), judged(tmp_path, options, 137)
    assert one.lists.equals(other.lists)
    assert one.ranks.equals(other.ranks, null_equal=True)
    assert one.lists.height > 500
    assert one.lists["served"].max() > 1


def test_served_ranks_are_those_of_a_cache_that_took_a_publication_before_each_event(tmp_path: Path) -> None:
    """Event by event through the pipeline that a live run uses: publish, apply, recommend."""
    found = judged(tmp_path, Options(staleness_seconds=0.0, sample=0.0, baselines=()), 500).lists
    local = LocalPipeline(SETTINGS, tmp_path / "local")
    local.feed_items(ITEMS)
    decoded, ranks = list(bundled.events()[: len(EVENTS)].iter_rows(named=True)), []
    for message, event in zip(EVENTS, decoded, strict=True):
        if event["type"] == "click":
            listed = [item.item_id for item in local.cache.recommend(event["user_id"], K).items]
            ranks.append(listed.index(event["item_id"]) + 1 if event["item_id"] in listed else 0)
        local.feed_events([message])
    local.close()
    assert found["served"].to_list() == ranks
    assert sum(rank > 0 for rank in ranks) > 20


class _Fixed:
    """A contender whose ranks a function of the run says."""

    def __init__(self, name: str, rank: object) -> None:
        self.name, self._rank = name, rank

    def judge(self, run: Run, k: int) -> np.ndarray:
        return self._rank(run, k)

    def scores(self, user: int, items: int) -> None:
        return None


def test_an_oracle_scores_one_and_chance_scores_chance(tmp_path: Path) -> None:
    """The oracle ranks each row's own item first. Chance draws its place among 1,000."""
    oracle = _Fixed("oracle", lambda run, k: np.ones(len(run), dtype=np.int32))

    def by_chance(run: Run, k: int) -> np.ndarray:
        place = np.random.Generator(np.random.Philox(key=5)).integers(1, 1_001, size=1 << 16)[run.position]
        return np.where(place <= k, place, 0).astype(np.int32)

    found = judged(tmp_path, Options(served=False, sample=0.0, baselines=()), 1_000, (oracle, _Fixed("chance", by_chance)))
    told = result(found, 0)["lists"]
    assert [told["oracle"]["all"][name] for name in ("hr@1", "hr@20", "mrr@20", "ndcg@20")] == [1.0, 1.0, 1.0, 1.0]
    n = told["chance"]["all"]["n"]
    assert abs(told["chance"]["all"]["hr@20"] - 0.02) < 4 * (0.02 * 0.98 / n) ** 0.5


def test_groups_are_cut_by_event_time_alone() -> None:
    ts_ms = np.array([0, 10, 999, 1_000, 1_500, 2_500, 2_400, 2_600])
    event = np.ones(8, dtype=np.bool_)
    assert group_starts(ts_ms, event, 1_000).tolist() == [0, 3, 5]
    assert group_starts(ts_ms, event, 0).tolist() == [0, 1, 2, 3, 4, 5, 7], "an event from before shares the group"
    event[3] = False
    assert group_starts(ts_ms, event, 1_000).tolist() == [0, 4, 5]


@pytest.mark.parametrize("staleness", [0.0, 1.0, 60.0])
def test_no_answer_is_older_than_the_setting(tmp_path: Path, staleness: float) -> None:
    evaluation = Evaluation(SETTINGS, Options(staleness_seconds=staleness, sample=0.0, baselines=()), tmp_path)
    evaluation.feed(EVENTS[:1_000])
    evaluation.finish()
    assert evaluation.staleness_max_ms <= 1_000 * staleness
    assert staleness == 0.0 or evaluation.staleness_max_ms > 0
