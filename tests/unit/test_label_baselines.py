"""Label models against twins written out in numbers; restarts bit by bit; predictions that change nothing; labels that come late."""

import io
import math
import random

import numpy as np
import pytest

from core.contender import Impression
from learners.baselines.counters import RATE, SMOOTHING
from learners.baselines.labels import fields
from learners.baselines.registry import label_baselines
from learners.baselines.river import FACTORS, INTERCEPT_RATE, first_latents

MODELS = ("counters", "online-lr", "online-fm")
each = pytest.mark.parametrize("name", MODELS)


def model(name):
    return label_baselines([name])[0]


def impressions(seed, n=400):
    """Half the users like more, and two authors of five are liked more."""
    rng = random.Random(seed)
    shown, y = [], []
    for at in range(n):
        user, item = rng.randrange(12), rng.randrange(30)
        entry = {"author": f"a{item % 5}", "categories": ["x", f"c{item % 3}"]} if item else {}
        context = {"tab": item % 2, "ratio": 0.5} if item % 7 else {}
        shown.append(Impression(at, 1_000 * at, f"u{user}", f"v{item}", context, entry))
        y.append(int(rng.random() < (0.05, 0.5, 0.95)[user % 2 + (item % 5 < 2)]))
    return shown, y


def test_fields_are_who_what_whose_which_kind_and_the_plain_context():
    shown = Impression(0, 0, "u1", "v1", {"tab": 3, "place": "top", "ratio": 0.5, "more": [1]}, {"author": "a", "categories": ["x", "y"]})
    assert list(fields(shown).values()) == ["user=u1", "item=v1", "author=a", "categories=x|y", "context.place=top", "context.tab=3"]
    assert list(fields(shown._replace(context={}, entry={})).values()) == ["user=u1", "item=v1"]


class CountersTwin:
    """Counts the whole past for each prediction."""

    def __init__(self):
        self.past, self.weights, self.squares = [], {}, {}

    def predict(self, told):
        return 1.0 / (1.0 + math.exp(-sum(self.weights.get(name, 1.0) * x for name, x in self.inputs(told).items())))

    def inputs(self, told):
        prior = (1 + sum(y for _, y in self.past)) / (2 + len(self.past))
        l0 = math.log(prior / (1 - prior))
        inputs = {"prior": l0, "bias": 1.0}
        self.weights.setdefault("bias", 0.0)
        for field, value in told.items():
            of_value = [y for past, y in self.past if past.get(field) == value]
            m = SMOOTHING.get(field, 50.0)
            rate = (sum(of_value) + m * prior) / (len(of_value) + m)
            inputs[field] = math.log(rate / (1 - rate)) - l0
        return inputs

    def learn(self, told, y):
        error = self.predict(told) - y
        for name, x in self.inputs(told).items():
            if name != "prior":
                self.squares[name] = self.squares.get(name, 0.01) + (error * x) ** 2
                self.weights[name] = self.weights.get(name, 1.0) - RATE * error * x / math.sqrt(self.squares[name])
        self.past.append((told, y))


class LrTwin:
    """w -= rate g / sqrt(sum g^2 + eps), the intercept by plain steps."""

    def __init__(self):
        self.intercept, self.weights, self.squares = 0.0, {}, {}

    def predict(self, told):
        return 1.0 / (1.0 + math.exp(-self.logit(told)))

    def logit(self, told):
        return self.intercept + sum(self.weights.get(value, 0.0) for value in told.values())

    def learn(self, told, y):
        error = self.predict(told) - y
        self.intercept -= INTERCEPT_RATE * error
        for value in told.values():
            self.squares[value] = self.squares.get(value, 0.0) + error**2
            self.weights[value] = self.weights.get(value, 0.0) - 0.05 * error / math.sqrt(self.squares[value] + 1e-8)


class FmTwin(LrTwin):
    """Adds the products of all pairs of latents; River keeps one sum of squares a factor, over all values."""

    def __init__(self):
        super().__init__()
        self.latents, self.factor_squares = {}, np.zeros(FACTORS)

    def latent(self, value):
        return self.latents.get(value, first_latents(value))

    def logit(self, told):
        values = list(told.values())
        pairs = sum(float(self.latent(a) @ self.latent(b)) for at, a in enumerate(values) for b in values[:at])
        return super().logit(told) + pairs

    def learn(self, told, y):
        error, total = self.predict(told) - y, sum(self.latent(value) for value in told.values())
        super().learn(told, y)
        for value in told.values():
            gradient = error * (total - self.latent(value))
            self.factor_squares += gradient**2
            self.latents[value] = self.latent(value) - 0.05 * gradient / np.sqrt(self.factor_squares + 1e-8)


@pytest.mark.parametrize(("name", "twin"), [("counters", CountersTwin), ("online-lr", LrTwin), ("online-fm", FmTwin)])
def test_predictions_are_the_twins(name, twin):
    new, twin = model(name), twin()
    shown, y = impressions(1)
    assert new.predict(shown[0]) == {}, "no label is known yet"
    for at, (impression, label) in enumerate(zip(shown, y, strict=True)):
        if at:
            assert new.predict(impression)["click"] == pytest.approx(twin.predict(fields(impression)), abs=1e-9)
        new.learn(impression, "click", label)
        twin.learn(fields(impression), label)


@each
def test_a_saved_model_goes_on_bit_by_bit(name):
    first, second = model(name), model(name)
    shown, y = impressions(2)
    second.load(first.save())
    assert second.predict(shown[0]) == {}
    for at in range(200):
        first.learn(shown[at], "click", y[at])
        if at % 3 == 0:
            first.learn(shown[at], "like", 1 - y[at])
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **first.save())
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        second.load(dict(stored))
    for at in range(200, 400):
        expected = first.predict(shown[at])
        assert set(expected) == {"click", "like"}
        assert second.predict(shown[at]) == expected
        for each_model in (first, second):
            each_model.learn(shown[at], ("click", "like")[at % 2], y[at])
    one, other = first.save(), second.save()
    assert all(one[label].tobytes() == other[label].tobytes() for label in one)


@each
def test_predictions_change_nothing(name):
    asked, silent = model(name), model(name)
    shown, y = impressions(3)
    for at in range(300):
        for impression in shown[at : at + 20 : 5]:
            asked.predict(impression._replace(user_id=f"new{at}"))
            asked.predict(impression)
        asked.learn(shown[at], "click", y[at])
        silent.learn(shown[at], "click", y[at])
    assert asked.save()["click"].tobytes() == silent.save()["click"].tobytes()


@each
def test_labels_do_not_mix_and_may_come_late(name):
    """The click is known at once, the long view 50 impressions later: each is learned as if it were alone."""
    both, click, view = model(name), model(name), model(name)
    shown, y = impressions(4)
    for at, impression in enumerate(shown):
        both.learn(impression, "click", y[at])
        click.learn(impression, "click", y[at])
        if at >= 50:
            both.learn(shown[at - 50], "long_view", 1 - y[at - 50])
            view.learn(shown[at - 50], "long_view", 1 - y[at - 50])
            assert both.predict(impression) == click.predict(impression) | view.predict(impression)


@each
def test_it_learns_and_is_calibrated(name):
    new = model(name)
    shown, y = impressions(5, 4_000)
    p = []
    for impression, label in zip(shown, y, strict=True):
        p.append(new.predict(impression).get("click", 0.5))
        new.learn(impression, "click", label)
    p, y = np.array(p[2_000:]), np.array(y[2_000:])
    assert p.sum() / y.sum() == pytest.approx(1.0, abs=0.1)
    assert log_loss(p, y) < log_loss(np.full(y.size, y.mean()), y) - 0.1


def log_loss(p, y):
    return -np.log(np.where(y == 1, p, 1 - p)).mean()
