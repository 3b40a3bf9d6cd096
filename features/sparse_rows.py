"""Rows of which most words are zero, as bytes: the first word, a bit per word, the words that are not zero.

A user who was seen once has a twentieth of a row; the store, its buffers and the disk see that alone.
"""

import itertools

import numpy as np

from core.compiled import compiled

WORD_BYTES = 8


@compiled
def packed_words(rows: np.ndarray, into: np.ndarray, ends: np.ndarray) -> None:
    """Pack int64 [n, width] rows into `into`, int64, one behind the other; `ends`, int64 [n], in words."""
    width, at = rows.shape[1], 0
    masks = (width + 63) // 64
    for i in range(rows.shape[0]):
        into[at] = rows[i, 0]
        mask_at, at = at + 1, at + 1 + masks
        for m in range(masks):
            mask = np.uint64(0)
            for word in range(64 * m, min(width, 64 * m + 64)):
                if word and rows[i, word] != 0:
                    mask |= np.uint64(1) << np.uint64(word - 64 * m)
                    into[at] = rows[i, word]
                    at += 1
            into[mask_at + m] = np.int64(mask)
        ends[i] = at


@compiled
def unpack_words(packed: np.ndarray, starts: np.ndarray, rows: np.ndarray, at_rows: np.ndarray) -> None:
    """Fill `rows`, int64 [.., width], at these places, int64 [n], from where each starts in `packed`, int64; below 0: zeros."""
    width = rows.shape[1]
    masks = (width + 63) // 64
    for i in range(starts.shape[0]):
        row = rows[at_rows[i]]
        row[:] = 0
        if starts[i] < 0:
            continue
        at = starts[i] + 1 + masks
        row[0] = packed[starts[i]]
        for m in range(masks):
            mask = np.uint64(packed[starts[i] + 1 + m])
            word = 64 * m
            while mask:
                if mask & np.uint64(1):
                    row[word] = packed[at]
                    at += 1
                mask >>= np.uint64(1)
                word += 1


def pack(rows: np.ndarray) -> list[bytes]:
    """The rows, int64 [n, width], as bytes each."""
    n, width = rows.shape
    into, ends = np.empty(n * (width + 1 + (width + 63) // 64), dtype=np.int64), np.empty(n, dtype=np.int64)
    packed_words(rows, into, ends)
    raw = into[: ends[-1] if n else 0].tobytes()
    bounds = [0, *(ends * WORD_BYTES).tolist()]
    return [raw[start:end] for start, end in itertools.pairwise(bounds)]


def unpack(values: list[bytes | None], rows: np.ndarray, at: np.ndarray) -> None:
    """Fill n of the rows, int64 [.., width], at these places, int64 [n]; zeros where there is no value."""
    sizes = np.fromiter((len(value) // WORD_BYTES if value else 0 for value in values), np.int64, len(values))
    starts = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1)
    unpack_words(np.frombuffer(b"".join(value for value in values if value), dtype="<i8"), starts, rows, at)
