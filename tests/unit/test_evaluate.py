"""The evaluation host: its lists are the cache's, its cut changes nothing, and a leak would show."""

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from core.contender import Impression, Run, State
from core.snapshot import Snapshot
from evaluation.join import Label
from evaluation.judgements import Judgements
from evaluation.summary import result
from learners.baselines.registry import DEFAULT
from streams import bundled
from streams.cli import app
from streams.cli.replay import opened_log
from streams.evaluate import Evaluation, Labels, Options
from streams.evaluate.host import group_starts
from streams.logs.mapping import load_mapping
from streams.prequential import K
from streams.replay import LocalPipeline
from streams.settings import Settings

SETTINGS = Settings(batches_partitions=1, max_users=8_192, max_items=8_192, dimensions=16)
ITEMS = list(bundled.item_messages())[:2_000]
EVENTS = list(bundled.event_messages())[:4_000]
HORIZON_MS = 600_000
CLICKED = Labels("impression", (Label("click", "click", HORIZON_MS),))


def judged(tmp_path: Path, options: Options, batch: int, rivals: tuple[object, ...] = ()) -> Judgements:
    evaluation = Evaluation(SETTINGS, options, tmp_path / str(batch), rivals)
    with closing(evaluation):
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
    evaluation.close()
    assert evaluation.staleness_max_ms <= 1_000 * staleness
    assert staleness == 0.0 or evaluation.staleness_max_ms > 0


def test_a_snapshot_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    """Stopped at an event that is in the middle of a group, restored into a new process's objects, and gone on."""
    options = Options(labels=CLICKED, sample=0.1, staleness_seconds=30.0, baselines=DEFAULT)
    whole = judged(tmp_path, options, 500)
    first = Evaluation(SETTINGS, options, tmp_path / "first")
    first.items(ITEMS)
    first.feed(EVENTS[:1_500], 500)
    (tmp_path / "kept").mkdir()
    kept = Snapshot(tmp_path / "kept")
    first.snapshot(kept)
    kept.flush()
    second = Evaluation(SETTINGS, options, tmp_path / "second")
    second.restore(tmp_path / "kept")
    second.feed(EVENTS[1_500:], 500)
    resumed = second.finish()
    first.close()
    second.close()
    for name in ("lists", "ranks", "labels"):
        assert getattr(whole, name).equals(getattr(resumed, name), null_equal=True), name
    assert whole.labels.height > 1_000
    assert first.events < second.events


def test_a_restore_knows_what_was_evicted_before(tmp_path: Path) -> None:
    """Items that lost their rows are not listed, whether that was seen or is known from the snapshot alone."""
    small, options = SETTINGS.model_copy(update={"max_items": 4_096}), Options(sample=0.0, baselines=())
    first, second = (Evaluation(small, options, tmp_path / name) for name in ("first", "second"))
    with closing(first), closing(second):
        first.items([(b"%d" % n, b'{"item_id":"%d"}' % n) for n in range(6_000)])
        first.feed(EVENTS[:1_000])
        first._advance(final=True)
        first._served.refresh()
        (tmp_path / "kept").mkdir()
        kept = Snapshot(tmp_path / "kept")
        first.snapshot(kept)
        kept.flush()
        second.restore(tmp_path / "kept")
        one, other = (evaluation._served.state.items["item_popularity"] for evaluation in (first, second))
        evicted = [at for at, id_ in enumerate(first._runs.items.ids) if first._served._items.ids.lookup([id_])[0] < 0]
        assert len(evicted) > 100
        assert one.column("removed")[evicted].all()
        assert other.column("removed").tolist() == one.column("removed").tolist()
        assert other.column("present").tolist() == one.column("present").tolist()


def test_numbers_of_any_size_in_a_context_survive_a_snapshot(tmp_path: Path) -> None:
    shown = {"event_id": "e", "type": "impression", "user_id": "u", "item_id": "i", "ts": 1_651_355_978_641}
    message = (b"u", json.dumps({**shown, "context": {"big": 1 << 70, "deep": [1]}}).encode())
    evaluation = Evaluation(SETTINGS, Options(labels=CLICKED, baselines=("counters",)), tmp_path / "work")
    with closing(evaluation):
        evaluation.feed([message])
        evaluation._advance(final=True)
        (tmp_path / "kept").mkdir()
        evaluation.snapshot(Snapshot(tmp_path / "kept"))
        assert evaluation.counts["accepted"] == 1
        assert evaluation.outcomes["click"]["open"] == 1


class _Peeker:
    """A label model that looks at what is not known yet: the test's own table of outcomes."""

    def __init__(self, outcomes: dict[int, int], name: str = "peeker") -> None:
        self.name, self._outcomes = name, outcomes

    def predict(self, shown: Impression) -> dict[str, float]:
        return {"click": 0.9 if self._outcomes.get(shown.position, 0) else 0.1}

    def learn(self, shown: Impression, label: str, y: int) -> None:
        self._outcomes[shown.position] = y

    def save(self) -> State:
        return {}

    def load(self, state: State) -> None:
        return None


def test_labels_are_revealed_after_their_impression_was_predicted(tmp_path: Path) -> None:
    """A model that remembers every label it was told, by impression, knows none in time; one that has them beforehand knows all."""
    options = Options(labels=CLICKED, served=False, sample=0.0, baselines=("counters",))
    told: dict[int, int] = {}

    def run(outcomes: dict[int, int], name: str) -> Judgements:
        evaluation = Evaluation(SETTINGS, options, tmp_path / name, models=[_Peeker(outcomes)])
        with closing(evaluation):
            evaluation.items(ITEMS)
            evaluation.feed(EVENTS)
            return evaluation.finish()

    blind = run(told, "blind")
    assert sum(told.values()) > 500
    scores = result(blind, 0)["labels"]["click"]
    assert scores["peeker"]["all"]["auc"] == 0.5
    peeked = result(run(dict(told), "peeking"), 0)["labels"]["click"]
    assert peeked["peeker"]["all"]["auc"] == 1.0
    assert 0.5 < peeked["counters"]["all"]["auc"] < 0.9
    assert scores["counters"] == peeked["counters"]


def test_labels_are_those_of_a_naive_account(tmp_path: Path) -> None:
    """Impression by impression: is there a click of that user on that item until the next such impression, within the horizon?"""
    found = result_rows(tmp_path)
    rows = list(enumerate(bundled.events()[: len(EVENTS)].iter_rows(named=True)))
    expected: dict[int, int] = {}
    end = max(row["ts_ms"] for _, row in rows)
    for at, row in rows:
        if row["type"] == "impression" and row["ts_ms"] + HORIZON_MS < end:
            own = (row["user_id"], row["item_id"])
            later = [other for _, other in rows[at + 1 :] if (other["user_id"], other["item_id"]) == own]
            clicks = [other for other in later if other["type"] == "click" and other["ts_ms"] <= row["ts_ms"] + HORIZON_MS]
            expected[at] = int(bool(clicks))
    assert found == expected, "and none of those whose horizon the log does not reach, of which only clicks would be known"
    assert sum(expected.values()) > 500


def result_rows(tmp_path: Path) -> dict[int, int]:
    """Position -> label of the bundled log's first events."""
    found = judged(tmp_path, Options(labels=CLICKED, served=False, sample=0.0, baselines=("counters",)), 4_000).labels
    return dict(zip(found["position"].to_list(), found["y"].to_list(), strict=True))


def in_world(tmp_path: Path, world: Path, batch: int, s: Settings = SETTINGS) -> tuple[Evaluation, Judgements]:
    items, log = opened_log(world / "events.parquet", load_mapping("freshet"), world / "items.ndjson")
    evaluation = Evaluation(s, Options(sample=0.05, baselines=("popular-30m",), world=world), tmp_path / str(batch))
    with closing(evaluation):
        evaluation.items(items)
        for part in log.batches():
            evaluation.feed(part.messages, batch)
        return evaluation, evaluation.finish()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated one, with rooms that open and close."""
    directory = tmp_path_factory.mktemp("simulated") / "world"
    assert CliRunner().invoke(app, ["simulate", str(directory), "--events", "6000", "--users", "40", "--items", "60"]).exit_code == 0
    return directory


def test_the_cut_into_batches_opens_and_closes_no_room(tmp_path: Path, world: Path) -> None:
    """A list is of the rooms that are open at its own time, not at the end of its batch."""
    one, other = in_world(tmp_path, world, 4_000), in_world(tmp_path, world, 61)
    assert one[1].lists.equals(other[1].lists)
    assert one[1].ranks.equals(other[1].ranks, null_equal=True)
    assert one[0].truth == other[0].truth


def test_a_simulated_world_judges_the_lists_by_its_truth(tmp_path: Path, world: Path) -> None:
    evaluation, found = in_world(tmp_path, world, 4_000)
    truth = evaluation.truth
    assert truth is not None
    people = [id_ for id_ in evaluation._runs.users.ids if int(id_[1:]) < 40]
    judged_lists = sum(evaluation._runs.users.ids[user] in people for user in found.lists["user"].to_list())
    assert truth["served"]["lists"] == truth["popular"]["lists"] == judged_lists > 200, "all users of a small world, bots left out"
    assert 0 < truth["served"]["gain"] < truth["served"]["best"]
    assert truth["served"]["best"] == truth["popular"]["best"]
    assert truth["served"]["gain"] != truth["popular"]["gain"]


class _Clueless(_Fixed):
    """It scores nothing."""

    def scores(self, user: int, items: int) -> np.ndarray:
        return np.full(items, np.nan)


def test_a_full_rank_is_among_all_live_items_for_every_contender(tmp_path: Path) -> None:
    """Who knows nothing is in the middle of them, not first of none; what is live is counted naively."""
    rooms = [
        (b"early", b'{"item_id":"early","start":1500000000000,"end":1500000000001}'),
        (b"late", b'{"item_id":"late","start":4000000000000}'),
        (b"open", b'{"item_id":"open","start":1500000000000,"end":4000000000000}'),
    ]
    clueless = _Clueless("clueless", lambda run, k: np.zeros(len(run), dtype=np.int32))
    evaluation = Evaluation(SETTINGS, Options(sample=1.0, baselines=("popular-30m",)), tmp_path, [clueless])
    with closing(evaluation):
        evaluation.items([*ITEMS[:50], *rooms])
        evaluation.feed(EVENTS[:900], 100)
        found = evaluation.finish().ranks
    named, expected = {key.decode() for key, _ in ITEMS[:50]} | {"open"}, []
    for event in bundled.events()[:900].iter_rows(named=True):
        if event["type"] == "click":
            expected.append(len(named | {event["item_id"]}))
        named.add(event["item_id"])
    assert found["candidates"].to_list() == expected
    assert found["clueless"].to_list() == [(n + 1) / 2 for n in expected]
    assert found["supa"].is_not_nan().all()
