"""What the learner of late labels tells of itself: each click counts once, by what was served before it."""

import math

import numpy as np
import pytest

from core.labels import (
    DEFER,
    ES_DFM,
    FINAL_NEGATIVE,
    FINAL_POSITIVE,
    FNC,
    FNW,
    IN_WINDOW,
    LATE,
    MATURED_IN_WINDOW,
    MATURED_LATE,
    MATURED_NEGATIVE,
    NEGATIVE,
    SLIVER,
    VANILLA,
    WAIT,
    WINDOW,
)
from learners.labels import LogisticConfig, OnlineLogistic
from learners.labels.buckets import ABSENT
from learners.labels.weights import MOST_SERVED

PLAIN = LogisticConfig(buckets=1, half_life_rows=1.0)  # a bias alone; what is counted halves with each click


class Bias:
    """A model that has but a bias: what it says before each row can be written down."""

    def __init__(self, policy: int) -> None:
        self.model, self.policy = OnlineLogistic(PLAIN), policy
        self.none, self.nothing = np.full((1, 1), ABSENT), np.empty((1, 0), np.float32)

    def learn(self, kind: int) -> float:
        """The probability served before the row."""
        before = float(self.model.predict(0, self.policy, self.none, self.nothing)[0])
        self.model.learn_many(np.array([0]), np.array([self.policy]), np.array([kind]), self.none, self.nothing)
        return before

    def means(self) -> tuple[float, float, float]:
        """Log loss, predicted and observed rate."""
        told = self.model.means(0)
        assert list(told) == ["log_loss", "predicted_rate", "observed_rate"]
        return told["log_loss"], told["predicted_rate"], told["observed_rate"]


def test_before_the_first_click_nothing_is_known() -> None:
    told = Bias(ES_DFM)
    assert np.isnan(told.means()).all()
    told.learn(MATURED_NEGATIVE)
    assert np.isnan(told.means()).all()


def test_the_first_click_is_met_with_one_half_and_the_next_by_what_it_taught() -> None:
    told = Bias(WINDOW)
    assert told.learn(NEGATIVE) == 0.5
    assert told.means() == pytest.approx((math.log(2), 0.5, 0.0))
    f = 1 / (1 + math.exp(0.1 * 0.5 / math.sqrt(0.1 + 0.25)))
    assert told.learn(IN_WINDOW) == pytest.approx(f)
    assert told.means() == pytest.approx(((math.log(2) / 2 - math.log(f)) / 1.5, (0.25 + f) / 1.5, 1 / 1.5))


@pytest.mark.parametrize("policy", [VANILLA, FNW])
def test_a_late_positive_takes_back_the_negative_that_stood_for_it(policy: int) -> None:
    told = Bias(policy)
    told.learn(NEGATIVE)
    f = told.learn(LATE)
    assert f < 0.5
    assert told.means() == pytest.approx((math.log(2) + math.log(1 - f) - math.log(f), 0.5, 1.0))


def test_of_fnc_the_probability_served_is_judged() -> None:
    told = Bias(FNC)
    assert told.learn(NEGATIVE) == MOST_SERVED
    assert told.means() == pytest.approx((-math.log(1 - MOST_SERVED), MOST_SERVED, 0.0))
    q = 1 / (1 + math.exp(0.1 * 0.5 / math.sqrt(0.1 + 0.25)))
    assert told.learn(LATE) == pytest.approx(q / (1 - q))
    assert told.means()[2] == 1.0


@pytest.mark.parametrize(
    ("policy", "kind"), [(WAIT, FINAL_NEGATIVE), (WAIT, FINAL_POSITIVE), (SLIVER, FINAL_NEGATIVE), (SLIVER, IN_WINDOW)]
)
def test_a_click_that_is_told_of_once_counts_then(policy: int, kind: int) -> None:
    told = Bias(policy)
    told.learn(kind)
    assert told.means() == pytest.approx((math.log(2), 0.5, float(kind in (FINAL_POSITIVE, IN_WINDOW))))


@pytest.mark.parametrize(
    ("policy", "kind"),
    [(DEFER, FINAL_POSITIVE), (DEFER, FINAL_NEGATIVE), (DEFER, MATURED_LATE), (ES_DFM, MATURED_IN_WINDOW), (ES_DFM, MATURED_NEGATIVE)],
)
def test_what_is_told_of_a_click_again_counts_no_more(policy: int, kind: int) -> None:
    told = Bias(policy)
    told.learn(IN_WINDOW)
    before = told.means()
    told.learn(kind)
    assert told.means() == before
