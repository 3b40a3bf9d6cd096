"""The bounded search against computing every product."""

import numpy as np
import pytest

from learners.search import dot, dots, fill_bounds, highest, norms, search


def naive_dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Eight lanes, added pairwise, then the rest: the order is part of the score."""
    lanes, whole = [np.float32(0)] * 8, a.size - a.size % 8
    for i in range(whole):
        lanes[i % 8] = np.float32(lanes[i % 8] + np.float32(a[i] * b[i]))
    pairs = [np.float32(lanes[i] + lanes[i + 4]) for i in range(4)]
    total = np.float32(np.float32(pairs[0] + pairs[2]) + np.float32(pairs[1] + pairs[3]))
    for i in range(whole, a.size):
        total = np.float32(total + np.float32(a[i] * b[i]))
    return total


def found(seed: int, n: int, width: int, count: int, boosted: bool) -> tuple[dict[int, float], dict[int, float]]:
    """Row -> score of the search, and of a sort of all scores; ties at the last place included."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)).astype(np.float32) * rng.lognormal(size=(n, 1)).astype(np.float32)
    vectors[rng.random(n) < 0.2] = vectors[0]  # ties
    bias = np.round(rng.normal(size=n)).astype(np.float32)
    boost = np.where(rng.random(n) < 0.1, -np.inf, rng.normal(size=n)) if boosted else np.empty(0)
    present, removed = rng.random(n) < 0.9, rng.random(n) < 0.1
    start_ms, end_ms = rng.integers(0, 8, n), rng.integers(3, 12, n)
    query, bounds = rng.normal(size=width).astype(np.float32), np.empty(n)
    norm, _ = norms(vectors)
    fill_bounds(float(np.linalg.norm(query)), 5, norm, bias, boost, present, removed, start_ms, end_ms, bounds)
    chunks = [(at, vectors[at : at + 128]) for at in range(0, n, 128)]
    rows, scores = search(query, bounds, bias, boost, lambda rows: vectors[rows], lambda: chunks, count)
    every = dots(query, vectors).astype(np.float64) + bias + (boost if boosted else 0.0)
    listed = present & ~removed & (start_ms <= 5) & (end_ms > 5) & (every > -np.inf)
    bar = np.sort(np.append(every[listed], np.full(count, -np.inf)))[-count]
    naive = np.flatnonzero(listed & (every >= bar))
    assert rows.size == np.unique(rows).size
    return dict(zip(rows.tolist(), scores.tolist(), strict=True)), dict(zip(naive.tolist(), every[naive].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("n", "width", "count"), [(5, 3, 20), (700, 16, 1), (3_000, 20, 20), (1_500, 8, 200)])
def test_the_search_finds_what_a_sort_of_all_scores_finds(seed: int, n: int, width: int, count: int) -> None:
    for boosted in (False, True):
        rows, expected = found(seed, n, width, count, boosted)
        assert rows == expected


def test_most_products_are_never_computed() -> None:
    """The reason for the bounds: of 20,000 vectors of very different lengths few can be among the best."""
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(20_000, 64)) * rng.lognormal(sigma=2.0, size=(20_000, 1))).astype(np.float32)
    query, (norm, _), bounds = rng.normal(size=64).astype(np.float32), norms(vectors), np.empty(20_000)
    bias, none = np.zeros(20_000, dtype=np.float32), np.zeros(20_000, dtype=np.bool_)
    times = np.zeros(20_000, dtype=np.int64)
    fill_bounds(float(np.linalg.norm(query)), 0, norm, bias, np.empty(0), ~none, none, times, times + 1, bounds)
    bar = np.sort(dots(query, vectors))[-20]
    assert np.count_nonzero(bounds >= bar) < 2_000


@pytest.mark.parametrize("width", [1, 3, 8, 13, 64])
def test_a_product_is_summed_in_one_order(width: int) -> None:
    rng = np.random.default_rng(width)
    a, b = rng.normal(size=(2, width)).astype(np.float32)
    assert dots(a, b[np.newaxis])[0] == naive_dot(a, b) == dot(a, b)


def test_the_highest_come_with_the_ties_of_the_last() -> None:
    values = np.array([3.0, -np.inf, 5.0, 3.0, 1.0, 3.0])
    assert highest(values, 2).tolist() == [0, 2, 3, 5]
    assert highest(values, 1).tolist() == [2]
    assert highest(values, 6).tolist() == [0, 2, 3, 4, 5]
    assert highest(np.empty(0), 3).tolist() == []


def test_lengths_are_those_of_float64_sums() -> None:
    vectors = np.random.default_rng(2).normal(size=(50, 33)).astype(np.float32)
    lengths, inverse = norms(vectors)
    exact = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
    np.testing.assert_allclose(lengths, exact, rtol=1e-6)
    np.testing.assert_allclose(inverse, 1 / exact, rtol=1e-6)
    assert norms(np.full((1, 2), 1e-38, dtype=np.float32))[1].tolist() == [0.0]
