"""A log of clicks on advertisements whose conversions come late, with what is true of each: log B of the delayed-feedback comparison.

    logit P(conversion) = bias + campaign + site + placement + drift of the campaign (Ornstein-Uhlenbeck) + wave sin(2 pi t / wave_hours)

Campaigns are born and end during the log. A conversion's delay is exponential, its scale the campaign's, cut at the horizon: every
conversion comes within it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from core.errors import SettingsError
from evaluation.world.checks import check_numbers

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
DAY_HOURS = 24
CLICKS = pl.Schema(
    {
        "ts_ms": pl.Int64(),
        "click": pl.Int64(),  # from 0, in order of time
        "campaign": pl.Int64(),
        "site": pl.Int64(),
        "placement": pl.Int64(),
        "delay_ms": pl.Int64(),  # from the click to its conversion; null: none
        "p_true": pl.Float64(),  # of a conversion within the horizon
    }
)
_POSITIVE = ("clicks_per_hour", "drift_hours", "wave_hours", "horizon_hours")
_NOT_NEGATIVE = ("seed", "campaign_exponent", "campaign_sd", "site_sd", "placement_sd", "drift_sd")
_SHARES = ("daily_wave", "born_share", "ending_share")
_LEAST = {"hours": 1, "campaigns": 1, "sites": 1, "placements": 1}


@dataclass(frozen=True)
class ClickWorld:
    """What the log is made of; the same settings, the same log.

    | setting | meaning |
    |---|---|
    | hours | of the log, from `start_ms` |
    | clicks_per_hour | mean over a day; `daily_wave` of it up and down |
    | campaigns, campaign_exponent | how many, and Zipf's exponent of how often each is clicked while it runs |
    | born_share | of the campaigns begin at an even time of the log, the others before it |
    | ending_share | of the campaigns end after `least_life_hours` to `most_life_hours`, from their begin or that of the log |
    | sites, placements | how many, all equally often |
    | bias, campaign_sd, site_sd, placement_sd | logits |
    | drift_sd, drift_hours | of the campaign's own drift: stationary deviation, time after which its correlation is 1 / e |
    | wave, wave_hours | of what all share |
    | delay_scales_hours | each campaign has one of them |
    | horizon_hours | A |

    Raises:
        SettingsError: a setting cannot be used.
    """

    seed: int = 0
    start_ms: int = 1_767_225_600_000  # 2026-01-01T00:00:00Z
    hours: int = 240
    clicks_per_hour: float = 1_000.0
    daily_wave: float = 0.5
    campaigns: int = 200
    campaign_exponent: float = 0.6
    born_share: float = 0.5
    ending_share: float = 1 / 3
    least_life_hours: float = 24.0
    most_life_hours: float = 120.0
    sites: int = 40
    placements: int = 8
    bias: float = 0.3
    campaign_sd: float = 0.5
    site_sd: float = 0.4
    placement_sd: float = 0.3
    drift_sd: float = 0.5
    drift_hours: float = 96.0
    wave: float = 0.4
    wave_hours: float = 60.0
    delay_scales_hours: tuple[float, ...] = (0.05, 3.0, 12.0)
    horizon_hours: float = 24.0

    def __post_init__(self) -> None:
        check_numbers(self, {**_LEAST, **dict.fromkeys(_NOT_NEGATIVE, 0)}, _POSITIVE, _SHARES)
        if not self.delay_scales_hours or min(self.delay_scales_hours) <= 0:
            raise SettingsError(f"`delay_scales_hours` must be above 0, got {self.delay_scales_hours}")
        if not 0 < self.least_life_hours <= self.most_life_hours:
            raise SettingsError(f"`least_life_hours` must be above 0 and at most {self.most_life_hours}, got {self.least_life_hours}")
        if self.start_ms <= 0:
            raise SettingsError(f"`start_ms` must be above 0, got {self.start_ms}")


@dataclass(frozen=True)
class Campaigns:
    """What is true of each campaign: [campaigns] each, drift [hours, campaigns]."""

    begin_hours: np.ndarray  # from the start of the log; 0 of those that ran before
    end_hours: np.ndarray  # infinite of those that go on
    share: np.ndarray  # of the clicks, while all run
    logit: np.ndarray
    drift: np.ndarray  # logits, constant within an hour
    scale_hours: np.ndarray  # of delays


def clicks(world: ClickWorld) -> pl.DataFrame:
    """The log, in order of time: CLICKS. An hour in which no campaign runs has no click."""
    random = np.random.Generator(np.random.Philox(world.seed))
    campaigns = draw_campaigns(world, random)
    site_logit = random.normal(0.0, world.site_sd, world.sites)
    placement_logit = random.normal(0.0, world.placement_sd, world.placements)
    since_ms = _times(world, random)
    campaign = _choose(campaigns, since_ms, random)
    since_ms, campaign = since_ms[campaign >= 0], campaign[campaign >= 0]
    site, placement = random.integers(world.sites, size=len(since_ms)), random.integers(world.placements, size=len(since_ms))
    wave = world.wave * np.sin(2.0 * np.pi * since_ms / (world.wave_hours * HOUR_MS))
    own = campaigns.logit[campaign] + campaigns.drift[since_ms // HOUR_MS, campaign]
    p_true = 1.0 / (1.0 + np.exp(-(world.bias + own + site_logit[site] + placement_logit[placement] + wave)))
    delay_ms = _delays_ms(world, campaigns.scale_hours[campaign], random)
    converts = random.random(len(since_ms)) < p_true
    told = {"ts_ms": world.start_ms + since_ms, "click": np.arange(len(since_ms)), "campaign": campaign, "site": site}
    return _frame({**told, "placement": placement, "p_true": p_true}, delay_ms, converts)


def draw_campaigns(world: ClickWorld, random: np.random.Generator) -> Campaigns:
    """The campaigns of a world; their first popularity has nothing to do with when they run."""
    n = world.campaigns
    born = random.permutation(n) < round(world.born_share * n)
    ending = random.permutation(n) < round(world.ending_share * n)
    begin = np.where(born, random.uniform(0.0, world.hours, n), 0.0)
    end = np.where(ending, begin + random.uniform(world.least_life_hours, world.most_life_hours, n), np.inf)
    share = (1.0 + np.arange(n)) ** -world.campaign_exponent
    logit = random.normal(0.0, world.campaign_sd, n)
    scales = np.array(world.delay_scales_hours)[random.integers(len(world.delay_scales_hours), size=n)]
    return Campaigns(begin, end, share / share.sum(), logit, _drift(world, random), scales)


def _drift(world: ClickWorld, random: np.random.Generator) -> np.ndarray:
    """float64 [hours, campaigns]: stationary from the start, exact at whole hours."""
    keep = np.exp(-1.0 / world.drift_hours)
    steps = random.normal(0.0, world.drift_sd, (world.hours, world.campaigns))
    for hour in range(1, world.hours):
        steps[hour] = keep * steps[hour - 1] + np.sqrt(1.0 - keep * keep) * steps[hour]
    return steps


def _times(world: ClickWorld, random: np.random.Generator) -> np.ndarray:
    """int64 [n], ms since the start, in order: a Poisson number each minute, spread evenly over it."""
    minute = np.arange(world.hours * 60)
    rate = world.clicks_per_hour / 60.0 * (1.0 + world.daily_wave * np.sin(2.0 * np.pi * minute / (60.0 * DAY_HOURS)))
    starts = np.repeat(minute * MINUTE_MS, random.poisson(rate))
    return np.sort(starts + random.integers(MINUTE_MS, size=len(starts)))


def _choose(campaigns: Campaigns, since_ms: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int64 [n]: the campaign of each click, of those that run through its hour from its start on; -1 where none does."""
    hour, drawn = since_ms // HOUR_MS, random.random(len(since_ms))
    out = np.full(len(since_ms), -1)
    for at in range(len(campaigns.drift)):
        span = slice(*np.searchsorted(hour, [at, at + 1]))
        upto = np.cumsum(np.where((campaigns.begin_hours <= at) & (at < campaigns.end_hours), campaigns.share, 0.0))
        if upto[-1] > 0.0:
            out[span] = np.searchsorted(upto, drawn[span] * upto[-1], side="right")
    return out


def _delays_ms(world: ClickWorld, scale_hours: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int64 [n], 1 ms to the horizon: exponential, cut at the horizon, by its inverse."""
    within = -np.expm1(-world.horizon_hours / scale_hours)
    hours = -scale_hours * np.log1p(-random.random(len(scale_hours)) * within)
    delays_ms: np.ndarray = np.clip(np.ceil(hours * HOUR_MS), 1, world.horizon_hours * HOUR_MS).astype(np.int64)
    return delays_ms


def _frame(told: Mapping[str, np.ndarray], delay_ms: np.ndarray, converts: np.ndarray) -> pl.DataFrame:
    delay = pl.when(pl.Series(converts)).then(pl.Series(delay_ms))
    return pl.DataFrame(told).with_columns(delay.alias("delay_ms")).select(CLICKS.names()).cast(CLICKS)
