"""The kernels of the feature stages against slow, obvious twins."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import effective_ms
from features.history import ENTRY_WORDS, TYPE_BITS, recent_fingerprints, remember
from features.popularity import log2_popularity, observe_popularity

T0 = 1_700_000_000_000


@settings(deadline=None)
@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=40), st.integers(0, 10_000_000))
def test_popularity_is_the_log_of_the_forward_decayed_sum(times, origin):
    half_life_ms, count, last_ms = 1_800_000.0, 0.0, 0
    for passed in times:
        count = observe_popularity(count, last_ms, T0 + passed, half_life_ms)
        last_ms = max(last_ms, T0 + passed)
    forward = math.log2(math.fsum(math.exp2((passed - origin) / half_life_ms) for passed in times))
    given_count, given_ms = np.array([count, 0.0]), np.array([last_ms, 0])
    near = log2_popularity(given_count, given_ms, half_life_ms, T0 + origin)
    np.testing.assert_allclose(near[0], forward, rtol=1e-9, atol=1e-9)
    assert np.isnan(near[1])
    far = log2_popularity(given_count, given_ms, half_life_ms)
    np.testing.assert_allclose(far[0], forward + (T0 + origin) / half_life_ms, rtol=1e-13)


def test_effective_time_is_held_to_a_clock_that_is_set():
    ts_ms, clock_ms = np.array([50, 50, 200, 900]), np.array([0, 100, 100, 100])
    assert effective_ms(ts_ms, clock_ms, 500).tolist() == [50, 50, 200, 600]


def naive_history(rows, room):
    """Newest first by time, of equal times the later row first, one entry an item."""
    held = {}
    for order, (item, ts_ms, code) in enumerate(rows):
        if item not in held and len(held) == room and (ts_ms, order) < min(held.values())[:2]:
            continue
        if item in held and held[item][0] > ts_ms:
            continue
        held[item] = (ts_ms, order, code)
        if len(held) > room:
            del held[min(held, key=lambda item: held[item])]
    return sorted(((ts, order, item, code) for item, (ts, order, code) in held.items()), reverse=True)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(0, 255)), max_size=60), st.integers(1, 6))
def test_history_holds_the_last_distinct_items(rows, room):
    recent, held = np.zeros(room * ENTRY_WORDS, dtype=np.int64), 0
    for item, ts_ms, code in rows:
        held = remember(recent, held, np.array([item, -item]), ts_ms, code)
    entries = recent.reshape(room, ENTRY_WORDS)[:held].tolist()
    expected = naive_history(rows, room)
    assert entries == [[item, -item, ts_ms << TYPE_BITS | code] for ts_ms, _, item, code in expected]
    (raw,) = recent_fingerprints(recent[None], np.array([held]))
    assert np.frombuffer(raw, "<i8").reshape(-1, 2).tolist() == [[item, -item] for _, _, item, _ in expected]
