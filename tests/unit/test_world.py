"""The simulated world: its log is what its truth says, and lists are judged by that truth."""

from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
import pytest

from evaluation.world import World, WorldConfig, entries, frames, label_frames, make_world
from evaluation.world.laws import DIMENSIONS, empty_shelf, taste, zipf
from evaluation.world.pages import ROW, TYPES, arrive
from evaluation.world.simulation import Simulation
from tests.naive_world import SIGMAS, SMALL, NaiveWorld, assert_expected

EVENTS = 150_000
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
