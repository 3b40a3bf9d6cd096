"""The user stage against one that handles an event at a time with dicts; cuts, restarts, expiry, settings."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import SettingsError, SnapshotError
from core.hashing import fingerprint
from core.schemas import BATCHES, EVENT, ITEM, TICK, USER, examples_schema
from features.config import UserConfig
from features.user_stage import USER_HISTORY, UserStage
from tests.naive_features import NaiveAffinity, NaiveEntity, last_events
from tests.snapshots import save

T0 = 1_700_000_000_000
CONFIG = UserConfig(
    partition=3,
    types=("click", "view"),
    half_lives_seconds=(60, 3_600),
    windows_seconds=(600, 7_200),
    sequence_events=3,
    history_types=("click", "like"),
    history_items=3,
    late_seconds=600,
    future_seconds=300,
    duplicate_horizon_seconds=1_800,
    user_ttl_seconds=7_200,
    hot_bytes=1,
    cache_bytes=1 << 20,
)
TYPES = ("click", "view", "like", "impression")


def event(ts_ms, user, item="i", type_="click", event_id=None, value=None):
    return {"kind": EVENT, "ts_ms": ts_ms, "user_id": user, "item_id": item, "type": type_, "event_id": event_id, "value": value}


def tick(ts_ms):
    return {"kind": TICK, "ts_ms": ts_ms}


def entry(item, *categories):
    return {"kind": ITEM, "ts_ms": 0, "item_id": item, "item": json.dumps({"categories": categories} if categories else {})}


CATALOGUE = entry("i")


def frame(rows):
    """`batches` rows from dicts."""
    base = {"source": 0, "sent_ms": T0, "value": None, "request_id": None, "context": None}
    return pl.DataFrame([{**base, "offset": at, **row} for at, row in enumerate(rows)], schema=BATCHES)


class NaiveUserStage:
    """One event at a time, dicts, no store, no kernels."""

    def __init__(self, config):
        self.config, self.window, self.clock, self.now, self.ordinal = config, [], 0, 0, 0
        self.seen, self.users, self.touched, self.outcomes, self.categories = {}, {}, set(), Counter(), {}

    def apply(self, rows):
        return [(at, *out) for at, row in enumerate(rows) if (out := self.one(row)) is not None]

    def one(self, row):
        """(clock, features or None) of an example, or None."""
        if row["kind"] == ITEM:
            self.categories[row["item_id"]] = json.loads(row["item"]).get("categories", [None])[0]
            return None
        if row["kind"] == TICK:
            self.clock = max(self.clock, row["ts_ms"])
            return self.clock, None
        self.advance(row["ts_ms"])
        self.ordinal += 1
        if self.repeated(row):
            self.outcomes["duplicate"] += 1
            return None
        self.count_outcomes(row["ts_ms"])
        return self.clock, self.learn(row)

    def advance(self, ts_ms):
        self.window = [*self.window, ts_ms][-15:]
        if len(self.window) >= 3:
            self.clock = max(self.clock, sorted(self.window)[(len(self.window) - 1) // 2])
        self.now = max(self.now, self.clock or ts_ms)

    def repeated(self, row):
        key = (row["user_id"], row["event_id"])
        if row["event_id"] is None:
            return False
        if key in self.seen and self.now - self.seen[key] < self.config.duplicate_horizon_seconds * 1000:
            return True
        self.seen[key] = self.now
        return False

    def count_outcomes(self, ts_ms):
        self.outcomes["accepted"] += 1
        self.outcomes["late"] += ts_ms < self.clock - self.config.late_seconds * 1000
        self.outcomes["future"] += self.clock != 0 and ts_ms > self.clock + self.config.future_seconds * 1000

    def learn(self, row):
        ts = min(row["ts_ms"], self.clock + self.config.future_seconds * 1000) if self.clock else row["ts_ms"]
        user = self.users.get(row["user_id"])
        if user is None or self.now - user["used"] >= self.config.user_ttl_seconds * 1000:
            behaviours, sequences = self.config.entity.behaviours, {name: [] for name, _ in self.config.sequences}
            user = {
                "entity": NaiveEntity(self.config.entity, "user"), "affinity": NaiveAffinity(behaviours), "items": [],
                "sequences": sequences, "last": 0,
            }  # fmt: skip
        before = self.count(user, row, ts)
        if row["type"] in self.config.history_types and row["item_id"] is not None:
            self.remember(user["items"], row["item_id"], ts)
            self.touched.add(row["user_id"])
        user.update(last=max(user["last"], ts), used=self.now, version=self.ordinal)
        self.users[row["user_id"]] = user
        return before

    def count(self, user, row, ts):
        category, item, type_ = self.categories.get(row["item_id"]), row["item_id"], row["type"]
        category, counted = word(category) if category else 0, type_ if type_ in self.config.types else None
        before = [*user["entity"].before(ts), *user["affinity"].before(ts, category)]
        user["entity"].learn(ts, counted, row["value"], word(item) if item else 0)
        user["affinity"].learn(ts, category, counted)
        for name, types in self.config.sequences:
            if item is not None and type_ in types and type_ in self.config.codes:
                user["sequences"][name].append((ts, (fingerprint(item), self.config.codes[type_], row["value"], self.ordinal)))
        return before

    def sequences(self, user_id):
        room = self.config.sequence_events
        return {name: last_events(told, room) for name, told in self.users[user_id]["sequences"].items()}

    def remember(self, items, item, ts):
        """`items`: (time, item), newest first."""
        if any(held == item and held_ts > ts for held_ts, held in items):
            return
        items[:] = [pair for pair in items if pair[1] != item]
        items.insert(sum(held_ts > ts for held_ts, _ in items), (ts, item))
        del items[self.config.history_items :]

    def history(self, user_id):
        user = self.users[user_id]
        return user["version"], user["last"], b"".join(fingerprint(item) for _, item in user["items"])


def cut(rows, sizes):
    """The rows in pieces of the given sizes, over and over."""
    pieces, at, k = [], 0, 0
    while at < len(rows):
        pieces.append(rows[at : at + sizes[k % len(sizes)]])
        at, k = at + sizes[k % len(sizes)], k + 1
    return pieces


def columns_of(examples):
    return examples[USER].to_numpy()


def check_against_naive(stage, naive, pieces):
    """Every example, then the whole published history."""
    for offset, piece in enumerate(pieces):
        examples, expected = stage.apply(frame(piece), offset), naive.apply(piece)
        assert examples.schema == examples_schema(len(CONFIG.columns))
        assert examples["row"].to_list() == [at for at, _, _ in expected]
        assert examples["clock_ms"].to_list() == [clock for _, clock, _ in expected]
        nothing = [math.nan] * len(CONFIG.columns)
        counters = np.array([nothing if c is None else c for _, _, c in expected]).reshape(-1, len(CONFIG.columns))
        np.testing.assert_allclose(columns_of(examples), counters, rtol=1e-5, atol=1e-30)
    assert {name: count for name, count in stage.outcomes.items() if count} == dict(+naive.outcomes)
    assert stage.ordinal == naive.ordinal
    check_sequences(stage, naive)
    published = stage.publish()
    touched = {} if published is None else {row["id"]: row for row in published.tables["user_history"].to_dicts()}
    for user, row in touched.items():
        assert (row["version"], row["event_ms"], row["recent"]) == naive.history(user)
    ttl_ms = CONFIG.user_ttl_seconds * 1000
    assert set(touched) == {user for user in naive.touched if naive.now - naive.users[user]["used"] < ttl_ms}


def check_sequences(stage, naive):
    """Of every user that is not forgotten."""
    ttl_ms = CONFIG.user_ttl_seconds * 1000
    for user in [user for user, held in naive.users.items() if naive.now - held["used"] < ttl_ms]:
        told = stage.sequences(user)
        for name, expected in naive.sequences(user).items():
            assert [(e.ts_ms, (e.item, e.code, None if math.isnan(e.value) else e.value, e.ordinal)) for e in told[name]] == expected


def word(text):
    """The first word of a fingerprint."""
    return int.from_bytes(fingerprint(text)[:8], "little", signed=True)


def random_rows(seed, count, users):
    """Ties, late, far future, duplicates, quiet hours, ticks, catalogue rows, events without an item."""
    random, ts, rows = np.random.default_rng(seed), T0, []
    for _ in range(count):
        ts += int(random.choice([0, 0, 1, 500, 20_000, 900_000], p=[0.2, 0.2, 0.3, 0.25, 0.04, 0.01]))
        odd = int(random.choice([0, -5_000, -4_000_000, 2_000_000], p=[0.85, 0.09, 0.03, 0.03]))
        item = None if random.random() < 0.05 else f"item-{random.integers(8)}"
        event_id = None if random.random() < 0.2 else f"{random.integers(count // 2)}"
        value = None if random.random() < 0.5 else float(random.integers(0, 60))
        rows.append(event(ts + odd, f"user-{int(users * random.random() ** 2)}", item, str(random.choice(TYPES)), event_id, value))
        if random.random() < 0.05:
            rows.append(tick(ts + int(random.integers(-1_000, 60_000))))
        if random.random() < 0.05:
            rows.append(entry(f"item-{random.integers(8)}", *(["c1"], ["c2", "c1"], [f"c{random.integers(20)}"], [])[random.integers(4)]))
    return rows


@pytest.fixture
def stage(tmp_path):
    stage = UserStage(CONFIG, tmp_path / "work")
    yield stage
    stage.close()


def test_a_long_stream_equals_the_naive_stage(stage):
    check_against_naive(stage, NaiveUserStage(CONFIG), cut(random_rows(1, 3_000, 60), [1, 20, 700, 3]))


row_strategy = st.one_of(
    st.builds(
        lambda passed, user, item, type_, event_id: event(T0 + passed, f"u{user}", item and f"i{item}", type_, event_id and f"e{event_id}"),
        st.one_of(st.integers(0, 1_000), st.integers(0, 40_000_000)),
        st.integers(0, 6),
        st.one_of(st.none(), st.integers(1, 5)),
        st.sampled_from(TYPES),
        st.one_of(st.none(), st.integers(1, 4)),
    ),
    st.builds(lambda passed: tick(T0 + passed), st.integers(0, 40_000_000)),
    st.just(CATALOGUE),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(row_strategy, max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_stream_equals_the_naive_stage(tmp_path_factory, rows, sizes):
    stage = UserStage(CONFIG, tmp_path_factory.mktemp("stage"))
    check_against_naive(stage, NaiveUserStage(CONFIG), cut(rows, sizes))
    stage.close()


def run(stage, pieces):
    """Example bytes without the position, which names the record; then the digest and the publication."""
    out = pl.concat([stage.apply(frame(piece), 0) for piece in pieces]).drop("row", "offset")
    return out, stage.publish(), stage.digest()


def assert_same(left, right):
    assert left[0].equals(right[0])
    assert left[1].version == right[1].version
    assert left[1].tables["user_history"].equals(right[1].tables["user_history"])
    assert left[2] == right[2]


def test_the_cut_into_records_changes_no_bit(tmp_path):
    rows = random_rows(2, 1_500, 40)
    results = []
    for at, sizes in enumerate([[len(rows)], [1], [7, 130, 1], [256]]):
        stage = UserStage(CONFIG, tmp_path / str(at))
        results.append(run(stage, cut(rows, sizes)))
        stage.close()
    for result in results[1:]:
        assert_same(results[0], result)


def test_the_memory_for_hot_users_changes_no_bit(tmp_path):
    results = []
    for hot_bytes in (1, 8 << 20):
        stage = UserStage(replace(CONFIG, hot_bytes=hot_bytes), tmp_path / str(hot_bytes))
        results.append(run(stage, cut(random_rows(3, 1_000, 40), [50])))
        stage.close()
    assert_same(*results)


@pytest.mark.parametrize("at", [1, 300, 999])
def test_a_restored_stage_goes_on_bit_for_bit(tmp_path, at):
    rows = random_rows(4, 1_000, 40)
    stage = UserStage(CONFIG, tmp_path / "work")
    stage.apply(frame(rows[: at // 2]), 0)
    stage.publish()
    stage.apply(frame(rows[at // 2 : at]), 1)
    (tmp_path / "snapshot").mkdir()
    save(stage, tmp_path / "snapshot")
    digest, whole = stage.digest(), run(stage, [rows[at:]])
    stage.close()
    again = UserStage(CONFIG, tmp_path / "again")
    again.apply(frame(rows[:10]), 0)  # what it held goes
    again.restore(tmp_path / "snapshot")
    assert again.digest() == digest
    assert_same(run(again, [rows[at:]]), whole)
    assert again.outcomes == stage.outcomes
    again.close()


def test_examples_carry_position_and_event(stage):
    rows = [CATALOGUE, event(T0, "u", "i", "view", "e"), event(T0, "u", "i", "view", "e"), tick(T0 + 5), event(T0 + 9, "v", None)]
    examples = stage.apply(frame(rows), 17)
    assert examples["row"].to_list() == [1, 3, 4]
    assert examples["kind"].to_list() == [EVENT, TICK, EVENT]
    assert examples["offset"].unique().to_list() == [17]
    assert examples["source"].unique().to_list() == [0]
    assert examples["upstream"].unique().to_list() == [CONFIG.partition]
    assert examples["user_id"].to_list() == ["u", None, "v"]
    assert examples[USER].is_null().to_list() == [False, True, False]
    nothing = stage.apply(frame([CATALOGUE]), 18)
    assert nothing.schema == examples.schema
    assert nothing.is_empty()


def test_one_odd_timestamp_does_not_freeze_a_user(stage):
    calm = [event(T0 + at, "other") for at in range(15)]
    stage.apply(frame([*calm, event(T0 + 40_000_000, "u", type_="view")]), 0)
    later = frame([event(T0 + 3_600_000, f"o{at}") for at in range(15)] + [event(T0 + 3_600_000, "u")])
    seen = stage.apply(later, 1)
    expected = math.exp2(-(3_600_000 - 300_000 - 7) / 3_600_000)
    assert columns_of(seen)[-1, CONFIG.columns.index("user_view_3600s")] == pytest.approx(expected, rel=1e-6)


def test_the_same_event_id_of_two_users_is_two_events(stage):
    rows = [event(T0, "a", event_id="bc"), event(T0, "ab", event_id="c"), event(T0, "b", event_id="c"), event(T0, "a", event_id="bc")]
    assert stage.apply(frame(rows), 0)["user_id"].to_list() == ["a", "ab", "b"]


def test_features_are_read_aligned_as_the_next_event_would_find_them(stage):
    stage.apply(frame(random_rows(6, 400, 10)), 0)
    stage.apply(frame([tick(stage.clock.ms + 60_000)]), 1)
    users = ["user-3", "nobody", "user-0"]
    read = stage.read(users)
    assert (read.event_ms > 0).tolist() == [True, False, True]
    assert np.isnan(read.values[1]).all()
    before = stage.digest()
    stage.read(users)
    assert stage.digest() == before
    for at in (0, 2):
        next_one = columns_of(stage.apply(frame([event(stage.clock.ms, users[at], None)]), 2 + at))[0]
        np.testing.assert_array_equal(read.values[at], next_one)


def test_only_users_whose_items_changed_are_published(stage):
    assert stage.publish() is None
    stage.apply(frame([event(T0, "a", "x"), event(T0, "b", "x", "impression"), event(T0 + 1, "a", "y", "like")]), 0)
    published = stage.publish()
    history = published.tables["user_history"]
    assert history.schema == USER_HISTORY
    assert history.row(0) == ("a", 3, T0 + 1, False, fingerprint("y") + fingerprint("x"))
    assert history.height == 1
    assert (published.version, published.sent_ms.size) == (3, 0)
    assert stage.publish() is None


def test_expired_state_leaves_the_disk(stage):
    day_ms = 86_400_000
    for day in range(12):
        stage.apply(frame([event(T0 + day * day_ms + at, f"u-{day}-{at}", event_id=str(at)) for at in range(40)]), day)
    assert len(list(stage.store.items("seen"))) <= 80
    assert len(list(stage.store.items("users"))) <= 80


@pytest.mark.parametrize("change", [{"types": ("click",)}, {"half_lives_seconds": (60, 7_200)}, {"history_items": 4}, {"partition": 4}])
def test_a_snapshot_of_other_settings_is_refused(tmp_path, stage, change):
    stage.apply(frame([event(T0, "a")]), 0)
    (tmp_path / "snapshot").mkdir()
    save(stage, tmp_path / "snapshot")
    other = UserStage(replace(CONFIG, **change), tmp_path / "other")
    with pytest.raises(SnapshotError, match=f"`{next(iter(change))}` was .* rebuild"):
        other.restore(tmp_path / "snapshot")
    other.close()


def test_bounds_may_change_over_a_restore(tmp_path, stage):
    (tmp_path / "snapshot").mkdir()
    save(stage, tmp_path / "snapshot")
    other = UserStage(replace(CONFIG, late_seconds=5, hot_bytes=1 << 20, cache_bytes=2 << 20), tmp_path / "other")
    other.restore(tmp_path / "snapshot")
    other.close()


@pytest.mark.parametrize(
    "change", [{"half_lives_seconds": ()}, {"history_items": 0}, {"types": ("a", "a")}, {"types": tuple(map(str, range(256)))}]
)
def test_settings_that_cannot_work_are_refused(change):
    with pytest.raises(SettingsError, match=next(iter(change))):
        replace(CONFIG, **change)
