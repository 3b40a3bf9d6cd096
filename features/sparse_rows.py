"""Rows of which most words are zero, as bytes: the first word; a bit for every 8 words; then of every 8 words that are not all zero a bit
for each word, and of every word that is not zero a bit for each byte, and the bytes that are not zero; zeros up to a multiple of 8 bytes.

A user who was seen once has a twentieth of a row; memory, the store and the disk see that alone.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined

WORD_BYTES = 8
GROUP_WORDS = 8


class Flat(NamedTuple):
    """n values of whole words, one behind the other."""

    words: np.ndarray  # int64, at least up to the last end
    ends: np.ndarray  # int64 [n]

    def split(self) -> list[bytes]:
        """Each on its own."""
        ends = [0, *(self.ends * WORD_BYTES).tolist()]
        raw = self.words[: self.ends[-1] if self.ends.size else 0].tobytes()
        return [raw[start:end] for start, end in pairwise(ends)]

    def first(self, count: int) -> "Flat":
        """That many of them."""
        return Flat(self.words, self.ends[:count])

    @property
    def sizes(self) -> np.ndarray:
        """int64 [n], words."""
        sizes = self.ends.copy()
        sizes[1:] -= self.ends[:-1]
        return sizes

    @property
    def starts(self) -> np.ndarray:
        """int64 [n]"""
        starts = np.zeros_like(self.ends)
        starts[1:] = self.ends[:-1]
        return starts


@compiled
def start_of(values: Flat, at: int) -> int:
    """Where the value of that number starts."""
    start: int = values.ends[at - 1] if at else 0
    return start


def flat(values: Sequence[bytes]) -> Flat:
    """`Flat.split`, the other way round. The words may be written: a kernel takes an array that may not for another type, compiled anew."""
    words = np.frombuffer(bytearray().join(values), dtype=np.int64)
    return Flat(words, np.cumsum(np.fromiter(map(len, values), np.int64, len(values)) // WORD_BYTES))


def most_bytes(width: int) -> int:
    """Of a packed row of that many words, a multiple of 8, with a byte behind it."""
    groups = -(-width // GROUP_WORDS)
    return (WORD_BYTES + -(-groups // 8) + groups + width * (1 + WORD_BYTES)) // WORD_BYTES * WORD_BYTES + WORD_BYTES


@inlined
def put_word(word: int, into: np.ndarray, at: int) -> int:
    """Append a bit for each byte of a word, and its bytes that are not zero; returns the end."""
    rest, mask, end = np.uint64(word), 0, at + 1
    for bit in range(WORD_BYTES):
        byte = np.uint8(rest)
        into[end] = byte  # the next one goes over it if it is zero: cheaper than to ask
        held = 1 if byte else 0
        mask |= held << bit
        end += held
        rest >>= np.uint64(8)
    into[at] = mask
    return end


@inlined
def all_zero(row: np.ndarray, start: int, stop: int) -> bool:
    if stop - start < GROUP_WORDS:
        return not np.any(row[start:stop])
    some: int = row[start] | row[start + 1] | row[start + 2] | row[start + 3]
    some |= row[start + 4] | row[start + 5] | row[start + 6] | row[start + 7]
    return some == 0


@compiled
def pack_rows(rows: np.ndarray, at_rows: np.ndarray, nexts: np.ndarray, clear: bool, into: np.ndarray, ends: np.ndarray) -> None:
    """Pack rows.

    Args:
        rows: int64 [.., width].
        at_rows: int64 [n], the places of those to be packed.
        nexts: int64 [groups], see `nexts`.
        clear: make them zeros.
        into: uint8. Filled.
        ends: int64 [n], in words. Filled.
    """
    width, at, groups = rows.shape[1], 0, nexts.shape[0]
    masks = (groups + 7) // 8
    for i in range(at_rows.shape[0]):
        row = rows[at_rows[i]]
        first = np.uint64(row[0])
        for byte in range(WORD_BYTES):
            into[at + byte] = np.uint8(first >> np.uint64(8 * byte))
        masks_at, at = at + WORD_BYTES, at + WORD_BYTES + masks
        into[masks_at:at] = 0
        group = 0
        while group < groups:
            start, stop = GROUP_WORDS * group, min(width, GROUP_WORDS * (group + 1))
            if all_zero(row, start, stop):
                group = nexts[group]
                continue
            into[masks_at + group // 8] |= np.uint8(1 << group % 8)
            group_at, at, held = at, at + 1, 0
            for word in range(max(1, start), stop):
                if row[word]:
                    held |= 1 << (word - start)
                    at = put_word(row[word], into, at)
            into[group_at] = held
            if clear:
                row[start:stop] = 0
            group += 1
        while at % WORD_BYTES:
            into[at] = 0
            at += 1
        ends[i] = at // WORD_BYTES


@compiled
def unpack_rows(packed: np.ndarray, starts: np.ndarray, rows: np.ndarray, at_rows: np.ndarray) -> None:
    """Fill `rows`, int64 [.., width] and zeros, at these places, int64 [n].

    Args:
        packed: uint8.
        starts: int64 [n], word where each starts; below 0: its row stays as it is.
    """
    width = rows.shape[1]
    groups = (width + GROUP_WORDS - 1) // GROUP_WORDS
    for i in range(starts.shape[0]):
        row = rows[at_rows[i]]
        if starts[i] < 0:
            continue
        masks_at = (starts[i] + 1) * WORD_BYTES
        row[0], at = taken_word(packed, masks_at - WORD_BYTES, 255), masks_at + (groups + 7) // 8
        for group in range(groups):
            if packed[masks_at + group // 8] >> (group % 8) & 1:
                held, at, word = packed[at], at + 1, GROUP_WORDS * group
                while held:
                    if held & 1:
                        row[word] = taken_word(packed, at + 1, packed[at])
                        at += 1 + bits_of(packed[at])
                    held, word = held >> 1, word + 1


@inlined
def bits_of(mask: int) -> int:
    pairs = mask - (mask >> 1 & 0x55)
    fours = (pairs & 0x33) + (pairs >> 2 & 0x33)
    return (fours + (fours >> 4)) & 0xF


@inlined
def taken_word(packed: np.ndarray, at: int, mask: int) -> int:
    """The word whose bytes of that mask start there."""
    word, rest, bits = np.uint64(0), mask, np.uint64(0)
    while rest:
        if rest & 1:
            word |= np.uint64(packed[at]) << bits
            at += 1
        rest, bits = rest >> 1, bits + np.uint64(8)
    return np.int64(word)  # type: ignore[return-value]  # to Python and the kernel one and the same


def nexts(width: int, parts: Iterable[tuple[int, int]] = ()) -> np.ndarray:
    """int64 [groups]: which 8 words to look at next where those of a group are all zero.

    Args:
        width: of a row, in words.
        parts: of a row, first word, a multiple of 8, and end; each is all zero if its first 8 words are.
    """
    groups = -(-width // GROUP_WORDS)
    following = np.arange(1, groups + 1)
    for start, stop in parts:
        following[start // GROUP_WORDS] = max(start // GROUP_WORDS + 1, stop // GROUP_WORDS)
    return following


def pack(rows: np.ndarray, at: np.ndarray, following: np.ndarray, clear: bool = False) -> Flat:
    """The rows, int64 [.., width], at these places, int64 [n]. `following`: see `nexts`; clear: make them zeros."""
    into, ends = np.empty(at.size * most_bytes(rows.shape[1]), dtype=np.uint8), np.empty(at.size, dtype=np.int64)
    pack_rows(rows, at, following, clear, into, ends)
    return Flat(into.view(np.int64), ends)


def unpack(packed: Flat, rows: np.ndarray, at: np.ndarray) -> None:
    """Fill n of the rows, int64 [.., width] and zeros, at these places, int64 [n]; not those whose value has no words.

    Only what is not zero is written: a fifth of the memory that a whole row would go through.
    """
    unpack_rows(packed.words.view(np.uint8), np.where(packed.sizes > 0, packed.starts, -1), rows, at)
