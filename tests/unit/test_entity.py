"""What is counted of an entity against a twin that keeps every event; what late events do; what the declarations say."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import SettingsError
from core.schemas import EVENT_TYPES
from features.declarations import BEHAVIOURS, DWELL, LONG_VIEW, MAX_TYPES, ROOM_FEATURES, EntityConfig, affinity_features
from features.entity import NOBODY, observe, plan, views
from tests.naive_features import NaiveEntity

T0 = 1_700_000_000_000
OWNER, GUARD, MARK = 3, 2, 0x0102030405060708  # words before and behind a row, and what stands there
ENTITIES = ("user", "item", "author", "category")
USER = EntityConfig(distinct="items", session_gap_seconds=1_800)
CONFIGS = {
    "default": EntityConfig(),
    "user": USER,
    "no views": EntityConfig(types=("click", "impression", "like"), half_lives_seconds=(60, 7), session_gap_seconds=60),
    "views alone": EntityConfig(types=("view",), windows_seconds=(10,), long_view_seconds=3),
    "others": EntityConfig(
        half_lives_seconds=(86_400, 7, 3_600),
        windows_seconds=(600, 10, 86_400),
        behaviours=(("loved", ("like", "share")), ("all", EVENT_TYPES), ("odd", ("view", "no such type")), ("none", ())),
        session_gap_seconds=1,
    ),
    "no behaviours": EntityConfig(behaviours=(), half_lives_seconds=(30,), session_gap_seconds=86_400),
    "no types": EntityConfig(types=()),
}
SECOND, HOUR = 1_000, 3_600_000


class Entities:
    """A few entities in rows under the kernel, each beside its twin."""

    def __init__(self, config, count=1):
        self.config, self.plan = config, plan(config, "user", OWNER)
        self.words = np.zeros((count, self.plan.words + GUARD), dtype=np.int64)
        self.words[:, :OWNER] = self.words[:, self.plan.words :] = MARK
        self.twins = [NaiveEntity(config, "user") for _ in range(count)]

    def see(self, ts_ms, type_=None, value=None, other=None, row=0):
        """One event; returns the features before it by name."""
        before = np.full(self.plan.width, -1.0, dtype=np.float32)
        known = type_ in self.config.types
        code = self.config.types.index(type_) if known else len(self.config.types) if type_ else -1
        observe(self.plan, views(self.words), row, ts_ms, code, math.nan if value is None else value, other or NOBODY, before)
        return dict(zip((feature.name for feature in self.config.features("user")), before.tolist(), strict=True))

    def check(self, ts_ms, type_=None, value=None, other=None, row=0):
        """One event, of which kernel and twin must tell the same."""
        twin = self.twins[row]
        expected = dict(zip(twin.columns, twin.before(ts_ms), strict=True))
        found = self.see(ts_ms, type_, value, other, row)
        if not np.allclose([*found.values()], [*expected.values()], rtol=1e-5, atol=1e-30, equal_nan=True):
            wrong = {
                name: (found[name], told) for name, told in expected.items() if not np.isclose(found[name], told, rtol=1e-5, equal_nan=True)
            }
            raise AssertionError(f"(kernel, twin) of event {len(twin.events)}: {wrong}")
        twin.learn(ts_ms, type_, value, other)

    def check_all(self, events):
        for event in events:
            self.check(*event)
        assert (self.words[:, :OWNER] == MARK).all() and (self.words[:, self.plan.words :] == MARK).all()


STEPS = {
    "in order": ([0, 1, 400, 25_000, 700_000], [0.1, 0.2, 0.3, 0.35, 0.05], [0], [1]),
    "out of order": ([0, 400, 25_000, 700_000], [0.1, 0.4, 0.45, 0.05], [0, -400, -40_000, -290_000], [0.5, 0.2, 0.2, 0.1]),
    "far late": ([0, 25_000, 4_000_000], [0.2, 0.78, 0.02], [0, -3_700_000, -90_000_000], [0.7, 0.2, 0.1]),
    "equal times": ([0, 60_000], [0.95, 0.05], [0, -1], [0.9, 0.1]),
    "pauses": ([1_800_000, 1_800_001, 86_400_000, 900_000_000], [0.4, 0.4, 0.15, 0.05], [0], [1]),
}
VALUES = [None, math.nan, math.inf, -math.inf, -1.0, 0.0, 2.999, 3.0, 9.999, 10.0, 1e6]


def random_events(seed, count, times, rows=1):
    """(time, type, value, other, row): views more often than others, types that are not counted, hashes that come again."""
    random, now_ms, events = np.random.default_rng(seed), T0, []
    steps, often, odds, seldom = STEPS[times]
    types = [*EVENT_TYPES, "view", "view", "view", "strange", None]
    others = random.integers(-(2**63), 2**63, 40).tolist()
    for _ in range(count):
        now_ms += int(random.choice(steps, p=often))
        value = VALUES[random.integers(len(VALUES))] if random.random() < 0.5 else float(random.exponential(8))
        other = others[random.integers(40)] if random.random() < 0.9 else None
        ts_ms = now_ms + int(random.choice(odds, p=seldom))
        events.append((ts_ms, types[random.integers(len(types))], value, other, int(random.integers(rows))))
    return events


@pytest.mark.parametrize("times", STEPS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_random_events_equal_the_twin(config, times):
    Entities(config).check_all(random_events(len(times), 120, times))


def test_entities_do_not_mix():
    Entities(USER, 5).check_all(random_events(7, 500, "out of order", 5))


moments = st.one_of(st.integers(0, 3_000), st.integers(0, 4 * HOUR), st.integers(0, 40 * 24 * HOUR)).map(lambda passed: T0 + passed)
values = st.one_of(st.sampled_from(VALUES), st.floats(0, 100))
others = st.one_of(st.none(), st.sampled_from([NOBODY, 1, -1, 127, 128, -(2**63)]), st.integers(-(2**63), 2**63 - 1))
some_types = st.sampled_from([*EVENT_TYPES, "view", "strange", None])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*CONFIGS.values()]), st.lists(st.tuples(moments, some_types, values, others, st.integers(0, 1)), max_size=25))
def test_any_events_equal_the_twin(config, events):
    Entities(config, 2).check_all(events)


SIZES = st.lists(st.integers(1, 10_000), min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def configs(draw):
    """Any settings that can be used."""
    types = tuple(draw(st.lists(st.sampled_from(EVENT_TYPES), max_size=6, unique=True)))
    groups = draw(st.lists(st.lists(st.sampled_from(EVENT_TYPES), max_size=3).map(tuple), max_size=4))
    return EntityConfig(
        types=types,
        half_lives_seconds=draw(SIZES),
        windows_seconds=tuple(10 * size for size in draw(SIZES)),
        behaviours=tuple((f"group{at}", group) for at, group in enumerate(groups)),
        session_gap_seconds=draw(st.integers(0, 100)),
        long_view_seconds=draw(st.integers(1, 30)),
    )


@settings(max_examples=80, deadline=None)
@given(configs(), st.lists(st.tuples(moments, some_types, values, others), max_size=15))
def test_any_settings_equal_the_twin(config, events):
    Entities(config).check_all(events)


def test_the_first_event_finds_nothing():
    first = Entities(USER).see(T0, "view", 12.0, 99)
    nan = [name for name, value in first.items() if math.isnan(value)]
    assert nan == [f"user_since_{name}" for name in ("any", *BEHAVIOURS)]
    rates = {"user_ctr": 0.1, "user_long_view_rate": 0.3, "user_mean_dwell": 10.0}
    assert {name: value for name, value in first.items() if value and name not in nan} == pytest.approx(rates)


def test_a_question_without_a_type_sees_what_was_counted():
    entity = Entities(USER)
    entity.see(T0, "view", 12.0, 99)
    found = entity.see(T0 + 60 * SECOND)
    assert (found["user_view_60s"], found[f"user_{LONG_VIEW}_60s"], found[f"user_{DWELL}_60s"]) == pytest.approx((0.5, 0.5, 6.0))
    assert (found["user_engaged_last_300s"], found["user_shown_last_300s"]) == (1, 0)
    assert (found["user_since_engaged"], found["user_session_events"], found["user_session_seconds"]) == (60, 1, 60)
    assert found["user_distinct_items"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("value", "long", "seconds"),
    [(None, 0, 0), (math.nan, 0, 0), (math.inf, 0, 0), (-1.0, 0, 0), (0.0, 0, 0), (9.99, 0, 9.99), (10.0, 1, 10), (11.0, 1, 11)],
)
def test_a_view_counts_whatever_its_value(value, long, seconds):
    entity = Entities(EntityConfig())
    entity.see(T0, "view", value)
    found = entity.see(T0, "click", 50.0)
    assert [found[f"user_{name}_60s"] for name in ("view", LONG_VIEW, DWELL)] == pytest.approx([1, long, seconds])
    assert entity.see(T0)[f"user_{DWELL}_60s"] == pytest.approx(seconds)  # a click has no seconds


def late(*events, ask_ms=T0):
    """What an event finds behind others, of which the first is the newest."""
    entity = Entities(USER)
    for event in events:
        entity.check(*event)
    return entity.see(ask_ms)


def test_a_late_event_adds_what_is_left_of_it_and_sees_counters_as_they_are():
    found = late((T0, "click"), (T0 - 60 * SECOND, "click"))
    assert found["user_click_60s"] == pytest.approx(1.5)
    assert found["user_click_600s"] == pytest.approx(1 + 2**-0.1)
    assert late((T0, "click"), ask_ms=T0 - HOUR)["user_click_60s"] == 1


def test_a_late_view_is_weighted_in_all_its_signals():
    found = late((T0, "click"), (T0 - 60 * SECOND, "view", 20.0))
    assert [found[f"user_{name}_60s"] for name in ("view", LONG_VIEW, DWELL)] == pytest.approx([0.5, 0.5, 10.0])


def test_a_late_event_falls_into_its_own_bucket_of_a_window():
    start = T0 // (30 * SECOND) * 30 * SECOND  # of a bucket
    found = late((start, "click"), (start - 270 * SECOND, "click"), ask_ms=start + 29_999)
    assert found["user_engaged_last_300s"] == 2
    found = late((start, "click"), (start - 270 * SECOND, "click"), ask_ms=start + 30 * SECOND)
    assert found["user_engaged_last_300s"] == 1


def test_a_window_has_forgotten_where_a_far_late_event_would_fall():
    start = T0 // (30 * SECOND) * 30 * SECOND
    found = late((start, "click"), (start - 270 * SECOND - 1, "click"), ask_ms=start)
    assert (found["user_engaged_last_300s"], found["user_engaged_last_3600s"]) == (1, 2)


def test_a_late_event_sees_the_window_of_the_newest_one():
    found = late((T0, "click"), ask_ms=T0 - 24 * HOUR)
    assert found["user_engaged_last_300s"] == 1


def test_a_late_event_makes_nothing_younger():
    found = late((T0, "click"), (T0 - 60 * SECOND, "click"), (T0 - 90 * SECOND, "like"), ask_ms=T0 + 10 * SECOND)
    assert [found[f"user_since_{name}"] for name in ("any", "engaged", "positive")] == [10, 10, 100]
    assert late((T0, "click"), ask_ms=T0 - HOUR)["user_since_any"] == 0


def test_a_late_event_belongs_to_the_last_session():
    gap_ms = USER.session_gap_seconds * SECOND
    newer = (T0 + gap_ms + 1, "click")
    found = late((T0, "click"), newer, (T0, "like"), ask_ms=newer[0] + 5 * SECOND)
    assert (found["user_session_events"], found["user_session_seconds"]) == (2, 5)
    found = late((T0, "click"), ask_ms=T0 - 10 * gap_ms)
    assert (found["user_session_events"], found["user_session_seconds"]) == (1, 0)


@pytest.mark.parametrize(("passed_ms", "events", "seconds"), [(1_800_000, 1, 1_800), (1_800_001, 0, 0)])
def test_a_session_ends_beyond_the_gap(passed_ms, events, seconds):
    found = late((T0, None), ask_ms=T0 + passed_ms)
    assert (found["user_session_events"], found["user_session_seconds"]) == (events, seconds)


def test_the_order_of_events_does_not_matter_to_different_ids():
    events = [
        (T0 + 1_000 * n, "click", None, other) for n, other in enumerate(np.random.default_rng(1).integers(-(2**63), 2**63, 60).tolist())
    ]
    ends = [late(*some, ask_ms=T0)["user_distinct_items"] for some in (events, events[::-1], [*events, *events])]
    assert ends[0] == ends[1] == ends[2]
    assert ends[0] == pytest.approx(60, rel=0.3)


def test_events_of_one_time_count_in_any_order():
    events = [(T0, "click"), (T0, "view", 3.0), (T0, "view", 30.0), (T0, "hate")]
    assert late(*events) == pytest.approx(late(*events[::-1]), nan_ok=True)


def test_a_row_does_not_depend_on_where_it_lies():
    events, rows = random_events(3, 50, "out of order"), []
    for start in (0, 1, 6):
        layout = plan(USER, "item", start)
        words = np.zeros((1, layout.words), dtype=np.int64)
        before = np.empty(layout.width, dtype=np.float32)
        for ts_ms, type_, value, other, _ in events:
            code = USER.types.index(type_) if type_ in USER.types else -1
            observe(layout, views(words), 0, ts_ms, code, math.nan if value is None else value, other or NOBODY, before)
        rows.append(words[:, start:].tobytes())
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("entity", ENTITIES)
def test_every_declared_column_is_described(config, entity):
    features = config.features(entity)
    assert len({feature.name for feature in features}) == len(features) == plan(config, entity).width
    for feature in features:
        assert feature.entity == entity and feature.name.startswith(f"{entity}_")
        assert feature.unit and feature.says and feature.kind
        assert feature.seconds is None or feature.seconds > 0


def test_what_is_declared_beside_entities_is_described():
    features = [*affinity_features(tuple(BEHAVIOURS.items())), *ROOM_FEATURES]
    assert len({feature.name for feature in features}) == len(features) == 2 * len(BEHAVIOURS) + 3
    assert all(feature.unit and feature.says and feature.kind and feature.entity for feature in features)


def test_an_event_changes_only_columns_that_declare_its_type():
    for type_ in EVENT_TYPES:
        entity = Entities(USER)
        entity.see(T0, "click", 20.0, 1)
        entity.see(T0, type_, 20.0, 2)
        other = Entities(USER)
        other.see(T0, "click", 20.0, 1)
        found, without = entity.see(T0 + SECOND), other.see(T0 + SECOND)
        changed = {name for name, value in found.items() if value != without[name] and not math.isnan(value + without[name])}
        assert changed <= {feature.name for feature in USER.features("user") if type_ in feature.types}
        assert {f"user_{type_}_{life}s" for life in USER.half_lives_seconds} <= changed


MANY = tuple(f"type{n}" for n in range(MAX_TYPES + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"types": ("click", "click")}, {"types": MANY}, {"types": ("view", LONG_VIEW)}, {"types": ("view", DWELL)},
        {"half_lives_seconds": ()}, {"half_lives_seconds": (60, 0)}, {"half_lives_seconds": (60, -1)}, {"half_lives_seconds": (60, 60)},
        {"windows_seconds": ()}, {"windows_seconds": (0,)}, {"windows_seconds": (-10,)}, {"windows_seconds": (60, 60)},
        {"windows_seconds": (60, 65)},
        {"behaviours": (("one", ("click",)), ("one", ("view",)))}, {"behaviours": (("any", ("click",)),)},
        {"behaviours": tuple((name, ("click",)) for name in MANY)},
        {"session_gap_seconds": -1}, {"long_view_seconds": 0}, {"long_view_seconds": -1},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change):
    with pytest.raises(SettingsError, match=f"`{next(iter(change))}`"):
        replace(USER, **change)


def test_as_many_types_and_behaviours_as_there_are_bits():
    config = EntityConfig(types=MANY[:MAX_TYPES], behaviours=tuple((name, (name,)) for name in MANY[:MAX_TYPES]))
    Entities(config).check_all([(T0 + n * SECOND, name) for n, name in enumerate((*MANY[60:], "type0", "type62"))])
