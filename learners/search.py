"""The k largest dot products of a query with many vectors, exactly, without computing most of them.

A product is at most |query| |vector|. So the vectors with the highest such bounds are scored first, and of the others only those whose
bound reaches the k-th best score so far. On a click stream that is one in ten: few items have both a long vector and a high bias.
Source: the bound is Cauchy-Schwarz; the use for maximum inner products, Teflioudi, Gemulla, Mykytiuk, "LEMP", SIGMOD 2015.
"""

from collections.abc import Callable, Iterable

import numpy as np

from core.compiled import compiled, inlined

LANES = 8
SLACK = 1e-4  # of a bound, relative: rounding of norms and of float32 sums of up to 1,000 terms
SHORTEST = 1e-30  # norm of a vector with a direction; below, its inverse leaves float32
SEEDS = 64  # scored first, at least: they set a high bar for the rest

Chunk = tuple[int, np.ndarray]  # first row, float32 [m, w]


@inlined
def dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Sum of products of two float32 vectors in one fixed order: eight lanes, then what is left over."""
    whole = a.shape[0] - a.shape[0] % 8
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0.0)
    for i in range(0, whole, 8):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
        s4 += a[i + 4] * b[i + 4]
        s5 += a[i + 5] * b[i + 5]
        s6 += a[i + 6] * b[i + 6]
        s7 += a[i + 7] * b[i + 7]
    total = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    for i in range(whole, a.shape[0]):
        total += a[i] * b[i]
    return total


@compiled
def add_dots(query: np.ndarray, vectors: np.ndarray, out: np.ndarray, start: int) -> None:
    """out[start + r] = query . vectors[r]: a row's place changes no bit.

    Args:
        query: float32 [w].
        vectors: float32 [m, w], C order.
        out: float32.
    """
    for r in range(vectors.shape[0]):
        out[start + r] = dot(query, vectors[r])


def dots(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """float32 [m]: query . vectors[r] of each row of float32 [m, w]."""
    out = np.empty(vectors.shape[0], dtype=np.float32)
    add_dots(query, np.ascontiguousarray(vectors), out, 0)
    return out


@compiled
def squared_lengths(vectors: np.ndarray) -> np.ndarray:
    """float64 [m], summed in the order of the dimensions."""
    out = np.zeros(vectors.shape[0])
    for r in range(vectors.shape[0]):
        for i in range(vectors.shape[1]):
            out[r] += np.float64(vectors[r, i]) * np.float64(vectors[r, i])
    return out


def norms(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and their inverses, float32 [m] each; an inverse is 0 where the vector is too short to point anywhere."""
    lengths = np.sqrt(squared_lengths(np.ascontiguousarray(vectors)))
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > SHORTEST)
    return np.minimum(lengths, np.finfo(np.float32).max).astype(np.float32), inverse.astype(np.float32)


@compiled
def fill_bounds(
    query_norm: float,
    now_ms: int,
    norm: np.ndarray,
    bias: np.ndarray,
    boost: np.ndarray,
    present: np.ndarray,
    removed: np.ndarray,
    start_ms: np.ndarray,
    end_ms: np.ndarray,
    bounds: np.ndarray,
) -> None:
    """float64 [n]: what a row's score cannot exceed; -inf where it has no vector, is removed, or is a room that is not open.

    Args:
        norm: float32 [n].
        bias: float32 [n], added to the product.
        boost: float64 [n], added to that; or [0], for none.
        present, removed: bool [n].
        start_ms, end_ms: int64 [n].
    """
    for r in range(bounds.shape[0]):
        bounds[r] = -np.inf
        if present[r] and not removed[r] and start_ms[r] <= now_ms < end_ms[r]:
            reach = query_norm * norm[r]
            bounds[r] = reach + SLACK * reach + bias[r] if np.isfinite(reach) else np.inf
            if boost.size:
                bounds[r] += boost[r] + SLACK * abs(boost[r]) if boost[r] > -np.inf else -np.inf


@inlined
def sift(heap: np.ndarray, value: float) -> None:
    """Replace the smallest value of a binary min-heap."""
    at, size = 0, heap.shape[0]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@compiled
def highest(values: np.ndarray, count: int) -> np.ndarray:
    """int64: the rows of the `count` largest values above -inf, those equal to the last of them included, in row order."""
    heap = np.full(count, -np.inf)
    for r in range(values.shape[0]):
        if values[r] > heap[0]:
            sift(heap, values[r])
    found = 0
    for r in range(values.shape[0]):
        found += values[r] >= heap[0] and values[r] > -np.inf
    rows = np.empty(found, dtype=np.int64)
    found = 0
    for r in range(values.shape[0]):
        if values[r] >= heap[0] and values[r] > -np.inf:
            rows[found] = r
            found += 1
    return rows


@compiled
def scan(
    query: np.ndarray,
    vectors: np.ndarray,
    bias: np.ndarray,
    boost: np.ndarray,
    bounds: np.ndarray,
    first: int,
    heap: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    held: int,
) -> int:
    """Score the rows of a chunk whose bound reaches the bar; returns how many rows are held then.

    Args:
        query: float32 [w].
        vectors: float32 [m, w]: rows first to first + m.
        bias, boost: as for `fill_bounds`.
        bounds: float64 [n].
        heap: float64 [k], min-heap of the k best scores so far; its smallest is the bar. Updated.
        rows, scores: int64, float64 [n]: rows that reached the bar when they were scored, and their scores. Updated.
        held: of those so far.
    """
    for r in range(vectors.shape[0]):
        at = first + r
        if bounds[at] == -np.inf or bounds[at] < heap[0]:
            continue
        product = dot(query, vectors[r])
        if not np.isfinite(product):
            continue
        score = np.float64(product) + np.float64(bias[at])
        if boost.size:
            score += boost[at]
        if score >= heap[0] and score > -np.inf:
            rows[held], scores[held] = at, score
            held += 1
            if score > heap[0]:
                sift(heap, score)
    return held


def search(
    query: np.ndarray,
    bounds: np.ndarray,
    bias: np.ndarray,
    boost: np.ndarray,
    gather: Callable[[np.ndarray], np.ndarray],
    chunks: Callable[[], Iterable[Chunk]],
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores (int64, float64) of the `count` highest query . vector + bias + boost, ties with the last included, in no order.

    Args:
        query: float32 [w].
        bounds: float64 [n], by `fill_bounds`; rows to leave out are -inf. Used up.
        bias, boost: as for `fill_bounds`.
        gather: rows -> their vectors, float32 [m, w].
        chunks: all vectors, in order.
    """
    heap = np.full(count, -np.inf)
    rows, scores = np.empty(bounds.size, dtype=np.int64), np.empty(bounds.size)
    seeds = highest(bounds, max(SEEDS, count))
    products = dots(query, gather(seeds)).astype(np.float64) + bias[seeds]
    products = products + boost[seeds] if boost.size else products
    fine = np.isfinite(products)
    held = int(np.count_nonzero(fine))
    rows[:held], scores[:held] = seeds[fine], products[fine]
    best = np.sort(products[fine])[-count:]
    heap[: best.size] = best
    heap.sort()  # ascending is a min-heap; empty places stay -inf
    bounds[seeds] = -np.inf
    for first, vectors in chunks():
        held = scan(query, vectors, bias, boost, bounds, first, heap, rows, scores, held)
    kept = scores[:held] >= heap[0]
    return rows[:held][kept], scores[:held][kept]


def warm_up() -> None:
    """Compile what a first request would else wait for."""
    one, bounds, times, flags = np.ones((1, 1), np.float32), np.empty(1), np.zeros(1, np.int64), np.zeros(1, np.bool_)
    fill_bounds(1.0, 0, one[0], one[0], np.empty(0), ~flags, flags, times, times + 1, bounds)
    search(one[0], bounds, one[0], np.empty(0), lambda rows: one[rows], lambda: [(0, one)], 1)
    norms(one)
