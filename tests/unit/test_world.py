"""The simulated world: its log is what its truth says, and lists are judged by that truth."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from core.errors import FreshetError, SettingsError
from evaluation.world import TruthJudge, World, WorldConfig, entries, frames, label_frames, load_world, make_world
from evaluation.world.laws import DIMENSIONS, empty_shelf, taste, zipf
from evaluation.world.pages import ROW, TYPES, arrive
from evaluation.world.simulation import Simulation
from streams.cli.simulate import simulate
from streams.logs.mapping import load_mapping
from streams.logs.reader import open_log, read_catalogue
from streams.replay import LocalPipeline
from streams.settings import Settings
from tests.naive_world import NaiveWorld

SMALL = WorldConfig(
    seed=3, users=50, items=200, requests_per_second=1.0, room_share=0.3, room_life_minutes=20.0, item_life_hours=1.0, change_hours=1.0,
    conversion_logit=-0.5, conversion_scales_hours=(0.02, 0.1, 0.3), attribution_hours=0.5,
)  # fmt: skip
EVENTS = 150_000
SIGMAS = 4.5  # of a sum of independent draws: seeds are fixed, so a test that passes goes on passing
T0, MINUTE_MS, HOUR_MS = SMALL.start_ms, 60_000, 3_600_000


@dataclass(frozen=True)
class Log:
    events: pl.DataFrame  # with `place`
    labels: pl.DataFrame
    items: pl.DataFrame

    def of(self, type_: str) -> pl.DataFrame:
        return self.events.filter(pl.col("type") == type_)

    @property
    def shown(self) -> pl.DataFrame:
        """Impressions with their truth, whether they were clicked, when they converted."""
        keys = ["request_id", "item_id"]
        clicks, buys = (self.of(name).select(*keys, pl.col("ts_ms").alias(f"{name}_ms")) for name in ("click", "purchase"))
        told = self.labels.drop("ts_ms")
        return self.of("impression").join(told, on="event_id").join(clicks, on=keys, how="left").join(buys, on=keys, how="left")


def position(events: pl.DataFrame) -> pl.Expr:
    return pl.col("context").str.json_path_match("$.position").cast(pl.Int64)


@pytest.fixture(scope="module")
def log() -> Log:
    events = pl.concat(frames(SMALL, EVENTS))
    return Log(events.with_columns(place=position(events)), pl.concat(label_frames(SMALL, EVENTS)), items_of(SMALL, events["ts_ms"][-1]))


def items_of(config: WorldConfig, until_ms: int) -> pl.DataFrame:
    return pl.concat(entries(config, until_ms))


def assert_expected(found: float, p: np.ndarray) -> None:
    """`found` successes of independent draws with probabilities p."""
    assert abs(found - p.sum()) < SIGMAS * np.sqrt((p * (1 - p)).sum()) + 1e-9, (found, p.sum())


# The same seed, the same log


def test_chunks_and_sorts_change_no_row() -> None:
    whole = np.concatenate(list(Simulation(SMALL).rows(30_000, 30_000)))
    for chunk_rows, at_once in ((7_001, 1 << 17), (30_000, 100), (999, 4_000)):
        chunks = list(Simulation(SMALL, at_once).rows(30_000, chunk_rows))
        assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_rows}
        assert same(np.concatenate(chunks), whole)
    assert same(np.concatenate(list(Simulation(SMALL).rows(1_000, 64))), whole[:1_000])


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, but for what lies between the fields."""
    return all(one[name].tobytes() == other[name].tobytes() for name in ROW.names)


def test_frames_are_numbered_through_the_chunks() -> None:
    one, other = (pl.concat(frames(SMALL, 5_000, rows)) for rows in (5_000, 321))
    assert one.equals(other)
    assert pl.concat(label_frames(SMALL, 5_000, 321)).equals(pl.concat(label_frames(SMALL, 5_000)))
    assert one["event_id"].to_list() == [f"e{n}" for n in range(5_000)]


def test_another_seed_is_another_log() -> None:
    one, other = (next(iter(Simulation(make_world({"seed": seed})).rows(5_000))) for seed in (0, 1))
    for name in ("ts_ms", "user", "item", "type"):
        assert (one[name] == other[name]).mean() < 0.9, name


# A twin


@pytest.mark.parametrize("seed", [0, 7])
def test_rows_are_those_of_the_naive_world(seed: int) -> None:
    config = make_world({**msgspec.to_builtins(SMALL), "seed": seed, "item_exponent": 1.0 if seed else 0.8, "bot_share": 0.2})
    naive, rows = NaiveWorld(config), np.concatenate(list(Simulation(config).rows(4_000)))
    count = 1 + rows["request"].max()
    expected = [
        (row[0], number, place, *row[1:])
        for number, ts_ms in enumerate(naive.arrivals(count))
        for place, row in enumerate(naive.request(number, ts_ms))
    ]
    table = np.array(sorted(expected), dtype=np.float64)[: len(rows)]
    names = ("ts_ms", "request", "user", "item", "type", "place", "value", "click", "conversion")
    for name, column in zip(names, np.delete(table, 2, axis=1).T, strict=True):
        np.testing.assert_allclose(rows[name].astype(np.float64), column, rtol=2e-5 if name in names[-2:] else 0, err_msg=name)


# Time


def test_rows_are_in_order_of_time_then_of_request() -> None:
    rows = np.concatenate(list(Simulation(SMALL).rows(EVENTS)))
    assert (np.diff(rows["ts_ms"]) >= 0).all()
    tied = np.diff(rows["ts_ms"]) == 0
    assert (np.diff(rows["request"])[tied] >= 0).all()
    assert {TYPES[kind] for kind in np.unique(rows["type"])} == set(TYPES)


def arrivals(config: WorldConfig, count: int) -> np.ndarray:
    """Minute of the world of each request."""
    out = np.empty(count, dtype=np.int64)
    arrive(config.law(), 0, np.zeros(1), out)
    return (out - config.start_ms) // MINUTE_MS


def test_requests_come_at_the_rate_of_the_hour() -> None:
    config = WorldConfig(requests_per_second=1.0, daily_wave=0.8, burst_share=0.0)
    minutes = arrivals(config, 200_000)
    days = 2 * 1_440
    counts = np.bincount(minutes[minutes < days], minlength=days)
    expected = 60 * (1 + 0.8 * np.sin(2 * np.pi * np.arange(days) / 1_440))
    assert abs(counts.sum() - expected.sum()) < SIGMAS * np.sqrt(expected.sum())
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - days) < SIGMAS * np.sqrt(2 * days), "minutes are independent Poisson counts"


def test_bursts_are_minutes_of_several_times_the_rate() -> None:
    config = WorldConfig(requests_per_second=1.0, daily_wave=0.0, burst_share=0.1, burst_times=6.0)
    minutes = arrivals(config, 400_000)
    counts = np.bincount(minutes)[:-1]
    burst = counts > 180
    assert_expected(burst.sum(), np.full(counts.size, 0.1))
    assert counts[~burst].mean() == pytest.approx(60, rel=0.01)
    assert counts[burst].mean() == pytest.approx(360, rel=0.02)


# Who asks, what is shown


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.3])
def test_zipf_is_a_power_law(exponent: float) -> None:
    n, shares = 40, (np.arange(200_000) + 0.5) / 200_000
    counts = np.bincount([zipf(share, n, exponent) for share in shares], minlength=n) / shares.size
    middle = np.arange(1, n + 1) + 0.5
    assert counts.size == n
    np.testing.assert_allclose(counts[5:], middle[5:] ** -exponent / (middle**-exponent).sum(), rtol=0.02 if exponent < 1 else 0.06)
    assert counts[0] / counts[9] == pytest.approx((middle[0] / middle[9]) ** -exponent, rel=0.12)


def requests_of(log: Log) -> pl.DataFrame:
    return log.of("impression").group_by("request_id").agg(pl.col("user_id").first(), pl.col("item_id").n_unique(), pl.len())


def test_bots_ask_for_their_share_and_users_by_their_rank(log: Log) -> None:
    requests = requests_of(log)
    user = requests["user_id"].str.slice(1).cast(pl.Int64).to_numpy()
    assert_expected((user >= SMALL.users).sum(), np.full(user.size, SMALL.bot_share))
    assert set(user[user >= SMALL.users]) == set(range(50, 55))
    edges = np.sqrt(np.arange(1, SMALL.users + 2))
    shares = np.diff(edges) / (edges[-1] - edges[0])
    counts = np.bincount(user[user < SMALL.users], minlength=SMALL.users)
    assert (np.abs(counts - counts.sum() * shares) < SIGMAS * np.sqrt(counts.sum() * shares)).all()


def test_a_page_has_each_place_once_and_no_item_twice(log: Log) -> None:
    whole = requests_of(log).filter(pl.col("len") == SMALL.page)
    assert whole.height > 10_000
    assert (whole["item_id"] == SMALL.page).all()
    places = log.of("impression").group_by("place").len()
    assert sorted(places["place"]) == list(range(1, SMALL.page + 1))
    assert places["len"].max() - places["len"].min() <= 1


def test_popular_slots_are_shown_more() -> None:
    rows = next(iter(Simulation(WorldConfig(tries=1, explore=0.0, item_exponent=1.0, items=1_000, bot_share=0.0)).rows(60_000, 60_000)))
    slots = rows["item"][rows["type"] == 0] % 1_000
    head = np.log(101) / np.log(1_001)
    assert np.mean(slots < 100) == pytest.approx(head, abs=0.02)


def test_pages_with_tries_are_better_for_their_user() -> None:
    means = []
    for tries in (1, 4):
        rows = next(iter(Simulation(WorldConfig(tries=tries, position_exponent=0.0, bot_share=0.0)).rows(20_000, 20_000)))
        means.append(rows["click"][rows["type"] == 0].mean())
    assert means[1] > 1.5 * means[0]


# What follows: rates are the truth's


def test_clicks_come_at_their_true_rate_at_each_position_and_level(log: Log) -> None:
    shown = log.shown
    bot = shown["user_id"].str.slice(1).cast(pl.Int64) >= SMALL.users
    old = shown["ts_ms"] < log.events["ts_ms"][-1] - 120_000  # clicks of later ones may be behind the end
    for kind, rows in (("bots", shown.filter(bot & old)), ("users", shown.filter(~bot & old))):
        assert rows["p_click"].max() <= (SMALL.bot_click if kind == "bots" else 1.0)
        for _, part in rows.group_by("place"):
            assert_expected(part["click_ms"].is_not_null().sum(), part["p_click"].to_numpy())
        for _, part in rows.group_by((pl.col("p_click") * 10).floor()):
            assert_expected(part["click_ms"].is_not_null().sum(), part["p_click"].to_numpy())
    users = shown.filter(~bot)
    first, last = (users.filter(pl.col("place") == place)["p_click"].mean() for place in (1, 10))
    assert first / last == pytest.approx(10**SMALL.position_exponent, rel=0.05)
    bots = shown.filter(bot).group_by("place").agg(pl.col("p_click").mean())
    assert bots["p_click"].min() > 0.95 * SMALL.bot_click, "bots do not care for the position"


def test_the_truth_of_an_impression_is_the_world_s(log: Log) -> None:
    world, ends = World(SMALL), dict(log.items.select("item_id", "end").iter_rows())
    for row in log.shown[::997].iter_rows(named=True):
        user = world.user_number(row["user_id"])
        left_ms = ends[row["item_id"]] - row["ts_ms"]
        lasting = 1 - np.exp(-left_ms / 1_000 / SMALL.click_seconds)
        if user >= SMALL.users:
            expected = SMALL.bot_click
        else:
            utility = world.utilities(row["ts_ms"], user, world.item_numbers([row["item_id"]]))[0]
            expected = utility * row["place"] ** -SMALL.position_exponent
        assert row["p_click"] == pytest.approx(expected * lasting, rel=1e-6)


def test_conversions_come_at_their_true_rate_and_delay(log: Log) -> None:
    window_ms = SMALL.attribution_hours * HOUR_MS
    clicked = log.shown.filter(pl.col("click_ms") + window_ms < log.events["ts_ms"][-1])
    p, converted = clicked["p_conversion_after_click"].to_numpy(), clicked["purchase_ms"].is_not_null().to_numpy()
    assert converted.sum() > 1_000
    for scale in SMALL.conversion_scales_hours:
        mine = np.isclose(clicked["delay_scale_seconds"].to_numpy(), scale * 3_600)
        assert_expected(converted[mine].sum(), p[mine])
        delays = (clicked["purchase_ms"] - clicked["click_ms"]).to_numpy()[mine & converted] / HOUR_MS
        cut = SMALL.attribution_hours / scale
        mean = scale * (1 - cut / np.expm1(cut))
        assert delays.min() >= 0
        assert delays.max() <= SMALL.attribution_hours + 1e-6
        assert abs(delays.mean() - mean) < SIGMAS * scale / np.sqrt(delays.size)
    for high in (False, True):
        mine = (p > np.median(p)) == high
        assert_expected(converted[mine].sum(), p[mine])
    np.testing.assert_allclose(clicked["p_conversion"], clicked["p_click"] * p)


def test_nothing_comes_before_its_cause(log: Log) -> None:
    shown, keys = log.of("impression").select("request_id", "item_id", shown_ms="ts_ms"), ["request_id", "item_id"]
    clicks = log.of("click").select(*keys, clicked_ms="ts_ms")
    for type_ in TYPES[1:]:
        caused = log.of(type_).join(shown, on=keys)
        assert caused.height == log.of(type_).height, type_
        assert (caused["ts_ms"] >= caused["shown_ms"]).all()
        if type_ != "click":
            after = log.of(type_).join(clicks, on=keys)
            assert after.height == log.of(type_).height, type_
            assert (after["ts_ms"] >= after["clicked_ms"]).all()
    assert log.events.filter(pl.col("type") != "impression")["context"].is_null().all()


def test_who_enters_a_room_leaves_it(log: Log) -> None:
    rooms = log.items.filter(pl.col("tags").list.first() == "room")
    keys, end_ms = ["request_id", "item_id", "user_id"], log.events["ts_ms"][-1]
    stays = (
        log.of("enter").select(*keys, entered_ms="ts_ms").join(log.of("exit"), on=keys, how="left").join(rooms, on="item_id", how="left")
    )
    assert stays.height > 1_000
    assert stays.filter(pl.col("ts_ms").is_not_null()).height == log.of("exit").height
    assert stays["start"].is_not_null().all(), "videos are viewed, not entered"
    assert log.of("view").join(rooms, on="item_id").is_empty()
    left = stays.filter(pl.col("ts_ms").is_not_null())
    np.testing.assert_allclose(left["value"], (left["ts_ms"] - left["entered_ms"]) / 1_000, atol=1e-9)
    assert (left["ts_ms"] <= left["end"]).all()
    early = stays.filter(pl.col("end") < end_ms)
    assert early["ts_ms"].is_not_null().all(), "at the latest when the room closes"
    away = left.filter(pl.col("end") - pl.col("entered_ms") > 600_000)
    assert away["value"].mean() == pytest.approx(SMALL.room_seconds * (1 - np.exp(-600 / 180)), rel=0.2)


# Births and deaths


def test_nothing_happens_on_an_item_before_its_birth_or_after_its_end(log: Log) -> None:
    used = log.events.join(log.items, on="item_id", how="left")
    assert used["start"].is_not_null().all(), "every item of the log is in the catalogue"
    assert (used["ts_ms"] >= used["start"]).all()
    lively = used.filter(pl.col("type").is_in(["impression", "click", "enter"]))
    assert (lively["ts_ms"] < lively["end"]).all()
    assert (used.filter(pl.col("type").is_in(["view", "exit"])).select(pl.col("ts_ms") <= pl.col("end"))).to_series().all()
    assert log.items.filter(pl.col("start") > T0).height > 300


def test_as_many_items_are_live_at_any_time(log: Log) -> None:
    start, end = log.items["start"].to_numpy(), log.items["end"].to_numpy()
    for ts_ms in np.linspace(T0, log.events["ts_ms"][-1], 40).astype(np.int64):
        assert ((start <= ts_ms) & (ts_ms < end)).sum() == SMALL.items
    rooms = log.items.filter(pl.col("tags").list.first() == "room")
    lives = (rooms["end"] - rooms["start"]).to_numpy() / MINUTE_MS
    assert 10 <= lives.min() < lives.max() <= 30
    assert start.max() <= log.events["ts_ms"][-1]


def test_an_entry_says_what_its_item_is_about(log: Log) -> None:
    """The items that a user likes best are of the two categories of his taste, mostly."""
    world, category = World(SMALL), dict(log.items.select("item_id", pl.col("categories").list.first()).iter_rows())
    liked = [[category[f"i{n}"] for n in world.best(T0, user, 20, np.empty(0, dtype=np.int64))] for user in range(20)]
    top = [sum(sorted((names.count(name) for name in set(names)), reverse=True)[:3]) for names in liked]
    assert np.mean(top) > 14
    words = log.items.select(pl.col("categories").list.first().str.strip_prefix("topic-"), "text", "author")
    assert all(text.startswith(f"t{topic}w") and author.startswith(f"t{topic}a") for topic, text, author in words.iter_rows())


# Tastes


def test_a_taste_stays_until_it_changes_and_changes_come_at_their_rate() -> None:
    config = WorldConfig(drift=0.0, change_hours=10.0)
    world, times = World(config), T0 + np.arange(0, 1_000 * HOUR_MS, HOUR_MS // 4)
    changes = []
    for user in range(10):
        liking = tastes(config, user, times)
        moved = (np.diff(liking, axis=0) != 0).any(axis=1)
        since = np.array([world.changed_ms(ts_ms, user) for ts_ms in times.tolist()])
        assert (since <= times).all()
        told = np.diff(since) != 0
        assert told[moved].all()
        assert told.sum() - moved.sum() <= 3, "one in 240 is of the same two topics"
        assert (np.diff(since)[moved] > 5 * HOUR_MS - 2).all()
        changes.append(moved.sum())
    assert np.mean(changes) == pytest.approx(100, abs=1)
    assert np.ptp(tastes(WorldConfig(drift=0.0, change_hours=0.0), 3, times), axis=0).max() == 0


def test_drift_is_slow_and_as_wide_as_told() -> None:
    config = WorldConfig(drift=0.5, drift_hours=10.0, change_hours=0.0)
    times = T0 + np.arange(0, 400 * HOUR_MS, HOUR_MS // 4)
    liking = np.concatenate([tastes(config, user, times) - tastes(config, user, times).mean(axis=0) for user in range(5)])
    assert liking.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)
    assert np.abs(np.diff(tastes(config, 1, times), axis=0)).max() < 0.5 * 2 * np.pi * 0.25 / 10 + 1e-9


def tastes(config: WorldConfig, user: int, times: np.ndarray) -> np.ndarray:
    law, block, out = config.law(), np.empty(4, dtype=np.uint64), np.empty((times.size, DIMENSIONS))
    shelf = empty_shelf(law)
    for row, ts_ms in zip(out, times.tolist(), strict=True):
        taste(law, shelf, user, ts_ms, block, row)
    return out


# Lists judged


def ids(items: np.ndarray) -> list[str]:
    return [f"i{item}" for item in items.tolist()]


def live_ids(items: pl.DataFrame, ts_ms: int) -> list[str]:
    return items.filter((pl.col("start") <= ts_ms) & (pl.col("end") > ts_ms))["item_id"].to_list()


def test_the_best_list_is_that_of_a_look_at_everything(log: Log) -> None:
    world, rng = World(SMALL), np.random.default_rng(1)
    for ts_ms in rng.integers(T0, log.events["ts_ms"][-1], 30).tolist():
        user, everything = int(rng.integers(50)), live_ids(log.items, ts_ms)
        without = rng.choice(everything, 25, replace=False)
        left = world.item_numbers(sorted(set(everything) - set(without)))
        utility = world.utilities(ts_ms, user, left)
        found = world.best(ts_ms, user, 20, world.item_numbers(without.tolist()))
        assert found.tolist() == left[np.argsort(-utility)[:20]].tolist()
        dead = sorted(set(log.items["item_id"]) - set(everything))
        assert not world.utilities(ts_ms, user, world.item_numbers(dead)).any()
    assert (world.best(T0, 1, 300, np.empty(0, dtype=np.int64)) == -1).sum() == 100


def test_an_oracle_has_no_regret_and_chance_has(log: Log) -> None:
    world, rng = World(SMALL), np.random.default_rng(2)
    oracle, reverse, chance, short = (TruthJudge(World(SMALL), 10, 1.0) for _ in range(4))
    for ts_ms in np.linspace(T0, log.events["ts_ms"][-1], 200).astype(np.int64).tolist():
        user, everything = int(rng.integers(50)), live_ids(log.items, ts_ms)
        seen = rng.choice(everything, 5, replace=False).tolist()
        best = ids(world.best(ts_ms, user, 10, world.item_numbers(seen)))
        oracle.judge(ts_ms, f"u{user}", best, seen)
        reverse.judge(ts_ms, f"u{user}", best[::-1], seen)
        chance.judge(ts_ms, f"u{user}", rng.permutation(sorted(set(everything) - set(seen)))[:10].tolist(), seen)
        short.judge(ts_ms, f"u{user}", [best[0], best[0], *seen, best[1]], seen)
    for judge in (oracle, reverse):
        assert judge.result()["regret"] == judge.result()["relative_regret"] == 0.0
    told = chance.result()
    assert told["lists"] == 200
    assert told["regret"] > 0.2
    assert 0.5 < told["relative_regret"] < 1
    assert told["best"] == pytest.approx(oracle.result()["gain"])
    assert sum(told["by_hour"]["n"]) == 200
    assert short.result()["relative_regret"] > 0.75, "twice, seen and empty count nothing"
    json.dumps(told, allow_nan=False)


STEADY = WorldConfig(seed=5, users=12, items=300, item_life_hours=1e7, room_share=0.0, drift=0.0, change_hours=20.0, quality_sd=0.0)
STEP_MS = 600_000


def followed(lag_ms: int | None, steps: int = 400, judge: TruthJudge | None = None, first: int = 0) -> TruthJudge:
    """Lists each ten minutes that are best for the taste of `lag_ms` before (None: of the beginning)."""
    world, judge = World(STEADY), judge or TruthJudge(World(STEADY), 10, 1.0)
    for step in range(first, steps):
        ts_ms = T0 + step * STEP_MS
        known_ms = T0 if lag_ms is None else max(T0, ts_ms - lag_ms)
        for user in range(12):
            judge.judge(ts_ms, f"u{user}", ids(world.best(known_ms, user, 10, np.empty(0, dtype=np.int64))))
    return judge


@pytest.mark.parametrize("lag_ms", [0, 3 * HOUR_MS, 5 * HOUR_MS + 1])
def test_the_time_until_a_change_shows_is_the_lag_of_the_lists(lag_ms: int) -> None:
    told = followed(lag_ms).result()["changes"]
    assert told["n"] > 20
    assert told["fall"] > 0.3
    for level in ("0.5", "0.8"):
        regained = told["regained"][level]
        for quantile in ("p50", "p90"):
            assert lag_ms / 1_000 <= regained["seconds"][quantile] < lag_ms / 1_000 + STEP_MS / 1_000
            assert regained["lists"][quantile] in (lag_ms // STEP_MS + 1, lag_ms // STEP_MS + 2)
        assert regained["never"] < 0.1


def test_a_list_that_never_changes_never_regains() -> None:
    told = followed(None, 150).result()["changes"]
    assert told["n"] >= 8
    assert told["regained"]["0.8"] == {"seconds": {"p50": None, "p90": None}, "lists": {"p50": None, "p90": None}, "never": 1.0}


def test_a_judge_goes_on_where_it_was_saved() -> None:
    whole, half = followed(HOUR_MS, 200), followed(HOUR_MS, 90)
    file = io.BytesIO()
    np.savez(file, **half.save())
    file.seek(0)
    again = TruthJudge(World(STEADY), 10, 1.0)
    with np.load(file, allow_pickle=False) as state:
        again.load(dict(state))
    assert followed(HOUR_MS, 200, again, 90).result() == whole.result()


def test_a_share_of_the_users_is_judged_and_no_bot() -> None:
    judge = TruthJudge(World(WorldConfig(users=10_000)), 5, 0.2)
    chosen = [judge.judges(f"u{user}") for user in range(10_005)]
    assert_expected(sum(chosen[:10_000]), np.full(10_000, 0.2))
    assert not any(chosen[10_000:])
    judge.judge(T0, f"u{chosen.index(False)}", ["i1"])
    assert judge.result()["lists"] == 0


@pytest.mark.parametrize("user_id, item_id", [("u1", "x"), ("u1", "v7"), ("someone", "i1"), ("u99999", "i1")])
def test_ids_of_another_log_are_refused(user_id: str, item_id: str) -> None:
    with pytest.raises(SettingsError, match="is no id of this world"):
        TruthJudge(World(SMALL), 5, 1.0).judge(T0, user_id, [item_id])


def test_a_list_from_before_the_world_is_refused() -> None:
    with pytest.raises(SettingsError, match="start_ms"):
        TruthJudge(World(SMALL), 5, 1.0).judge(T0 - 1, "u1", ["i1"])


# Settings and files


PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()


def test_the_world_of_delayed_feedback_is_a_stream_of_samples_that_convert() -> None:
    told = msgspec.toml.decode(PAGE.partition("```toml\n")[2].partition("```")[0])
    config = make_world(told)
    events, labels = pl.concat(frames(config, 60_000)), pl.concat(label_frames(config, 60_000))
    assert labels["p_click"].min() > 0.999
    assert 500 < events.filter(pl.col("type") == "click").height / ((events["ts_ms"][-1] - T0) / HOUR_MS) < 1_500, "clicks an hour"
    p = labels["p_conversion"]
    assert p.mean() == pytest.approx(0.57, abs=0.05)
    assert p.quantile(0.9) - p.quantile(0.1) > 0.3


def test_the_page_tells_every_setting_with_its_default() -> None:
    for name, value in msgspec.to_builtins(WorldConfig()).items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert f"| `{name}` | {shown} |" in PAGE


@pytest.mark.parametrize(
    "change",
    [{"users": 0}, {"page": 51}, {"items": 5}, {"burst_share": 1.5}, {"requests_per_second": 0}, {"drift": -1}, {"topics": 1},
     {"conversion_scales_hours": [1, 0, 2]}, {"start_ms": 0}, {"seed": -1}, {"users": "many"}, {"nothing": 1}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="page" if change == {"items": 5} else next(iter(change))):
        make_world(change)


def run(*arguments: object) -> tuple[object, str]:
    app = typer.Typer()
    app.command()(simulate)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, FreshetError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result, result.output


def test_a_simulated_log_is_replayed_without_a_dead_letter(tmp_path: Path) -> None:
    out, again = tmp_path / "world", tmp_path / "again"
    (tmp_path / "world.toml").write_text("users = 40\nroom_share = 0.5\nconversion_logit = 1.0\nrequests_per_second = 0.5\n")
    options = ("--events", 3_000, "--settings", tmp_path / "world.toml", "--seed", 4, "--items", 60, "--truth-labels")
    assert "3,000 events" in run(out, *options)[1]
    run(again, *options)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["events.parquet", "items.ndjson", "labels.parquet", "world.json"]
    for name in names:
        assert (out / name).read_bytes() == (again / name).read_bytes()
    world = load_world(out)
    assert world == WorldConfig(seed=4, users=40, items=60, room_share=0.5, conversion_logit=1.0, requests_per_second=0.5)
    mapping = load_mapping("freshet")
    items = read_catalogue(out / "items.ndjson", mapping)
    messages = [message for batch in open_log(out / "events.parquet", mapping).batches() for message in batch.messages]
    local = LocalPipeline(Settings(batches_partitions=1, max_users=8_192, max_items=8_192, dimensions=16), tmp_path / "local")
    local.feed_items(items)
    local.feed_events(messages)
    assert local.counts == {"events": 3_000, "items": len(items), "dead_letters": 0}
    judge = TruthJudge.open(out, 20, 1.0)
    for user in range(40):
        judge.judge(local.cache.clock_ms, f"u{user}", [item.item_id for item in local.cache.recommend(f"u{user}", 20).items])
    local.close()
    assert 0 < judge.result()["gain"] < judge.result()["best"]
    with pytest.raises(SettingsError, match="is not empty"):
        run(out, *options)


def test_a_directory_without_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no world\.json"):
        load_world(tmp_path)
    (tmp_path / "world.json").write_text('{"format": 2, "world": {}}')
    with pytest.raises(SettingsError, match="format 2"):
        TruthJudge.open(tmp_path)


def test_kafka_needs_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_BOOTSTRAP_SERVERS", raising=False)
    with pytest.raises(SettingsError, match="FRESHET_BOOTSTRAP_SERVERS"):
        run(tmp_path / "world", "--events", 700, "--to-kafka")
    assert not (tmp_path / "world").exists()
