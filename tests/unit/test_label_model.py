"""The learner of late labels: held to its slow twin, then what it refuses, saves and tells of itself."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from core.errors import SettingsError, SnapshotError
from core.labels import (
    DEFER,
    FNC,
    IN_WINDOW,
    KINDS,
    POLICIES,
    VANILLA,
    WINDOW,
)
from core.rows import CHUNK_ROWS
from learners.labels import LogisticConfig, OnlineLogistic
from learners.labels.buckets import ABSENT
from tests.naive_logistic import NaiveLogistic, NaiveModel, Row
from tests.snapshots import save

CONFIG = LogisticConfig(
    labels=("click", "cart", "purchase"), buckets=16, numerics=2, rate=0.2, helper_rate=0.07, initial_squares=0.3, half_life_rows=50.0
)
EVERY = range(len(POLICIES))


class Columns(NamedTuple):
    """Rows, as `learn_many` takes them."""

    label: np.ndarray
    policy: np.ndarray
    kind: np.ndarray
    categorical: np.ndarray
    numeric: np.ndarray

    def part(self, start: int, stop: int) -> "Columns":
        return Columns(*(column[start:stop] for column in self))

    def rows(self) -> list[Row]:
        return [Row(*row) for row in zip(*(column.tolist() for column in self), strict=True)]


def made_up(seed: int, n: int, policy: int | None = None, config: LogisticConfig = CONFIG, broken: float = 0.02) -> Columns:
    """Rows of any kind. A third of the buckets is absent, a fifth the one before it again; `broken` of the numbers are not finite."""
    random = np.random.default_rng(seed)
    categorical = random.integers(config.buckets, size=(n, 4))
    for k in range(1, 4):
        categorical[:, k] = np.where(random.random(n) < 0.2, categorical[:, k - 1], categorical[:, k])
    categorical[random.random((n, 4)) < 1 / 3] = ABSENT
    numeric = random.normal(0.0, 2.0, (n, config.numerics)).astype(np.float32)
    odd = random.random(numeric.shape) < broken
    numeric[odd] = random.choice([math.nan, math.inf, -math.inf], odd.sum())
    policies = random.integers(len(POLICIES), size=n) if policy is None else np.full(n, policy)
    return Columns(random.integers(len(config.labels), size=n), policies, random.integers(len(KINDS), size=n), categorical, numeric)


def trained(columns: Columns, config: LogisticConfig = CONFIG) -> OnlineLogistic:
    model = OnlineLogistic(config)
    model.learn_many(*columns)
    return model


def taught(columns: Columns, config: LogisticConfig = CONFIG) -> NaiveLogistic:
    twin = NaiveLogistic(config)
    for row in columns.rows():
        twin.learn(row)
    return twin


def probes(config: LogisticConfig) -> tuple[np.ndarray, np.ndarray]:
    """Examples that tell every weight apart: the bias alone, then each bucket, then each number."""
    n = 1 + config.buckets + config.numerics
    categorical, numeric = np.full((n, 1), ABSENT), np.zeros((n, config.numerics), np.float32)
    categorical[1 : 1 + config.buckets, 0] = np.arange(config.buckets)
    numeric[1 + config.buckets :] = np.eye(config.numerics)
    return categorical, numeric


def check_against_naive(model: OnlineLogistic, twin: NaiveLogistic) -> None:
    """What they are told of, what they count, every weight of every head."""
    for label, naive in enumerate(twin.models):
        assert dict(zip(KINDS, model.totals.rows[label], strict=True)) == {kind: naive.rows[kind] for kind in KINDS}
        assert (model.totals.clipped[label], model.totals.refused[label]) == (naive.clipped, naive.refused)
        np.testing.assert_allclose(model.totals.sums[label], naive.sums(), rtol=1e-9, atol=1e-9)
        for policy in (WINDOW, FNC):
            check_heads(model, twin, label, policy, *probes(model.config))


def check_heads(model: OnlineLogistic, twin: NaiveLogistic, label: int, policy: int, categorical: np.ndarray, numeric: np.ndarray) -> None:
    heads = model.predict_heads(label, policy, categorical, numeric)
    expected = [twin.predict_heads(label, policy, *row) for row in zip(categorical.tolist(), numeric.tolist(), strict=True)]
    np.testing.assert_allclose(heads, expected, rtol=1e-9)
    np.testing.assert_array_equal(model.predict(label, policy, categorical, numeric), heads[:, 0])


# Held to its twin


@pytest.mark.parametrize("policy", [*EVERY, None], ids=[*POLICIES, "mixed"])
def test_any_rows_teach_what_they_teach_the_twin(policy: int | None) -> None:
    columns = made_up(1, 1_500, policy)
    model, twin = trained(columns), taught(columns)
    check_against_naive(model, twin)
    assert (model.totals.rows > 0).all()
    assert (model.totals.refused > 0).all()
    assert (model.totals.clipped > 0).all() == (policy in (None, FNC))


def test_any_example_is_told_what_the_twin_tells_it() -> None:
    columns, asked = made_up(2, 1_000), made_up(3, 300, broken=0.1)
    model, twin = trained(columns), taught(columns)
    for label in range(len(CONFIG.labels)):
        for policy in EVERY:
            check_heads(model, twin, label, policy, asked.categorical, asked.numeric)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
@pytest.mark.parametrize("policy", EVERY, ids=POLICIES)
def test_each_kind_alone_teaches_what_it_teaches_the_twin(policy: int, kind: int) -> None:
    columns = made_up(4, 100, policy)
    columns = columns._replace(kind=np.full(100, kind))
    check_against_naive(trained(columns), taught(columns))


@pytest.mark.parametrize("change", [{"numerics": 0}, {"buckets": 1}, {"labels": ("one",)}, {"half_life_rows": 0.5}])
def test_other_sizes_agree_as_well(change: dict[str, Any]) -> None:
    config = replace(CONFIG, **change)
    columns = made_up(5, 400, config=config)
    check_against_naive(trained(columns, config), taught(columns, config))


def test_examples_without_buckets_teach_bias_and_numbers() -> None:
    columns = made_up(6, 300)
    columns = columns._replace(categorical=np.empty((300, 0), np.int64))
    check_against_naive(trained(columns), taught(columns))


def test_a_bucket_that_occurs_twice_is_one_coordinate_of_value_two() -> None:
    model = trained(Columns(np.array([0]), np.array([WINDOW]), np.array([IN_WINDOW]), np.array([[3, 3]]), np.zeros((1, 2), np.float32)))
    bias = CONFIG.rate * 0.5 / math.sqrt(CONFIG.initial_squares + 0.25)
    bucket = CONFIG.rate * 1.0 / math.sqrt(CONFIG.initial_squares + 1.0)
    told = model.predict(0, WINDOW, np.array([[3, ABSENT], [3, 3]]), np.zeros((2, 2), np.float32))
    assert np.log(told / (1.0 - told)) == pytest.approx([bias + bucket, bias + 2 * bucket])


def test_many_rows_at_once_equal_one_at_a_time() -> None:
    columns = made_up(7, 400)
    each = OnlineLogistic(CONFIG)
    for i in range(400):
        each.learn_many(*columns.part(i, i + 1))
    assert each.digest() == trained(columns).digest()
    each.learn_many(*columns.part(0, 0))
    assert each.digest() == trained(columns).digest()


def test_what_it_is_told_stays_as_it_was() -> None:
    columns = made_up(8, 200)
    before = Columns(*(column.copy() for column in columns))
    model = trained(columns)
    model.predict_heads(0, FNC, columns.categorical, columns.numeric)
    for told, copy in zip(columns, before, strict=True):
        np.testing.assert_array_equal(told, copy)


def test_asking_changes_nothing() -> None:
    columns = made_up(9, 200)
    model = trained(columns)
    before = model.digest()
    model.predict(1, DEFER, columns.categorical, columns.numeric)
    model.means(1)
    assert model.digest() == before


# Numbers that are none, and numbers that are large


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_counted_and_changes_nothing(number: float) -> None:
    columns, weights = made_up(10, 300, broken=0.0), ("weight", "squares")
    model = trained(columns)
    before, sums, digest = [model.rows[name].copy() for name in weights], model.totals.sums.copy(), model.digest()
    columns.numeric[:, 1] = number
    model.learn_many(*columns)
    assert [np.array_equal(model.rows[name], old) for name, old in zip(weights, before, strict=True)] == [True, True]
    np.testing.assert_array_equal(model.totals.sums, sums)
    assert (model.totals.rows.sum(), model.totals.refused.sum()) == (600, 300)
    assert model.digest() != digest


@pytest.mark.parametrize("policy", [WINDOW, FNC])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_of_a_number_that_is_not_finite_no_probability_is_told(number: float, policy: int) -> None:
    for model in (OnlineLogistic(CONFIG), trained(made_up(11, 300))):
        told = model.predict_heads(0, policy, np.zeros((2, 1), np.int64), np.array([[0.0, number], [0.0, 1.0]], np.float32))
        assert np.isnan(told).tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize("policy", EVERY, ids=POLICIES)
def test_large_logits_stay_finite(policy: int) -> None:
    columns = made_up(12, 600, policy, broken=0.0)
    columns = columns._replace(numeric=columns.numeric * np.float32(1e37))
    model = trained(columns)
    told = model.predict_heads(0, policy, columns.categorical, columns.numeric)
    assert ((told > 0.0) & (told < 1.0)).all()
    assert (told < 1e-15).any()
    assert all(np.isfinite(array).all() for array in (*model.rows.arrays.values(), model.totals.sums))
    assert model.totals.refused.sum() == 0
    assert all(math.isfinite(mean) for mean in model.means(0).values())


def test_probabilities_stay_off_0_and_1_by_holding_the_logit_to_35() -> None:
    config, one = LogisticConfig(buckets=1, numerics=1, rate=100.0), np.ones((1, 1), np.float32)
    none = np.full((161, 1), ABSENT)
    model = trained(Columns(np.array([0]), np.array([WINDOW]), np.array([IN_WINDOW]), none[:1], one), config)
    w = 100.0 * 0.5 / math.sqrt(0.1 + 0.25)
    x = np.linspace(-4, 4, 161, dtype=np.float32)
    told = model.predict(0, WINDOW, none, x[:, None])
    np.testing.assert_allclose(told, 1.0 / (1.0 + np.exp(-np.clip(w + w * x.astype(np.float64), -35.0, 35.0))), rtol=1e-9)
    assert ((told > 0.0) & (told < 1.0)).all()


# Snapshots


def test_a_restored_model_is_equal_and_goes_on_equally(tmp_path: Path) -> None:
    columns = made_up(13, 600)
    model, again = trained(columns.part(0, 300)), OnlineLogistic(CONFIG)
    save(model, tmp_path / "first")
    again.restore(tmp_path / "first")
    assert again.digest() == model.digest()
    for each in (model, again):
        each.learn_many(*columns.part(300, 600))
    assert again.digest() == model.digest() == trained(columns).digest()
    assert again.means(2) == model.means(2)


def test_what_counts_reaches_the_snapshot_after_a_snapshot(tmp_path: Path) -> None:
    columns, again = made_up(14, 600), OnlineLogistic(CONFIG)
    model = trained(columns.part(0, 300))
    save(model, tmp_path / "first")
    model.learn_many(*columns.part(300, 600))
    save(model, tmp_path / "second", tmp_path / "first")
    again.restore(tmp_path / "second")
    assert again.digest() == model.digest()


def test_unchanged_chunks_are_linked(tmp_path: Path) -> None:
    config = LogisticConfig(buckets=2 * CHUNK_ROWS)  # the bias takes a row: three chunks

    def learn(model: OnlineLogistic, bucket: int) -> None:
        zero = np.zeros(1, np.int64)
        model.learn_many(zero, zero, zero, np.array([[bucket]]), np.empty((1, 0), np.float32))

    model, again = OnlineLogistic(config), OnlineLogistic(config)
    learn(model, config.buckets - 1)
    save(model, tmp_path / "first")
    learn(model, CHUNK_ROWS - 1)
    save(model, tmp_path / "second", tmp_path / "first")
    assert [path.stat().st_nlink for path in sorted((tmp_path / "second" / "weights").iterdir())] == [1, 1, 2]
    again.restore(tmp_path / "second")
    assert again.digest() == model.digest()


@pytest.mark.parametrize(
    "change", [{"labels": ("click", "purchase", "cart")}, {"labels": ("click",)}, {"buckets": 32}, {"numerics": 3}, {"seed": 1}]
)
def test_a_snapshot_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save(trained(made_up(15, 50)), tmp_path)
    with pytest.raises(SnapshotError, match=f"`{next(iter(change))}` was .* rebuild"):
        OnlineLogistic(replace(CONFIG, **change)).restore(tmp_path)


def test_rates_may_change_between_snapshot_and_restore(tmp_path: Path) -> None:
    model = trained(made_up(16, 50))
    save(model, tmp_path)
    faster = OnlineLogistic(replace(CONFIG, rate=0.9, helper_rate=0.9, half_life_rows=7.0))
    faster.restore(tmp_path)
    assert faster.digest() == model.digest()


# What it refuses


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label", 3), ("label", -1), ("policy", len(POLICIES)), ("policy", -1), ("kind", len(KINDS)), ("kind", -1),
        ("categorical", CONFIG.buckets), ("categorical", -2),
    ],
)  # fmt: skip
def test_an_index_out_of_range_is_refused_before_anything_is_learned(name: str, value: int) -> None:
    columns, model = made_up(17, 20), OnlineLogistic(CONFIG)
    getattr(columns, name)[-1] = value
    before = model.digest()
    with pytest.raises(ValueError, match=f"`{name}` must be in"):
        model.learn_many(*columns)
    assert model.digest() == before


@pytest.mark.parametrize(
    "change",
    [
        {"label": np.zeros(19, np.int64)}, {"policy": np.zeros(19, np.int64)}, {"kind": np.zeros(1, np.int64)},
        {"kind": np.zeros((20, 1), np.int64)}, {"categorical": np.zeros((19, 4), np.int64)}, {"categorical": np.zeros(20, np.int64)},
        {"numeric": np.zeros((19, 2), np.float32)}, {"numeric": np.zeros((20, 3), np.float32)}, {"numeric": np.zeros(20, np.float32)},
    ],
    ids=lambda change: next(f"{name}-{value.shape}" for name, value in change.items()),
)  # fmt: skip
def test_columns_of_other_shapes_are_refused(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="rows need"):
        trained(made_up(18, 20)._replace(**change))


@pytest.mark.parametrize(("label", "policy", "name"), [(3, 0, "label"), (-1, 0, "label"), (0, len(POLICIES), "policy"), (0, -1, "policy")])
def test_a_label_or_policy_that_is_none_cannot_be_asked_for(label: int, policy: int, name: str) -> None:
    model = OnlineLogistic(CONFIG)
    with pytest.raises(ValueError, match=f"`{name}` must be in"):
        model.predict(label, policy, np.zeros((1, 1), np.int64), np.zeros((1, 2), np.float32))


def test_an_example_that_is_none_cannot_be_asked_for() -> None:
    model = OnlineLogistic(CONFIG)
    for bucket in (-2, CONFIG.buckets):
        with pytest.raises(ValueError, match="`categorical` must be in"):
            model.predict(0, WINDOW, np.full((1, 1), bucket), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"1 rows need .* 2 numbers"):
        model.predict(0, WINDOW, np.zeros((1, 1), np.int64), np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ()}, {"labels": ("a", "a")}, {"buckets": 0}, {"buckets": 12}, {"buckets": -4}, {"numerics": -1}, {"seed": -1},
        {"rate": 0.0}, {"rate": math.inf}, {"rate": math.nan}, {"helper_rate": -0.1}, {"initial_squares": 0.0},
        {"half_life_rows": 0.0}, {"half_life_rows": math.inf},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"`{next(iter(change))}` must"):
        replace(CONFIG, **change)


# Means, see also test_label_means


def test_means_over_a_long_stream_are_those_of_the_twin() -> None:
    columns = made_up(19, 500, VANILLA)
    model, twin = trained(columns), taught(columns)
    for label, naive in enumerate(twin.models):
        assert list(model.means(label).values()) == pytest.approx(means_of(naive))


def means_of(naive: NaiveModel) -> list[float]:
    return [total / naive.clicks for total in (naive.loss, naive.predicted, naive.observed)]
