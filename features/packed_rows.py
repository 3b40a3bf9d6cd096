"""Rows that went cold, packed, in memory: between those in use and the store. A row that comes back soon never was on disk."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
import xxhash

from core.slots import HASH_BITS, numbers
from features.packed_kernel import BLOCK_BYTES, BLOCK_WORDS, NONE, Keys, Packed, append, blocks, copy, drop, find, free, oldest
from features.sparse_rows import WORD_BYTES, Flat, flat


def keys_of(keys: Sequence[bytes]) -> Keys:
    sizes = np.fromiter(map(len, keys), np.int64, len(keys))
    words = flat(list(map(bytes.ljust, keys, (_words_for(sizes) * WORD_BYTES).tolist(), repeat(b"\0"))))
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys))
    return Keys(hashes.astype(np.int64) & (1 << HASH_BITS) - 1, sizes, words)


class Found(NamedTuple):
    """What there is of n rows."""

    there: np.ndarray  # bool [n]
    values: Flat  # of those that are there
    used: np.ndarray  # int64, see `Packed`
    stored_ms: np.ndarray  # int64


class PackedRows:
    """Rows by key in at most `limit_bytes`; the oldest make room."""

    def __init__(self, limit_bytes: int) -> None:
        self._of = blocks(limit_bytes // BLOCK_BYTES)

    def get(self, keys: Keys, leave: bool = True) -> Found:
        """The rows of n distinct keys. `leave`: where they are; else they go."""
        firsts = np.empty(keys.hash.size, dtype=np.int32)
        find(self._of, keys, firsts)
        there = firsts != NONE
        firsts = firsts[there]
        found = Found(there, self._values(firsts), self._of.used[firsts], self._of.stored_ms[firsts])
        if not leave:
            drop(self._of, firsts)
        return found

    def put(self, rows: Packed) -> list[Packed]:
        """Keep rows that are not here, the last ones where not all fit. Returns the changed rows that went, and all that did not fit."""
        sizes = rows.values.sizes + rows.keys.words.sizes
        upto = np.cumsum(-(-sizes[::-1] // BLOCK_WORDS))[::-1]  # blocks from each row to the last
        first = int(np.count_nonzero(upto > self._of.next.size))
        pushed_out = self._make_room(int(upto[first]) if first < upto.size else 0)
        append(self._of, rows, first)
        return [*pushed_out, *([rows.first(first)] if first else [])]

    def _make_room(self, blocks: int) -> list[Packed]:
        """For so many; gives the rows that went for it and had changed."""
        if blocks <= free(self._of):
            return []
        firsts = np.empty(self._of.next.size, dtype=np.int32)
        gone = firsts[: oldest(self._of, blocks, firsts)]
        told = self._rows(gone[self._of.changed[gone]])
        drop(self._of, gone)
        return [told]

    def flush(self, count: int) -> Iterator[Packed]:
        """The rows that the store does not have as they are, up to `count` at a time; they count as stored from then on."""
        held = numbers(self._of.slots)
        changed = held[self._of.changed[held]]
        for start in range(0, changed.size, count):
            part = changed[start : start + count]
            rows = self._rows(part)
            self._of.changed[part], self._of.stored_ms[part] = False, rows.used_ms
            yield rows

    def _rows(self, firsts: np.ndarray) -> Packed:
        of = self._of
        key_bytes = of.key_bytes[firsts]
        words = self._copied(firsts, np.zeros_like(key_bytes), _words_for(key_bytes))
        keys = Keys(of.hash[firsts].astype(np.int64), key_bytes.astype(np.int64), words)
        return Packed(keys, self._values(firsts), of.used[firsts], of.stored_ms[firsts], of.changed[firsts])

    def _values(self, firsts: np.ndarray) -> Flat:
        key_words = _words_for(self._of.key_bytes[firsts])
        return self._copied(firsts, key_words, self._of.size[firsts] - key_words)

    def _copied(self, firsts: np.ndarray, skipped: np.ndarray, sizes: np.ndarray) -> Flat:
        ends = np.cumsum(sizes, dtype=np.int64)
        into = Flat(np.empty(ends[-1] if ends.size else 0, dtype=np.int64), ends)
        copy(self._of, firsts, skipped, into)
        return into


def _words_for(sizes: np.ndarray) -> np.ndarray:
    """[n], of so many bytes."""
    return -(-sizes // WORD_BYTES)
