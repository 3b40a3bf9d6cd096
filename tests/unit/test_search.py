"""The bounded search against computing every product."""

from collections.abc import Iterator

import numpy as np
import pytest

from learners.search import Columns, Part, Peaks, Query, block_bounds, dot, dots, highest, norms, search, update_peaks
from learners.tables import BLOCK_ROWS


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


def peaks_of(values: np.ndarray) -> np.ndarray:
    """float64 [blocks]."""
    peaks = np.zeros(-(-values.size // BLOCK_ROWS))
    update_peaks(values, np.arange(peaks.size), peaks)
    return peaks


def all_peaks(columns: Columns) -> Peaks:
    return Peaks(*(peaks_of(column) for column in columns[:3]))


def found(seed: int, n: int, width: int, count: int, weight: float, far: float = 0.0) -> tuple[dict[int, float], dict[int, float]]:
    """Row -> score of the search, and of a sort of all scores; ties at the last place included."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)).astype(np.float32) * rng.lognormal(size=(n, 1)).astype(np.float32)
    vectors[rng.random(n) < 0.2] = vectors[0]  # ties
    bias = np.round(rng.normal(size=n)).astype(np.float32)
    log2_popularity = np.where(rng.random(n) < 0.1, -np.inf, far + rng.normal(size=n))
    present, removed = rng.random(n) < 0.9, rng.random(n) < 0.1
    start_ms, end_ms = rng.integers(0, 8, n), rng.integers(3, 12, n)
    vector, left_out = rng.normal(size=width).astype(np.float32), rng.permutation(n)[:3]
    query = Query(vector, float(np.linalg.norm(vector)), weight, 5)
    columns = Columns(norms(vectors)[0], bias, log2_popularity, present, removed, start_ms, end_ms)

    def in_blocks(blocks: np.ndarray) -> Iterator[Part]:
        return ((b * BLOCK_ROWS, vectors[b * BLOCK_ROWS : (b + 1) * BLOCK_ROWS], np.array([b])) for b in blocks)

    ways = (lambda blocks: [(0, vectors, blocks)], in_blocks)
    results = [search(query, columns, all_peaks(columns), parts, left_out, count) for parts in ways]
    assert [told.tolist() for told in results[0]] == [told.tolist() for told in results[1]], "in one piece or in blocks"
    rows, scores = results[0]
    every = dots(vector, vectors).astype(np.float64) + bias + (weight * log2_popularity if weight else 0.0)
    listed = present & ~removed & (start_ms <= 5) & (end_ms > 5) & (every > -np.inf)
    listed[left_out] = False
    bar = np.sort(np.append(every[listed], np.full(count, -np.inf)))[-count]
    naive = np.flatnonzero(listed & (every >= bar))
    assert rows.size == np.unique(rows).size
    return dict(zip(rows.tolist(), scores.tolist(), strict=True)), dict(zip(naive.tolist(), every[naive].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("n", "width", "count"), [(5, 3, 20), (700, 16, 1), (3_000, 20, 20), (1_500, 8, 200)])
def test_the_search_finds_what_a_sort_of_all_scores_finds(seed: int, n: int, width: int, count: int) -> None:
    for weight, far in ((0.0, 0.0), (0.5, 0.0), (5.0, 600_000.0)):  # far: half-lives since 1970
        rows, expected = found(seed, n, width, count, weight, far)
        assert rows == expected


def test_most_blocks_are_never_looked_into() -> None:
    """The reason for the bounds: where popularity falls with age, few blocks can hold one of the best."""
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(20_000, 64)) * rng.lognormal(sigma=0.1, size=(20_000, 1))).astype(np.float32)
    bias, none, times = np.zeros(20_000, dtype=np.float32), np.zeros(20_000, dtype=np.bool_), np.zeros(20_000, dtype=np.int64)
    vector, popularity = rng.normal(size=64).astype(np.float32), 600_000.0 + np.linspace(-400.0, 0.0, 20_000)
    query = Query(vector, float(np.linalg.norm(vector)), 1.0, 0)
    columns = Columns(norms(vectors)[0], bias, popularity, ~none, none, times, times + 1)
    bar = np.sort(dots(vector, vectors) + popularity)[-20]
    assert np.count_nonzero(block_bounds(query, all_peaks(columns)) >= bar) < 157 / 3


@pytest.mark.parametrize("width", [1, 3, 8, 13, 64])
def test_a_product_is_summed_in_one_order(width: int) -> None:
    rng = np.random.default_rng(width)
    a, b = rng.normal(size=(2, width)).astype(np.float32)
    assert dots(a, b[np.newaxis])[0] == naive_dot(a, b) == dot(a, b)


def test_the_highest_come_with_the_ties_of_the_last() -> None:
    values = np.array([3.0, -np.inf, 5.0, 3.0, 1.0, 3.0])

    def rows(count: int, but: float = np.nan, floor_ms: int = 0) -> list[int]:
        told = highest(values, -np.inf, values != but, np.array([9, 9, 9, 9, 2, 1]), floor_ms, peaks_of(values), count)
        return sorted(told.tolist())

    assert rows(2) == [0, 2, 3, 5]
    assert rows(1) == [2]
    assert rows(6) == [0, 2, 3, 4, 5]
    assert rows(6, floor_ms=1) == [0, 2, 3, 4]
    assert rows(6, but=5.0) == [0, 3, 4, 5]


@pytest.mark.parametrize("seed", range(10))
def test_the_highest_are_those_of_a_sort(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, present, end_ms = rng.integers(-1, 300, 3_000), rng.random(3_000) < 0.8, rng.integers(0, 10, 3_000)
    listed = present & (end_ms > 4) & (values > -1)
    for count in (1, 64, 2_900):
        bar = np.sort(np.append(values[listed], np.full(count, -1)))[-count]
        told = highest(values, -1.0, present, end_ms, 4, peaks_of(values), count)
        assert sorted(told.tolist()) == np.flatnonzero(listed & (values >= bar)).tolist()


def test_lengths_are_those_of_float64_sums() -> None:
    vectors = np.random.default_rng(2).normal(size=(50, 33)).astype(np.float32)
    lengths, inverse = norms(vectors)
    exact = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
    np.testing.assert_allclose(lengths, exact, rtol=1e-6)
    np.testing.assert_allclose(inverse, 1 / exact, rtol=1e-6)
    assert norms(np.full((1, 2), 1e-38, dtype=np.float32))[1].tolist() == [0.0]
