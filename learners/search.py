"""The k largest dot products of a query with many vectors, exactly, without computing most of them.

A product is at most |query| |vector|. Blocks of rows know their longest vector, highest bias and most popular item: those with the
highest bound are scored first, and of the others only the rows whose own bound reaches the k-th best score so far. On a click stream
most blocks are never looked into, as they hold items that are no longer popular; in the others most rows are passed over by their
popularity alone, the one column that is read of them.
Source: the bound is Cauchy-Schwarz; the use for maximum inner products, Teflioudi, Gemulla, Mykytiuk, "LEMP", SIGMOD 2015.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from learners.tables import BLOCK_ROWS

LANES = 8
SLACK = 1e-4  # of a bound, relative: rounding of norms and of float32 sums of up to 1,000 terms
SUM_SLACK = 1e-12  # of what popularity adds, relative: rounding of a float64 sum in another order
LIMIT_SLACK = 1e-9  # of the least popularity that is looked at, relative: far above what SUM_SLACK adds and rounding takes
LONGEST = float(np.finfo(np.float32).max)
SHORTEST = 1e-30  # norm of a vector with a direction; below, its inverse leaves float32

Part = tuple[int, np.ndarray, np.ndarray]  # first row, float32 [m, w], int64: blocks of it


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
def lengths_and_inverses(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `norms`; summed in the order of the dimensions."""
    lengths, inverse = np.zeros(vectors.shape[0], dtype=np.float32), np.zeros(vectors.shape[0], dtype=np.float32)
    for r in range(vectors.shape[0]):
        total = 0.0
        for i in range(vectors.shape[1]):
            total += np.float64(vectors[r, i]) * np.float64(vectors[r, i])
        length = np.sqrt(total)
        lengths[r] = LONGEST if length > LONGEST else length
        if length > SHORTEST:
            inverse[r] = 1.0 / length
    return lengths, inverse


def norms(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and their inverses, float32 [m] each; an inverse is 0 where the vector is too short to point anywhere."""
    return lengths_and_inverses(np.ascontiguousarray(vectors))


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
def update_peaks(values: np.ndarray, blocks: np.ndarray, peaks: np.ndarray) -> None:
    """peaks[b], float64, = the largest of values[b * BLOCK_ROWS : (b + 1) * BLOCK_ROWS], for each b of `blocks` (int64)."""
    for block in blocks:
        first = block * BLOCK_ROWS
        peaks[block] = values[first : first + BLOCK_ROWS].max()


@compiled
def highest(
    values: np.ndarray, absent: float, present: np.ndarray, end_ms: np.ndarray, floor_ms: int, peaks: np.ndarray, count: int
) -> np.ndarray:
    """int64: the rows of the `count` largest values, those equal to the last of them included, in no order.

    Args:
        values: [n]; only those above `absent` count.
        present: bool [n].
        end_ms: int64 [n]; rows that ended at `floor_ms` or before do not count.
        peaks: float64 [blocks], by `update_peaks`.
    """
    heap, rows, held = np.full(count, -np.inf), np.empty(values.shape[0], dtype=np.int64), 0
    for block in np.argsort(-peaks):
        if peaks[block] < heap[0]:
            break
        for r in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, values.shape[0])):
            value = np.float64(values[r])
            if value >= heap[0] and value > absent and present[r] and end_ms[r] > floor_ms:
                rows[held] = r
                held += 1
                if value > heap[0]:
                    sift(heap, value)
    kept: np.ndarray = rows[:held][values[rows[:held]] >= heap[0]]
    return kept


class Columns(NamedTuple):
    """What decides which rows may be listed and what is added to their products, [n] each."""

    norm: np.ndarray  # float32, of the vector
    bias: np.ndarray  # float32
    log2_popularity: np.ndarray  # float64, -inf without an event
    present: np.ndarray  # bool: there is a vector
    removed: np.ndarray  # bool
    start_ms: np.ndarray  # int64: listed from here
    end_ms: np.ndarray  # int64: no longer listed from here


class Query(NamedTuple):
    """What is looked for."""

    vector: np.ndarray  # float32 [w]
    norm: float
    popularity_weight: float  # of log2_popularity; 0: popularity does not count, not even that there is none
    now_ms: int


@inlined
def bound(query: Query, norm: float, bias: float, log2_popularity: float) -> float:
    """What the score of such a row cannot exceed; does not fall as any of the three rises."""
    reach = query.norm * norm
    most = reach + SLACK * reach + bias if np.isfinite(reach) else np.inf
    if query.popularity_weight > 0.0:
        term = query.popularity_weight * log2_popularity
        most = most + term + SUM_SLACK * abs(term) if term > -np.inf else -np.inf
    return most


class Peaks(NamedTuple):
    """The highest values in each block, float64 [blocks] each, by `update_peaks`."""

    norm: np.ndarray
    bias: np.ndarray
    log2_popularity: np.ndarray


@compiled
def block_bounds(query: Query, peaks: Peaks) -> np.ndarray:
    """float64 [blocks]: what no row of a block exceeds."""
    out = np.empty(peaks.norm.shape[0])
    for b in range(out.shape[0]):
        out[b] = bound(query, peaks.norm[b], peaks.bias[b], peaks.log2_popularity[b])
    return out


@inlined
def least_popularity(query: Query, norm: float, bias: float, bar: float) -> float:
    """A log2_popularity below which `bound` is below the bar, for no higher norm and bias; a little less than the least of them."""
    reach = query.norm * norm
    if query.popularity_weight == 0.0 or not np.isfinite(reach) or bar == -np.inf:
        return -np.inf
    most = reach + SLACK * reach + bias
    return (bar - most - LIMIT_SLACK * (abs(bar) + abs(most))) / query.popularity_weight


@inlined
def among(row: int, rows: np.ndarray) -> bool:
    found = False
    for other in rows:
        found |= other == row
    return found


@compiled
def scan(
    query: Query,
    columns: Columns,
    first: int,
    vectors: np.ndarray,
    blocks: np.ndarray,
    peaks: Peaks,
    bounds: np.ndarray,
    left_out: np.ndarray,
    heap: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    held: int,
) -> int:
    """Score the rows of blocks whose bound reaches the bar; returns how many rows are held then.

    Args:
        first: row of vectors[0].
        vectors: float32 [m, w]: rows first to first + m.
        blocks: int64, those of them to look at, the highest of `bounds` (float64 [blocks]) first.
        peaks: of all blocks.
        left_out: int64, rows.
        heap: float64 [k], min-heap of the k best scores so far; its smallest is the bar. Updated.
        rows, scores: int64, float64 [n]: rows that reached the bar when they were scored, and their scores. Updated.
        held: of those so far.
    """
    for block in blocks:
        if bounds[block] < heap[0] or bounds[block] == -np.inf:
            break
        least = least_popularity(query, peaks.norm[block], peaks.bias[block], heap[0])
        for r in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, first + vectors.shape[0])):
            if columns.log2_popularity[r] < least:
                continue
            if not (columns.present[r] and not columns.removed[r] and columns.start_ms[r] <= query.now_ms < columns.end_ms[r]):
                continue
            if bound(query, columns.norm[r], columns.bias[r], columns.log2_popularity[r]) < heap[0]:
                continue
            product = dot(query.vector, vectors[r - first])
            score = np.float64(product) + np.float64(columns.bias[r])
            if query.popularity_weight > 0.0:
                score += query.popularity_weight * columns.log2_popularity[r]
            if score >= heap[0] and np.isfinite(score) and not among(r, left_out):
                rows[held], scores[held] = r, score
                held += 1
                if score > heap[0]:
                    sift(heap, score)
                    least = least_popularity(query, peaks.norm[block], peaks.bias[block], heap[0])
    return held


def search(
    query: Query, columns: Columns, peaks: Peaks, parts: Callable[[np.ndarray], Iterable[Part]], left_out: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores (int64, float64) of the `count` highest query . vector + bias + popularity, ties with the last included, in no order.

    Args:
        peaks: of the first three columns.
        parts: blocks -> their vectors, in the same order.
        left_out: int64, rows.
    """
    size, held, bounds = columns.norm.size, 0, block_bounds(query, peaks)
    heap, rows, scores = np.full(count, -np.inf), np.empty(size, dtype=np.int64), np.empty(size)
    for first, vectors, blocks in parts(np.argsort(-bounds)):
        if bounds[blocks[0]] < heap[0] or bounds[blocks[0]] == -np.inf:
            break
        held = scan(query, columns, first, vectors, blocks, peaks, bounds, left_out, heap, rows, scores, held)
    kept = scores[:held] >= heap[0]
    return rows[:held][kept], scores[:held][kept]


def warm_up() -> None:
    """Compile what a first request would else wait for."""
    one, flag, time, peak = np.ones((1, 1), np.float32), np.ones(1, np.bool_), np.zeros(1, np.int64), np.ones(1)
    query, columns = Query(one[0], 1.0, 0.0, 0), Columns(one[0], one[0], peak, flag, ~flag, time, time + 1)
    search(query, columns, Peaks(peak, peak, peak), lambda blocks: [(0, one, blocks)], time[:0], 1)
    for values in (peak, time):
        highest(values, -1.0, flag, time, -1, peak, 1)
    norms(one)
