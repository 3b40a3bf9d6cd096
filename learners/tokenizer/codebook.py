"""The words of the codebook: a first residual k-means, then steps of the centroids that start from the words there are.

Source of the step: residual k-means as coordinate descent over levels; one pass over the items leaves sufficient statistics for a sweep
over all levels. Float64 sums in the order of the pass.
"""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled
from core.randomness import fill, unit
from learners.tokenizer.kernel import CODED, Codebook, Items, error

_SEED_STREAM = np.uint64(0x746F6B656E)  # "token": apart from other users of the same seed


class Sums(NamedTuple):
    """What one pass over the items leaves behind for the step of the centroids."""

    total: np.ndarray  # float64 [L, K, D]: sum of x over the items of a word
    pairs: np.ndarray  # int32 [L, L, K, K]: items that share word k of level l and word j of level m; [l, l, k, k] = items of a word
    worst_error: np.ndarray  # float64 [K], descending
    worst_row: np.ndarray  # int32 [K]
    place: np.ndarray  # int64 [1]: the next of the worst to seed a dead word
    measure: np.ndarray  # float64 [2]: sum of squared errors, of squared norms


def empty_sums(levels: int, words: int, dimensions: int) -> Sums:
    return Sums(
        np.zeros((levels, words, dimensions)), np.zeros((levels, levels, words, words), dtype=np.int32),
        np.zeros(words), np.zeros(words, dtype=np.int32), np.zeros(1, dtype=np.int64), np.zeros(2),
    )  # fmt: skip


def empty_codebook(levels: int, words: int, dimensions: int) -> Codebook:
    shapes = (levels, words, dimensions), (levels, dimensions, words), (levels, words), (levels, levels, words, words)
    return Codebook(*(np.zeros(shape, dtype=np.float32) for shape in shapes))


@compiled
def collect(queue: np.ndarray, items: Items, words: np.ndarray, sums: Sums) -> None:
    """Add the coded items of the queue, int32 [n], to the sums."""
    levels = words.shape[0]
    for i in range(queue.shape[0]):
        row = queue[i]
        if items.status[row] != CODED:
            continue
        x, codes = items.vector[row], items.codes[row]
        for level in range(levels):
            for d in range(x.shape[0]):
                sums.total[level, codes[level], d] += x[d]
            for other in range(levels):
                sums.pairs[level, other, codes[level], codes[other]] += 1
        wrong = error(x, codes, words)
        sums.measure[0] += wrong
        for d in range(x.shape[0]):
            sums.measure[1] += np.float64(x[d]) * np.float64(x[d])
        if wrong > sums.worst_error[-1]:
            _keep_worst(wrong, row, sums)


@compiled
def _keep_worst(wrong: float, row: int, sums: Sums) -> None:
    at = sums.worst_error.shape[0] - 1
    while at > 0 and sums.worst_error[at - 1] < wrong:
        sums.worst_error[at], sums.worst_row[at] = sums.worst_error[at - 1], sums.worst_row[at - 1]
        at -= 1
    sums.worst_error[at], sums.worst_row[at] = wrong, row


@compiled
def centre(level: int, sums: Sums, words: np.ndarray) -> None:
    """c_k <- mean(x - the words of the other levels) over the items of k, with the other levels as they are now."""
    levels, size, dimensions = words.shape
    for k in range(size):
        if sums.pairs[level, level, k, k] == 0:
            continue
        rest = sums.total[level, k].copy()
        for other in range(levels):
            for j in range(size):
                shared = np.float64(sums.pairs[level, other, k, j])
                if other != level and shared > 0.0:
                    for d in range(dimensions):
                        rest[d] -= shared * words[other, j, d]
        for d in range(dimensions):
            words[level, k, d] = np.float32(rest[d] / sums.pairs[level, level, k, k])


@compiled
def reseed(level: int, sums: Sums, items: Items, words: np.ndarray) -> None:
    """Put each word without an item where one of the worst-coded items would have no error left; one item, one word."""
    for k in range(words.shape[1]):
        at = sums.place[0]
        if sums.pairs[level, level, k, k] == 0 and at < sums.worst_row.shape[0] and sums.worst_error[at] > 0.0:
            sums.place[0] += 1
            row = sums.worst_row[at]
            if items.status[row] == CODED:
                words[level, k] = items.vector[row]
                for other in range(words.shape[0]):
                    if other != level:
                        words[level, k] -= words[other, items.codes[row, other]]


@compiled
def tabulate(level: int, book: Codebook) -> None:
    """The tables of one level from its words and those of the levels before it."""
    size, dimensions = book.words.shape[1:]
    book.norms[level] = 0
    book.cross[level] = 0
    for k in range(size):
        for d in range(dimensions):
            book.columns[level, d, k] = book.words[level, k, d]
            book.norms[level, k] += book.words[level, k, d] ** 2
    for other in range(level):
        for j in range(size):
            for d in range(dimensions):
                weight = np.float32(2.0) * book.words[other, j, d]
                for k in range(size):
                    book.cross[level, other, j, k] += weight * book.columns[level, d, k]


@compiled
def first_words(x: np.ndarray, seed: int, iterations: int, words: np.ndarray) -> None:
    """Residual k-means, level by level, of float32 [n, D] (n >= K) into float32 [L, K, D]."""
    rest = x.copy()
    nearest, distance = np.empty(x.shape[0], dtype=np.int64), np.empty(x.shape[0], dtype=np.float32)
    for level in range(words.shape[0]):
        _spread(rest, seed, level, words[level])
        for _ in range(iterations):
            _assign(rest, words[level], nearest, distance)
            _mean(rest, nearest, distance, words[level])
        _assign(rest, words[level], nearest, distance)
        for i in range(x.shape[0]):
            rest[i] -= words[level, nearest[i]]


@compiled
def _spread(x: np.ndarray, seed: int, level: int, words: np.ndarray) -> None:
    """Seeds drawn with odds as their squared distance to the seeds before (k-means++, Arthur and Vassilvitskii, 2007)."""
    draws = np.empty(words.shape[0], dtype=np.uint64)
    fill(np.uint64(seed), _SEED_STREAM, np.uint64(level), draws)
    closest = np.ones(x.shape[0], dtype=np.float64)
    for k in range(words.shape[0]):
        left, chosen = unit(draws[k]) * np.sum(closest), 0
        while chosen < x.shape[0] - 1 and left >= closest[chosen]:
            left -= closest[chosen]
            chosen += 1
        words[k] = x[chosen]
        for i in range(x.shape[0]):
            gap = 0.0
            for d in range(x.shape[1]):
                gap += np.float64(x[i, d] - words[k, d]) ** 2
            closest[i] = gap if k == 0 else min(closest[i], gap)


@compiled
def _assign(x: np.ndarray, words: np.ndarray, nearest: np.ndarray, distance: np.ndarray) -> None:
    """The nearest word of each row and |c|^2 - 2 x.c + |x|^2."""
    columns, scores = words.T.copy(), np.empty(words.shape[0], dtype=np.float32)
    norms = np.sum(words * words, axis=1)
    for i in range(x.shape[0]):
        scores[:] = norms
        for d in range(x.shape[1]):
            weight = np.float32(-2.0) * x[i, d]
            for k in range(scores.shape[0]):
                scores[k] += weight * columns[d, k]
        nearest[i] = np.argmin(scores)
        distance[i] = scores[nearest[i]] + np.sum(x[i] * x[i])


@compiled
def _mean(x: np.ndarray, nearest: np.ndarray, distance: np.ndarray, words: np.ndarray) -> None:
    """Each word to the mean of its rows; a word without rows to the row farthest from its own."""
    total, size = np.zeros(words.shape, dtype=np.float64), np.zeros(words.shape[0], dtype=np.int64)
    for i in range(x.shape[0]):
        size[nearest[i]] += 1
        for d in range(x.shape[1]):
            total[nearest[i], d] += x[i, d]
    for k in range(words.shape[0]):
        if size[k] > 0:
            words[k] = (total[k] / size[k]).astype(np.float32)
        else:
            farthest = np.argmax(distance)
            words[k], distance[farthest] = x[farthest], -1.0
