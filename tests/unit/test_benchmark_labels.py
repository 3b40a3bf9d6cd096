"""The benchmark of late labels: nothing is learned before it is known, and the driver does what a loop over rows would."""

import numpy as np
import polars as pl
import pytest

from benchmarks.label_logs import HOUR_MS, LabelLog, hashed, synthetic, taobao
from benchmarks.label_policies import CONTENDERS, FROZEN, ORACLE, ORACLE_LATE, POLICY_OF, Streams, new_model, predictions, since, streams
from benchmarks.label_scores import Scores, closed, paired
from core.labels import FINAL_NEGATIVE, FINAL_POSITIVE, POSITIVE_KINDS
from evaluation.world.clicks import ClickWorld, clicks
from learners.labels import LogisticConfig, OnlineLogistic

HOURS, WARM_HOURS = 30, 26
WORLD = ClickWorld(seed=1, hours=HOURS, clicks_per_hour=30.0, campaigns=10)
CONFIG = LogisticConfig(buckets=1 << 10)


@pytest.fixture(scope="module")
def log() -> LabelLog:
    return synthetic(WORLD)


@pytest.fixture(scope="module")
def told(log: LabelLog) -> Streams:
    return streams(log, WARM_HOURS)


def one_by_one(log: LabelLog, told: Streams, name: str) -> np.ndarray:
    """Every click predicted alone, after every row that was known when its hour began."""
    model, label, policy = OnlineLogistic(CONFIG), 0, POLICY_OF[name]
    categorical, out, done = hashed(log, CONFIG), [], 0
    none = np.zeros((1, 0), np.float32)
    for click, ts_ms in enumerate(log.ts_ms):
        hour_ms = log.start_ms + (ts_ms - log.start_ms) // HOUR_MS * HOUR_MS
        while done < len(told[name].kind) and told[name].ts_ms[done] < hour_ms:
            row = categorical[told[name].click[done]][None]
            model.learn_many(np.array([label]), np.array([policy]), told[name].kind[done : done + 1], row, none)
            done += 1
        out.append(model.predict(label, policy, categorical[click][None], none)[0])
    return np.array(out)


@pytest.mark.parametrize("name", CONTENDERS)
def test_an_hour_at_a_time_is_a_loop_over_rows(name: str, log: LabelLog, told: Streams) -> None:
    p = predictions(new_model(CONFIG, told), log, told, hashed(log, CONFIG), range(HOURS))[name]
    assert np.array_equal(p, one_by_one(log, told, name))
    assert np.unique(p).size > 10, "it learned"


def test_what_is_known_at_or_after_an_hour_does_not_reach_its_predictions(log: LabelLog, told: Streams) -> None:
    hour = 5
    edge_ms = log.start_ms + hour * HOUR_MS
    cut = {name: stream.of(stream.ts_ms < edge_ms) for name, stream in told.items()}
    moved = {
        name: stream._replace(ts_ms=np.where(stream.ts_ms >= edge_ms - HOUR_MS, edge_ms, stream.ts_ms)) for name, stream in cut.items()
    }
    whole, known, late = (predictions(new_model(CONFIG, told), log, of, hashed(log, CONFIG), range(HOURS)) for of in (told, cut, moved))
    upto = log.hour <= hour
    for name in CONTENDERS:
        assert np.array_equal(whole[name][upto], known[name][upto])
    assert not np.array_equal(known["vanilla"][upto], late["vanilla"][upto]), "rows at the edge itself come after it"


def test_oracles_learn_at_the_click_and_frozen_ends(log: LabelLog, told: Streams) -> None:
    first, late, frozen, wait = told[ORACLE], told[ORACLE_LATE], told[FROZEN], told["wait"]
    assert np.array_equal(first.ts_ms, log.ts_ms)
    assert np.array_equal(first.click, np.arange(len(log.ts_ms)))
    assert np.array_equal(first.kind == FINAL_POSITIVE, log.converts)
    positive = late.kind == FINAL_POSITIVE
    assert np.array_equal(late.ts_ms[positive], log.conversion_ms[late.click[positive]])
    assert np.array_equal(late.ts_ms[~positive], log.ts_ms[late.click[~positive]])
    assert np.array_equal(wait.ts_ms, log.ts_ms[wait.click] + 24 * HOUR_MS)
    assert set(wait.kind.tolist()) == {FINAL_POSITIVE, FINAL_NEGATIVE}
    assert 0 < len(frozen.kind) == (wait.ts_ms < log.start_ms + WARM_HOURS * HOUR_MS).sum()


def test_streams_are_in_order_and_tell_positives_of_converting_clicks_alone(log: LabelLog, told: Streams) -> None:
    for stream in told.values():
        assert (np.diff(stream.ts_ms) >= 0).all()
        assert log.converts[stream.click[np.isin(stream.kind, POSITIVE_KINDS)]].all()
        assert (stream.ts_ms >= log.ts_ms[stream.click]).all()


def test_the_log_is_the_worlds(log: LabelLog) -> None:
    table = clicks(WORLD)
    assert np.array_equal(log.ts_ms, table["ts_ms"].to_numpy())
    assert log.converts.tolist() == table["delay_ms"].is_not_null().to_list()
    assert (np.diff(log.rows.clock_ms) >= 0).all()
    assert np.array_equal(log.click_of[log.click_of >= 0], np.arange(table.height))


def test_clicks_since_an_hour_keep_all_their_rows(log: LabelLog, told: Streams) -> None:
    kept = since(log, told, 10)["es-dfm"]
    assert np.array_equal(np.unique(kept.click), np.flatnonzero(log.hour >= 10))
    assert len(kept.kind) == (log.hour[told["es-dfm"].click] >= 10).sum()


def test_a_bought_pair_is_no_click_and_counts_look_back(tmp_path) -> None:
    day = 86_400
    rows = [
        (1, 1, "cart", 10), (1, 1, "fav", 20), (1, 1, "buy", 30),  # one click, converts
        (1, 2, "buy", 40), (1, 2, "cart", 50),  # bought before
        (2, 1, "fav", 60), (2, 1, "buy", 61 + day),  # bought too late
        (1, 3, "cart", 70), (1, 3, "buy", 70),  # at once
    ]  # fmt: skip
    (tmp_path / "taobao_cml").mkdir()
    frame = pl.DataFrame(rows, schema=["user", "item", "behavior", "ts"], orient="row")
    frame.write_parquet(tmp_path / "taobao_cml" / "events.parquet")
    log = taobao(tmp_path)
    assert (log.ts_ms // 1_000).tolist() == [10, 60, 70]
    assert (log.conversion_ms // 1_000).tolist() == [30, 0, 70]
    assert log.fields["user buy"].to_list() == [0, 0, 1]  # of 0, 0 and 2 purchases
    assert log.fields["item cart"].to_list() == [0, 1, 0]
    assert [streams(log, 0)["wait"].kind.tolist(), streams(log, 0)[FROZEN].kind.size] == [
        [FINAL_POSITIVE, FINAL_NEGATIVE, FINAL_POSITIVE],
        0,
    ]


def test_gaps_and_paired_differences() -> None:
    floor, middle, ceiling = (Scores(nll, auc, auc, 1.0) for nll, auc in ((0.7, 0.6), (0.65, 0.675), (0.6, 0.7)))
    assert closed([middle], [floor], [ceiling], "nll") == pytest.approx([50.0])
    assert closed([middle], [floor], [ceiling], "auc") == pytest.approx([75.0])
    by_click, by_hour = paired(np.array([1.0, 1.0, 1.0, 4.0]), np.zeros(4), np.array([0, 0, 0, 7]))
    assert (by_click.difference, by_hour.difference) == pytest.approx((1.75, 2.5))
    assert (by_click.error, by_hour.error) == pytest.approx((np.sqrt(2 * 2.25**2 * 2) / 4, 1.5))
