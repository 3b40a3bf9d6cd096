"""The log of clicks whose conversions come late: its rows are what its settings and its truth say."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from core.errors import SettingsError
from evaluation.world.clicks import CLICKS, HOUR_MS, MINUTE_MS, Campaigns, ClickWorld, clicks, draw_campaigns

SIGMAS = 4.5  # of a sum of independent draws: seeds are fixed, so a test that passes goes on passing
LOG_B = ClickWorld(seed=5)
SMALL = ClickWorld(seed=2, hours=48, clicks_per_hour=200.0, campaigns=30, sites=7, placements=3)
LEVEL = replace(SMALL, campaign_sd=0.0, drift_sd=0.0, wave=0.0)  # of what depends on neither campaign nor time
LASTING = replace(LOG_B, born_share=0.0, ending_share=0.0)  # every campaign runs all the time


def truth(world: ClickWorld) -> Campaigns:
    """The campaigns of the world's log, which it draws first."""
    return draw_campaigns(world, np.random.Generator(np.random.Philox(world.seed)))


def hour_of(log: pl.DataFrame, world: ClickWorld) -> np.ndarray:
    return (log["ts_ms"].to_numpy() - world.start_ms) // HOUR_MS


def logit_of(log: pl.DataFrame) -> np.ndarray:
    p = log["p_true"].to_numpy()
    return np.log(p / (1.0 - p))


def assert_poisson(counts: np.ndarray, expected: np.ndarray) -> None:
    assert (np.abs(counts - expected) < SIGMAS * np.sqrt(expected)).all(), (counts, expected)


def assert_share(hits: np.ndarray, share: float) -> None:
    """Independent draws that hit with this probability."""
    assert abs(hits.mean() - share) < SIGMAS * math.sqrt(share * (1.0 - share) / len(hits)), (hits.mean(), share)


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return clicks(LOG_B)


# Rows


def test_the_same_settings_give_the_same_log_and_another_seed_another() -> None:
    one, other = clicks(SMALL), clicks(replace(SMALL, seed=3))
    assert clicks(replace(SMALL)).equals(one)
    assert not one["p_true"].head(100).equals(other["p_true"].head(100))
    assert not one["ts_ms"].head(100).equals(other["ts_ms"].head(100))


def test_rows_are_numbered_in_order_of_time(log: pl.DataFrame) -> None:
    assert log.schema == CLICKS
    assert log["ts_ms"].is_sorted()
    assert log["click"].to_list() == list(range(len(log)))
    assert log.drop("delay_ms").null_count().sum_horizontal().item() == 0
    assert LOG_B.start_ms <= log["ts_ms"][0] < LOG_B.start_ms + HOUR_MS
    assert log["ts_ms"][-1] < LOG_B.start_ms + LOG_B.hours * HOUR_MS <= log["ts_ms"][-1] + MINUTE_MS


def test_a_later_start_moves_the_log_and_changes_nothing_else() -> None:
    moved = clicks(replace(SMALL, start_ms=SMALL.start_ms + 12_345))
    assert moved.with_columns(pl.col("ts_ms") - 12_345).equals(clicks(SMALL))


def test_all_campaigns_sites_and_placements_occur_and_no_others(log: pl.DataFrame) -> None:
    for name, count in (("campaign", LOG_B.campaigns), ("site", LOG_B.sites), ("placement", LOG_B.placements)):
        assert (log[name].min(), log[name].max()) == (0, count - 1)


def test_sites_and_placements_are_equally_frequent(log: pl.DataFrame) -> None:
    for name, count in (("site", LOG_B.sites), ("placement", LOG_B.placements)):
        assert_poisson(np.bincount(log[name], minlength=count), np.full(count, len(log) / count))


def test_without_a_click_there_is_an_empty_log() -> None:
    empty = clicks(replace(SMALL, clicks_per_hour=1e-9))
    assert (len(empty), empty.schema) == (0, CLICKS)


# When


def waved(world: ClickWorld) -> np.ndarray:
    """Clicks to expect of each hour: the integral of the rate over it."""
    at = 2.0 * np.pi * np.arange(world.hours + 1) / 24.0
    wave: np.ndarray = 24.0 / (2.0 * np.pi) * (np.cos(at[:-1]) - np.cos(at[1:]))
    return world.clicks_per_hour * (1.0 + world.daily_wave * wave)


def test_the_rate_goes_up_and_down_each_day(log: pl.DataFrame) -> None:
    counts, expected = np.bincount(hour_of(log, LOG_B), minlength=LOG_B.hours), waved(LOG_B)
    assert_poisson(counts, expected)
    assert_poisson(counts.reshape(-1, 24).sum(axis=0), expected.reshape(-1, 24).sum(axis=0))
    assert_poisson(counts.sum(), np.array(LOG_B.hours * LOG_B.clicks_per_hour))
    assert 450 < counts.min() < 560 < 1_440 < counts.max() < 1_600


def test_without_a_wave_the_rate_is_level() -> None:
    world = replace(LOG_B, daily_wave=0.0, hours=72)
    counts = np.bincount(hour_of(clicks(world), world), minlength=72)
    assert_poisson(counts, np.full(72, 1_000.0))
    assert counts.var() == pytest.approx(1_000.0, rel=SIGMAS * math.sqrt(2 / 71))


def test_clicks_lie_evenly_within_the_minute(log: pl.DataFrame) -> None:
    tenth = log["ts_ms"].to_numpy() % MINUTE_MS // (MINUTE_MS // 10)
    assert_poisson(np.bincount(tenth, minlength=10), np.full(10, len(log) / 10))


# Campaigns


def test_a_campaign_is_clicked_only_while_it_runs(log: pl.DataFrame) -> None:
    campaigns, hour, campaign = truth(LOG_B), hour_of(log, LOG_B), log["campaign"].to_numpy()
    assert (campaigns.begin_hours[campaign] <= hour).all()
    assert (hour < campaigns.end_hours[campaign]).all()


def test_each_campaign_is_clicked_by_its_share_of_those_that_run(log: pl.DataFrame) -> None:
    campaigns, hour = truth(LOG_B), np.arange(LOG_B.hours)[:, None]
    running = np.where((campaigns.begin_hours <= hour) & (hour < campaigns.end_hours), campaigns.share, 0.0)
    per_hour = np.bincount(hour_of(log, LOG_B), minlength=LOG_B.hours)
    expected = per_hour @ (running / running.sum(axis=1, keepdims=True))
    counts = np.bincount(log["campaign"], minlength=LOG_B.campaigns)
    assert (np.abs(counts - expected) <= SIGMAS * np.sqrt(expected)).all()


def test_campaigns_that_all_run_are_clicked_by_zipfs_law() -> None:
    log = clicks(LASTING)
    share = np.arange(1, 201) ** -0.6 / (np.arange(1, 201) ** -0.6).sum()
    assert_poisson(np.bincount(log["campaign"], minlength=200), len(log) * share)


def test_told_shares_of_the_campaigns_begin_and_end_during_the_log() -> None:
    campaigns = truth(replace(LOG_B, campaigns=900))
    born, ending = campaigns.begin_hours > 0.0, np.isfinite(campaigns.end_hours)
    assert (born.sum(), ending.sum()) == (450, 300)
    assert abs(int((born & ending).sum()) - 150) < SIGMAS * math.sqrt(50)
    life = (campaigns.end_hours - campaigns.begin_hours)[ending]
    assert 24.0 <= life.min() < 30.0 < 114.0 < life.max() <= 120.0
    assert np.mean(life) == pytest.approx(72.0, abs=SIGMAS * 96.0 / math.sqrt(12 * 300))
    assert np.mean(campaigns.begin_hours[born]) == pytest.approx(120.0, abs=SIGMAS * 240.0 / math.sqrt(12 * 450))


def test_hours_in_which_no_campaign_runs_have_no_click() -> None:
    world = replace(SMALL, campaigns=2, born_share=1.0, ending_share=1.0, least_life_hours=2.0, most_life_hours=3.0, hours=200)
    log, campaigns, hour = clicks(world), truth(world), np.arange(world.hours)[:, None]
    runs = ((campaigns.begin_hours <= hour) & (hour < campaigns.end_hours)).any(axis=1)
    assert 0 < runs.sum() < 10
    assert sorted(set(hour_of(log, world))) == np.flatnonzero(runs).tolist()
    assert log["click"].to_list() == list(range(len(log)))


def test_drift_is_stationary_and_forgets_at_its_pace() -> None:
    drift = truth(replace(LOG_B, campaigns=4_000)).drift
    for hour in (0, 100, 239):
        assert drift[hour].std() == pytest.approx(0.5, rel=SIGMAS / math.sqrt(2 * 4_000))
    for hours in (1, 24, 96, 239):
        correlation = math.exp(-hours / 96.0)
        error = (1.0 - correlation**2) / math.sqrt(4_000)
        assert np.corrcoef(drift[0], drift[hours])[0, 1] == pytest.approx(correlation, abs=SIGMAS * error)


def test_campaigns_differ_as_told() -> None:
    campaigns = truth(replace(LOG_B, campaigns=4_000))
    assert campaigns.logit.std() == pytest.approx(0.5, rel=SIGMAS / math.sqrt(2 * 4_000))
    assert campaigns.logit.mean() == pytest.approx(0.0, abs=SIGMAS * 0.5 / math.sqrt(4_000))
    for scale in LOG_B.delay_scales_hours:
        assert_share(campaigns.scale_hours == scale, 1 / 3)


# Conversions


def test_p_true_is_that_of_campaign_drift_and_wave() -> None:
    world = replace(SMALL, site_sd=0.0, placement_sd=0.0, bias=-0.7)
    log, campaigns = clicks(world), truth(world)
    campaign, since_ms = log["campaign"].to_numpy(), log["ts_ms"].to_numpy() - world.start_ms
    wave = 0.4 * np.sin(2.0 * np.pi * since_ms / (60.0 * HOUR_MS))
    own = campaigns.logit[campaign] + campaigns.drift[hour_of(log, world), campaign]
    np.testing.assert_allclose(logit_of(log), -0.7 + own + wave, atol=1e-9)


def test_sites_and_placements_add_to_it_and_differ_as_told() -> None:
    world = replace(LEVEL, sites=400, placements=400, clicks_per_hour=10_000.0)
    log = clicks(world)
    rest, site, placement = logit_of(log) - world.bias, log["site"].to_numpy(), log["placement"].to_numpy()
    by_site = rest_by(rest[placement == 0], site[placement == 0])
    by_placement = rest_by(rest[site == 0], placement[site == 0])
    known = np.isin(site, list(by_site)) & np.isin(placement, list(by_placement))
    corner = by_site[0]
    added = [by_site[s] + by_placement[p] - corner for s, p in zip(site[known], placement[known], strict=True)]
    np.testing.assert_allclose(rest[known], added, atol=1e-9)
    assert np.std(list(by_site.values())) == pytest.approx(0.4, rel=SIGMAS / math.sqrt(2 * len(by_site)))
    assert np.std(list(by_placement.values())) == pytest.approx(0.3, rel=SIGMAS / math.sqrt(2 * len(by_placement)))


def rest_by(rest: np.ndarray, key: np.ndarray) -> dict[int, float]:
    return dict(zip(key.tolist(), rest.tolist(), strict=True))


def test_as_many_convert_as_is_true(log: pl.DataFrame) -> None:
    p, converts = log["p_true"].to_numpy(), log["delay_ms"].is_not_null().to_numpy()
    assert abs(converts.mean() - p.mean()) < 4 * math.sqrt((p * (1.0 - p)).sum()) / len(p)
    for tenth in np.array_split(np.argsort(p), 10):
        assert abs((converts - p)[tenth].sum()) < SIGMAS * math.sqrt((p * (1.0 - p))[tenth].sum())
    assert 0.02 < p.min() < 0.3 < 0.8 < p.max() < 0.99


def test_whether_a_click_converts_has_nothing_to_do_with_the_scale_of_its_delay(log: pl.DataFrame) -> None:
    scale, p = truth(LOG_B).scale_hours[log["campaign"]], log["p_true"].to_numpy()
    rest = log["delay_ms"].is_not_null().to_numpy() - p
    for each in LOG_B.delay_scales_hours:
        of = scale == each
        assert abs(rest[of].sum()) < SIGMAS * math.sqrt((p * (1.0 - p))[of].sum())


def delays_by_scale(log: pl.DataFrame, world: ClickWorld) -> dict[float, np.ndarray]:
    """Hours, of the clicks that convert."""
    converted = log.drop_nulls("delay_ms")
    scale, hours = truth(world).scale_hours[converted["campaign"]], converted["delay_ms"].to_numpy() / HOUR_MS
    return {each: hours[scale == each] for each in world.delay_scales_hours}


def test_delays_lie_between_one_millisecond_and_the_horizon(log: pl.DataFrame) -> None:
    delays = log["delay_ms"].drop_nulls().to_numpy()
    assert delays.min() >= 1
    assert 23.9 * HOUR_MS < delays.max() <= 24 * HOUR_MS
    short = clicks(replace(SMALL, horizon_hours=0.5))["delay_ms"].drop_nulls().to_numpy()
    assert short.min() >= 1
    assert 0.49 * HOUR_MS < short.max() <= 0.5 * HOUR_MS
    soon = clicks(replace(SMALL, delay_scales_hours=(1e-6,)))["delay_ms"].drop_nulls().to_numpy()
    assert_share(soon == 1, 1.0 - math.exp(-1.0 / 3.6))


def test_delays_are_exponential_by_the_campaigns_scale_and_cut_at_the_horizon(log: pl.DataFrame) -> None:
    found = delays_by_scale(log, LOG_B)
    for scale, hours in found.items():
        for share in (0.1, 0.5, 0.9):
            quantile = -scale * math.log(1.0 - share * (1.0 - math.exp(-24.0 / scale)))
            assert_share(hours <= quantile, share)
    medians = [float(np.median(hours)) for hours in found.values()]
    assert medians == sorted(medians)
    assert medians == pytest.approx([0.0347, 2.078, 6.801], rel=0.05)


# Settings


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1}, {"start_ms": 0}, {"hours": 0}, {"clicks_per_hour": 0.0}, {"daily_wave": 1.1}, {"daily_wave": -0.1},
        {"daily_wave": math.nan}, {"campaigns": 0}, {"campaign_exponent": -0.1}, {"born_share": 1.5}, {"born_share": -0.5},
        {"ending_share": 2.0}, {"ending_share": -1.0}, {"least_life_hours": 0.0}, {"least_life_hours": 121.0}, {"sites": 0},
        {"placements": 0}, {"campaign_sd": -1.0}, {"site_sd": -1.0}, {"placement_sd": -1.0}, {"drift_sd": -1.0}, {"drift_hours": 0.0},
        {"wave_hours": 0.0}, {"wave_hours": -1.0}, {"delay_scales_hours": ()}, {"delay_scales_hours": (1.0, 0.0)},
        {"horizon_hours": 0.0}, {"horizon_hours": math.nan},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"`{next(iter(change))}` must be"):
        ClickWorld(**change)


def test_the_extremes_of_the_settings_work() -> None:
    least = replace(SMALL, hours=1, campaigns=1, sites=1, placements=1, born_share=0.0, campaign_exponent=0.0, daily_wave=1.0)
    log = clicks(replace(least, campaign_sd=0.0, site_sd=0.0, placement_sd=0.0, drift_sd=0.0, wave=0.0))
    assert len(log) > 0
    assert log["p_true"].to_numpy() == pytest.approx(1.0 / (1.0 + math.exp(-0.3)))
    assert len(clicks(replace(SMALL, ending_share=1.0, least_life_hours=24.0, most_life_hours=24.0))) > 0


def test_the_defaults_are_those_of_log_b() -> None:
    assert ClickWorld() == ClickWorld(
        seed=0, start_ms=1_767_225_600_000, hours=240, clicks_per_hour=1_000.0, daily_wave=0.5, campaigns=200, campaign_exponent=0.6,
        born_share=0.5, ending_share=1 / 3, least_life_hours=24.0, most_life_hours=120.0, sites=40, placements=8, bias=0.3,
        campaign_sd=0.5, site_sd=0.4, placement_sd=0.3, drift_sd=0.5, drift_hours=96.0, wave=0.4, wave_hours=60.0,
        delay_scales_hours=(0.05, 3.0, 12.0), horizon_hours=24.0,
    )  # fmt: skip
