"""What a user did with categories against a twin that keeps every event."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.schemas import EVENT_TYPES
from features.affinity import NO_CATEGORY, affinity, observe_affinity
from features.declarations import AFFINITY_LIVES_SECONDS, AFFINITY_SLOTS, BEHAVIOURS, affinity_features
from tests.naive_features import NaiveAffinity

T0 = 1_700_000_000_000
SHORT, LONG = AFFINITY_LIVES_SECONDS
HOUR = 3_600_000
START, GUARD, MARK = 3, 2, 0x0102030405060708
DEFAULT = tuple(BEHAVIOURS.items())
OTHERS = (("loved", ("like", "share")), ("all", EVENT_TYPES), ("none", ()))


class User:
    """One user's slots in a row, beside the twin."""

    def __init__(self, behaviours=DEFAULT):
        self.behaviours, self.of, self.twin = behaviours, affinity(len(behaviours), START), NaiveAffinity(behaviours)
        self.row = np.zeros(START + self.of.words + GUARD, dtype=np.int64)
        self.row[:START] = self.row[-GUARD:] = MARK

    def see(self, ts_ms, category, type_=None):
        """One event; returns what was known before it by name."""
        mask = sum(1 << at for at, (_, types) in enumerate(self.behaviours) if type_ in types)
        before = np.full(self.of.width, -1.0, dtype=np.float32)
        observe_affinity(self.of, self.row, self.row.view(np.float64), ts_ms, category, mask, before)
        return dict(zip((feature.name for feature in affinity_features(self.behaviours)), before.tolist(), strict=True))

    def check(self, ts_ms, category, type_=None):
        expected = self.twin.before(ts_ms, category)
        found = self.see(ts_ms, category, type_)
        np.testing.assert_allclose([*found.values()], expected, rtol=1e-5, atol=1e-30)
        self.twin.learn(ts_ms, category, type_)

    def check_all(self, events):
        for event in events:
            self.check(*event)
        assert (self.row[:START] == MARK).all() and (self.row[-GUARD:] == MARK).all()


def random_events(seed, count, categories):
    random, now_ms, events = np.random.default_rng(seed), T0, []
    hashes = [NO_CATEGORY, *random.integers(-(2**63), 2**63, categories).tolist()]
    for _ in range(count):
        now_ms += int(random.choice([0, 1, 60_000, HOUR, 40 * HOUR], p=[0.2, 0.2, 0.4, 0.15, 0.05]))
        late_ms = int(random.choice([0, 5_000, 30 * HOUR], p=[0.7, 0.2, 0.1]))
        category = hashes[int(len(hashes) * random.random() ** 1.5)]
        events.append((now_ms - late_ms, category, [*EVENT_TYPES, "strange", None][random.integers(len(EVENT_TYPES) + 2)]))
    return events


@pytest.mark.parametrize("behaviours", [DEFAULT, OTHERS])
@pytest.mark.parametrize("categories", [3, AFFINITY_SLOTS, 30])
def test_random_events_equal_the_twin(behaviours, categories):
    User(behaviours).check_all(random_events(categories, 400, categories))


moments = st.one_of(st.integers(0, 5), st.integers(0, 100 * HOUR)).map(lambda passed: T0 + passed)
some_types = st.sampled_from(["click", "like", "impression", "purchase", "hate", None])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([DEFAULT, OTHERS, ()]), st.lists(st.tuples(moments, st.integers(-6, 7), some_types), max_size=60))
def test_any_events_equal_the_twin(behaviours, events):
    User(behaviours).check_all(events)


def test_counters_halve_with_every_half_life():
    user = User()
    user.see(T0, 5, "click")
    user.see(T0, 5, "like")
    user.see(T0, 5, "like")
    found = user.see(T0 + HOUR, 5)
    assert (found[f"user_category_engaged_{SHORT}s"], found[f"user_category_positive_{SHORT}s"]) == (0.5, 1.0)
    assert found[f"user_category_engaged_{LONG}s"] == pytest.approx(2 ** (-SHORT / LONG))
    assert found[f"user_category_bought_{SHORT}s"] == 0
    assert not any(user.see(T0 + HOUR, 6).values())


def test_a_late_event_adds_what_is_left_of_it_and_sees_counters_as_they_are():
    user = User()
    user.see(T0, 5, "click")
    assert user.see(T0 - HOUR, 5, "click")[f"user_category_engaged_{SHORT}s"] == 1
    assert user.see(T0, 5)[f"user_category_engaged_{SHORT}s"] == 1.5


def test_the_category_longest_unused_makes_room():
    user = User()
    for category in range(1, AFFINITY_SLOTS + 1):
        user.see(T0 + category, category, "click")
    user.see(T0 + 20, 1)  # a use, though it counts nothing
    user.see(T0 + 30, 99, "click")
    known = [category for category in (*range(1, AFFINITY_SLOTS + 1), 99) if any(user.see(T0 + 30, category).values())]
    assert known == [1, *range(3, AFFINITY_SLOTS + 1), 99]


def test_of_equally_old_categories_the_first_slot_makes_room():
    user, categories = User(), range(1, AFFINITY_SLOTS + 3)
    for category in categories:
        user.see(T0, category, "click")
    known = [category for category in categories if any(user.see(T0, category).values())]
    assert known == [*range(2, AFFINITY_SLOTS + 1), AFFINITY_SLOTS + 2]


def test_an_event_of_no_behaviour_takes_no_room():
    user = User()
    for category in range(1, AFFINITY_SLOTS + 1):
        user.see(T0 + category, category, "click")
    held = user.row.copy()
    assert not any(user.see(T0 + HOUR, 99, "hate").values())
    assert (user.row == held).all()


def test_of_no_category_nothing_is_known_or_counted():
    user = User()
    for type_ in ("click", "like", None):
        assert not any(user.see(T0, NO_CATEGORY, type_).values())
    assert not user.row[START:-GUARD].any()


def test_what_was_known_of_a_category_that_made_room_is_gone():
    user = User()
    for at, category in enumerate([1, 1, *range(2, AFFINITY_SLOTS + 2)]):
        user.see(T0 + at, category, "click")
    assert not any(user.see(T0 + 50, 1, "click").values())
    assert user.see(T0 + 50, 1)[f"user_category_engaged_{SHORT}s"] == 1
