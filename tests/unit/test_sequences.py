"""A user's last events against a sorted list of all of them."""

import math
import random as randoms

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hashing import fingerprint
from features.sequences import ENTRY_WORDS, ORDINALS, TYPE_BITS, Entry, append, entries, merged
from tests.naive_features import last_events

T0 = 1_700_000_000_000


def kept(events, room):
    """The words of a sequence that took in entries in the order given."""
    words = np.zeros(room * ENTRY_WORDS, dtype=np.int64)
    for event in events:
        item = np.frombuffer(event.item, "<i8")
        append(words, words.view(np.float32), item, event.ts_ms, event.code, event.value, event.ordinal)
    return words


def expected(events, room):
    return [entry for _, entry in last_events([(event.ts_ms, event) for event in events], room)]


def same(found, told):
    """Entries as tuples, values as their text: NaN equals NaN."""
    assert [(*entry[:3], str(entry.value), entry.ordinal) for entry in found] == [
        (*entry[:3], str(entry.value), entry.ordinal % ORDINALS) for entry in told
    ]


moments = st.one_of(st.integers(0, 5), st.integers(0, 1 << 40)).map(lambda passed: T0 + passed)
some = st.builds(
    Entry,
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << TYPE_BITS) - 1),
    moments,
    st.floats(width=32),
    st.one_of(st.integers(0, 50), st.integers(0, 1 << 50)),
)


@settings(deadline=None)
@given(st.lists(some, max_size=40), st.integers(1, 8))
def test_the_last_events_are_those_of_the_sorted_list(events, room):
    same(entries(kept(events, room)), expected(events, room))


def test_a_long_sequence_keeps_the_newest():
    random = randoms.Random(1)
    events = [
        Entry(fingerprint(f"{random.randrange(40)}"), random.randrange(13), T0 + n - random.choice([0, 0, 3, 200]), float(n), n)
        for n in range(2_000)
    ]
    same(entries(kept(events, 50)), expected(events, 50))


def event(ts_ms, ordinal=0, code=1, value=math.nan, item="i"):
    return Entry(fingerprint(item), code, ts_ms, value, ordinal)


def test_of_equal_times_the_later_row_comes_first_and_the_oldest_goes():
    events = [event(T0, n) for n in range(5)]
    assert [entry.ordinal for entry in entries(kept(events, 3))] == [4, 3, 2]


def test_an_event_older_than_a_full_sequence_is_not_kept():
    held = [event(T0), event(T0 + 1)]
    assert np.array_equal(kept(held, 2), kept([*held, event(T0 - 1)], 2))


def test_an_event_of_an_item_that_is_held_is_another_entry():
    assert len(entries(kept([event(T0), event(T0), event(T0 + 1)], 4))) == 3


@pytest.mark.parametrize("ordinal", [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -1.5, math.inf, -math.inf, math.nan])
def test_an_entry_is_read_as_it_was_written(ordinal, value):
    for code in (0, 255):
        same(entries(kept([event(T0, ordinal, code, value)], 2)), [event(T0, ordinal, code, value)])


def test_values_are_rounded_to_float32():
    (entry,) = entries(kept([event(T0, value=0.1)], 1))
    assert entry.value == float(np.float32(0.1))


def test_nothing_is_read_of_an_empty_sequence():
    assert entries(np.zeros(5 * ENTRY_WORDS, dtype=np.int64)) == []


def test_a_sequence_is_read_from_within_larger_rows():
    rows = np.zeros((3, 2 * ENTRY_WORDS + 5), dtype=np.int64)
    rows[:, 5:] = kept([event(T0, 7, 3, 2.5)], 2)
    same(entries(rows[1, 5:]), [event(T0, 7, 3, 2.5)])
    spread = np.zeros((2, 2 * ENTRY_WORDS, 2), dtype=np.int64)
    spread[0, :, 1] = rows[0, 5:]
    same(entries(spread[0, :, 1]), [event(T0, 7, 3, 2.5)])


@settings(deadline=None)
@given(
    st.lists(st.tuples(moments, st.integers(0, 2)), max_size=30), st.integers(1, 6), st.sampled_from([0, ORDINALS - 10, 5 * ORDINALS - 3])
)
def test_behaviours_merge_in_the_order_of_time_and_then_of_rows(rows, room, first):
    """Also where ordinals have come round."""
    events = [event(ts_ms, first + n, behaviour) for n, (ts_ms, behaviour) in enumerate(rows)]
    behaviours = [[one for one in events if one.code == behaviour] for behaviour in range(3)]
    held = [one for behaviour in behaviours for one in expected(behaviour, room)]
    told = expected(sorted(held, key=lambda one: one.ordinal), len(held))
    same(merged([entries(kept(behaviour, room)) for behaviour in behaviours]), told)


def test_nothing_merges_to_nothing():
    assert merged([]) == merged([[], []]) == []
