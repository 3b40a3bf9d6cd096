"""The weights of delayed labels: where they lead at constant features, by exact expectation and along a stream."""

import math

import numpy as np
import pytest

from benchmarks.label_exactness import defer_three_copies, defuse_two_more, distance, found, is_exact
from core.labels import (
    DEFER,
    DEFUSE,
    ES_DFM,
    FINAL_NEGATIVE,
    FINAL_POSITIVE,
    FNC,
    FNW,
    IN_WINDOW,
    KINDS,
    LATE,
    MATURED_IN_WINDOW,
    MATURED_LATE,
    MATURED_NEGATIVE,
    NEGATIVE,
    POLICIES,
    POSITIVE_KINDS,
    SLIVER,
    VANILLA,
    WAIT,
    WINDOW,
)
from evaluation.delayed import PAIRS, Delay, expected_slope, rest_point
from learners.labels import LogisticConfig, OnlineLogistic
from learners.labels.weights import MOST_SERVED, NOTHING, helper_targets, is_clipped, served, weights

EVERY = range(len(POLICIES))
MATURED = (MATURED_IN_WINDOW, MATURED_LATE, MATURED_NEGATIVE)
CORRECTED = (FNW, ES_DFM, DEFER, DEFUSE, WAIT)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("policy", EVERY, ids=POLICIES)
def test_each_policy_rests_where_it_belongs_and_nowhere_else(policy: int, pair: tuple[float, float]) -> None:
    true = Delay(*pair)
    assert is_exact(policy, true, found(policy, true))


def test_the_biased_policies_are_biased_and_the_others_are_not() -> None:
    true = Delay(0.2, 0.1)
    at = {policy: found(policy, true)[0] for policy in EVERY}
    assert [at[policy] for policy in (WINDOW, VANILLA, FNC)] == pytest.approx([0.1, 0.2 / 1.1, 0.2 / 1.2])
    assert [at[policy] for policy in (*CORRECTED, SLIVER)] == pytest.approx([0.2] * 6)
    assert served(FNC, at[FNC]) == pytest.approx(0.2)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_known_mistakes_are_found_out(pair: tuple[float, float]) -> None:
    true = Delay(*pair)
    assert not is_exact(DEFER, true, found(DEFER, true, defer_three_copies(true)))
    assert not is_exact(DEFUSE, true, found(DEFUSE, true, weigh=defuse_two_more))


def test_the_known_mistakes_land_where_they_are_known_to() -> None:
    true = Delay(0.2, 0.1)
    assert found(DEFER, true, defer_three_copies(true)) == pytest.approx([0.2405], abs=1e-4)
    assert found(DEFUSE, true, weigh=defuse_two_more) == pytest.approx([0.328], abs=5e-4)


def test_without_its_cap_the_weight_of_defer_drives_small_outputs_away() -> None:
    def uncapped(policy: int, kind: int, f: float, p_dp: float, p_rn: float) -> tuple[float, float]:
        if kind in MATURED:
            return 0.0, 0.0
        half = 0.5 * p_dp
        return (f / (f - half), 0.0) if kind in POSITIVE_KINDS else (0.0, (1.0 - f) / (1.0 - f + half))

    true = Delay(0.2, 0.1)
    rows = [(IN_WINDOW, 0.1), (NEGATIVE, 0.9), (LATE, 0.1), (FINAL_POSITIVE, 0.1), (FINAL_NEGATIVE, 0.8)]
    assert expected_slope(DEFER, rows, true, uncapped, 0.04) > 0.0 > expected_slope(DEFER, rows, true, weights, 0.04)


def test_no_rest_point_is_as_wrong_as_can_be() -> None:
    assert distance(WAIT, Delay(0.2, 0.1), []) == 1.0


def told(policy: str, kind: int, f: float, p_dp: float, p_rn: float) -> tuple[float, float]:
    """The table of the papers, a line each."""
    y, z, m = kind in POSITIVE_KINDS, 1 - p_rn, min(p_dp, f)
    if kind in MATURED:
        return 0, 0
    table = {
        "fnw": (1 + f, (1 - f) * (1 + f)),
        "es-dfm": (1 + p_dp, (1 + p_dp) * p_rn),
        "defer": (f / (f - m / 2), (1 - f) / (1 - f + m / 2)),
        "defuse": (1 if kind == LATE else 1 + p_dp, (1 - z) * (1 + p_dp)),
    }
    a, b = table.get(policy, (1, 1))
    return (a, 0) if y else (z * p_dp if policy == "defuse" else 0, b)


@pytest.mark.parametrize("policy", EVERY, ids=POLICIES)
def test_weights_are_those_of_the_papers(policy: int) -> None:
    random = np.random.default_rng(policy)
    for kind in range(len(KINDS)):
        for f, p_dp, p_rn in random.uniform(0.001, 0.999, (50, 3)):
            assert weights(policy, kind, f, p_dp, p_rn) == pytest.approx(told(POLICIES[policy], kind, f, p_dp, p_rn))


def test_helpers_learn_from_matured_rows_and_p_rn_from_observed_negatives_alone() -> None:
    matured = {MATURED_IN_WINDOW: (0.0, NOTHING), MATURED_LATE: (1.0, 0.0), MATURED_NEGATIVE: (0.0, 1.0)}
    final = {FINAL_POSITIVE: (0.0, NOTHING), FINAL_NEGATIVE: (0.0, 1.0)}
    for policy in EVERY:
        for kind in range(len(KINDS)):
            expected = {**matured, **(final if policy == DEFER else {})}.get(kind, (NOTHING, NOTHING))
            assert helper_targets(policy, kind) == expected, (policy, kind)


def test_fnc_serves_a_probability_and_says_where_there_is_none() -> None:
    assert served(FNC, 1 / 3) == pytest.approx(0.5)
    assert [is_clipped(FNC, f) for f in (0.499, 0.5, 0.7)] == [False, True, True]
    assert [served(FNC, f) for f in (0.49999, 0.5, 0.9)] == [MOST_SERVED] * 3
    assert [(served(policy, 0.7), is_clipped(policy, 0.7)) for policy in EVERY if policy != FNC] == [(0.7, False)] * (len(POLICIES) - 1)


WINDOW_CLICKS, HORIZON_CLICKS = 100, 5_000
Emitted = list[tuple[int, int]]  # (time in clicks, kind) of a click


def emit(policy: int, delay: float) -> Emitted:
    """Rows of a click at time 0 whose conversion comes after `delay` clicks, never where that is infinite."""
    positive, in_time = delay <= HORIZON_CLICKS, delay <= WINDOW_CLICKS
    late = [(math.ceil(delay), LATE)] if positive else []
    if policy in (FNW, FNC):
        return [(0, NEGATIVE), *late]
    if policy == WAIT:
        return [(HORIZON_CLICKS, FINAL_POSITIVE if positive else FINAL_NEGATIVE)]
    vanilla = [(WINDOW_CLICKS, IN_WINDOW)] if in_time else [(WINDOW_CLICKS, NEGATIVE), *late]
    if policy == VANILLA:
        return vanilla
    kinds = (FINAL_POSITIVE, MATURED_LATE, FINAL_NEGATIVE) if policy == DEFER else (MATURED_IN_WINDOW, MATURED_LATE, MATURED_NEGATIVE)
    return [*vanilla, (HORIZON_CLICKS, kinds[0 if in_time else 1 if positive else 2])]


def stream(policy: int, true: Delay, clicks: int) -> np.ndarray:
    """int64: kinds of the rows of a log of clicks, in order of time."""
    random = np.random.default_rng(17)
    u, late = random.random(clicks), random.uniform(WINDOW_CLICKS + 1, HORIZON_CLICKS, clicks)
    delay = np.where(u < true.p - true.p_dp, 50.0, np.where(u < true.p, late, np.inf))
    rows = [(at + after, kind) for at in range(clicks) for after, kind in emit(policy, delay[at])]
    return np.array([kind for _, kind in sorted(rows, key=lambda row: row[0])], dtype=np.int64)


@pytest.mark.parametrize("policy", [*CORRECTED, FNC, VANILLA], ids=lambda policy: POLICIES[policy])
@pytest.mark.parametrize("pair", [(0.2, 0.1), (0.5, 0.45)])
def test_a_stream_of_like_clicks_ends_at_the_true_rate_with_learned_helpers(policy: int, pair: tuple[float, float]) -> None:
    true = Delay(*pair)
    kinds = stream(policy, true, 200_000)
    model, nothing, late = OnlineLogistic(LogisticConfig(buckets=1)), np.zeros((1, 0), np.float32), []
    for part in np.array_split(kinds, 400):
        n = len(part)
        same, none = np.full((3, n), [[0], [policy], [0]]), np.full((n, 0), -1)
        model.learn_many(same[0], same[1], part, none, np.zeros((n, 0), np.float32))
        late.append(model.predict(0, policy, np.zeros((1, 0), np.int64), nothing)[0])
    expected = served(policy, rest_point(policy, true))
    assert np.mean(late[200:]) == pytest.approx(expected, rel=0.03)
    assert (policy == VANILLA) == (abs(expected - true.p) > 0.03 * true.p)
