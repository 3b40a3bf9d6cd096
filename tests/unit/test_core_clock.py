"""The watermark against a slow twin; it is robust, never goes back, and does not depend on the cut."""

import numpy as np
import pytest

from core.clock import MIN_ROWS, UNSET, WINDOW_ROWS, EventClock, MergedClock


def naive_clock(ts_ms: list[int]) -> list[int]:
    """After each row: the highest of all lower medians so far, each of the last 15 times, from the third row on."""
    clock, out = UNSET, []
    for i in range(len(ts_ms)):
        held = sorted(ts_ms[max(0, i + 1 - WINDOW_ROWS) : i + 1])
        if len(held) >= MIN_ROWS:
            clock = max(clock, held[(len(held) - 1) // 2])
        out.append(clock)
    return out


def times(rows: int, seed: int) -> np.ndarray:
    """Event times that move on, with jitter and some far off in both directions."""
    rng = np.random.Generator(np.random.Philox(seed))
    ts_ms = 1_650_000_000_000 + np.cumsum(rng.integers(0, 2_000, rows)) + rng.integers(-5_000, 5_000, rows)
    odd = rng.random(rows) < 0.1
    return np.where(odd, ts_ms + rng.integers(-(10**10), 10**10, rows), ts_ms)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 14, 15, 16, 400])
def test_clock_equals_its_twin(rows: int) -> None:
    ts_ms = times(rows, rows)
    assert EventClock().advance(ts_ms).tolist() == naive_clock(ts_ms.tolist())


def test_clock_does_not_depend_on_the_cut_or_on_a_restore() -> None:
    ts_ms, rng = times(300, 1), np.random.Generator(np.random.Philox(2))
    whole = EventClock()
    expected = whole.advance(ts_ms)
    clock, out, at = EventClock(), [], 0
    while at < len(ts_ms):
        step = int(rng.integers(0, 9))
        out.append(clock.advance(ts_ms[at : at + step]))
        clock, at = EventClock.from_json(clock.to_json()), at + step
    np.testing.assert_array_equal(np.concatenate(out), expected)
    assert clock.to_json() == whole.to_json()


def test_a_few_odd_rows_do_not_move_the_clock() -> None:
    clock = EventClock()
    clock.advance(np.arange(100, dtype=np.int64) + 1_000_000)
    before = clock.ms
    clock.advance(np.full(6, 10**12))
    assert clock.ms - before < WINDOW_ROWS


def test_clock_never_goes_back_and_hears_ticks() -> None:
    clock = EventClock()
    out = clock.advance(times(500, 4))
    assert (np.diff(out) >= 0).all()
    before = clock.ms
    clock.tick(before - 1)
    assert clock.ms == before
    clock.tick(before + 60_000)
    assert clock.ms == before + 60_000
    assert clock.advance(np.array([1_000]))[0] == before + 60_000


def test_clock_is_full_with_its_window() -> None:
    clock = EventClock()
    clock.advance(np.ones(WINDOW_ROWS - 1, dtype=np.int64))
    assert not clock.full
    clock.advance(np.ones(1, dtype=np.int64))
    assert clock.full


def naive_merge(upstreams: int, upstream: list[int], clock_ms: list[int]) -> list[int]:
    newest, out = [UNSET] * upstreams, []
    for who, at in zip(upstream, clock_ms, strict=True):
        if who >= 0:
            newest[who] = max(newest[who], at)
        out.append(min(newest))
    return out


def test_merged_clock_equals_its_twin_whatever_the_cut() -> None:
    rng = np.random.Generator(np.random.Philox(6))
    upstream, clock_ms = rng.integers(-1, 3, 200), rng.integers(1, 10_000, 200)
    expected = naive_merge(3, upstream.tolist(), clock_ms.tolist())
    assert MergedClock(3).advance(upstream, clock_ms).tolist() == expected
    clock, out = MergedClock(3), []
    for at in range(0, 200, 7):
        out += clock.advance(upstream[at : at + 7], clock_ms[at : at + 7]).tolist()
        clock = MergedClock.from_json(clock.to_json())
    assert out == expected
    assert clock.ms == expected[-1]


def test_merged_clock_waits_for_every_upstream() -> None:
    clock = MergedClock(2)
    assert clock.advance(np.array([0, 0, -1]), np.array([50, 90, 70])).tolist() == [UNSET] * 3
    assert clock.advance(np.array([1, 1]), np.array([60, 100])).tolist() == [60, 90]
