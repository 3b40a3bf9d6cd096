"""Rows that went cold, packed, in memory: between those in use and the store. A row that comes back soon never was on disk.

A row's key and value lie in a chain of blocks of one array, and not in objects of Python: a million small ones cost the whole process
its memory cache, as every new one of any kind then gets a place somewhere between them.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
import xxhash

from core.compiled import compiled
from core.slots import HASH_BITS, empty_slots, insert, number_of, numbers, remove
from features.sparse_rows import WORD_BYTES, Flat, flat, start_of

BLOCK_WORDS = 32  # most users' rows are packed into less
NONE = -1
_FREE, _OLDEST, _NEWEST = range(3)  # of `Blocks.ends`
_ROW_BYTES = BLOCK_WORDS * WORD_BYTES + 61  # of a row of one block, with its share of all arrays


class Keys(NamedTuple):
    """n keys."""

    hash: np.ndarray  # int64 [n], 31 bits
    size: np.ndarray  # int64 [n], bytes
    words: Flat  # filled up with zeros

    def split(self) -> list[bytes]:
        """Each on its own."""
        return [padded[:size] for padded, size in zip(self.words.split(), self.size.tolist(), strict=True)]


def keys_of(keys: Sequence[bytes]) -> Keys:
    sizes = np.fromiter(map(len, keys), np.int64, len(keys))
    words = flat(list(map(bytes.ljust, keys, (_words_for(sizes) * WORD_BYTES).tolist(), repeat(b"\0"))))
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys))
    return Keys(hashes.astype(np.int64) & (1 << HASH_BITS) - 1, sizes, words)


class Packed(NamedTuple):
    """n rows."""

    keys: Keys
    values: Flat
    used: np.ndarray  # int64 [n], when last, as the owner counts
    stored_ms: np.ndarray  # int64 [n], time in the value that the store has, 0 where it has none
    changed: np.ndarray  # bool [n], whether the store has another value, or none

    @property
    def used_ms(self) -> np.ndarray:
        """int64 [n]: time of the last use, which a row starts with."""
        used_ms: np.ndarray = self.values.words[self.values.starts]
        return used_ms

    def first(self, count: int) -> "Packed":
        """That many of them."""
        keys = Keys(self.keys.hash[:count], self.keys.size[:count], self.keys.words.first(count))
        return Packed(keys, self.values.first(count), self.used[:count], self.stored_ms[:count], self.changed[:count])


class Found(NamedTuple):
    """What there is of n rows."""

    there: np.ndarray  # bool [n]
    values: Flat  # of those that are there
    used: np.ndarray  # int64, see `Packed`
    stored_ms: np.ndarray  # int64


class Blocks(NamedTuple):
    """Rows by key, in the order in which they came. A row goes by its first block; what is kept once a row is kept there."""

    words: np.ndarray  # int64 [blocks, BLOCK_WORDS], the key's, then the value's
    next: np.ndarray  # int32 [blocks], of the same row; NONE
    free: np.ndarray  # int32 [blocks], the first `ends[FREE]` of these
    hash: np.ndarray  # int32 [blocks], see `Keys`
    key_bytes: np.ndarray  # int32 [blocks]
    size: np.ndarray  # int32 [blocks], words of key and value
    used: np.ndarray  # int64 [blocks], see `Packed`
    stored_ms: np.ndarray  # int64 [blocks]
    changed: np.ndarray  # bool [blocks]
    older: np.ndarray  # int32 [blocks], the row that came before; NONE
    newer: np.ndarray  # int32 [blocks]
    slots: np.ndarray  # int64 [2^k], first blocks by hash, see `core.slots`
    ends: np.ndarray  # int64 [3], how many blocks are free, the oldest row, the newest


def blocks(count: int) -> Blocks:
    """That many, all free."""
    ints = {name: np.zeros(count, dtype=np.int32) for name in ("next", "hash", "key_bytes", "size", "older", "newer")}
    return Blocks(
        words=np.zeros((count, BLOCK_WORDS), dtype=np.int64),
        free=np.arange(count, dtype=np.int32),
        used=np.zeros(count, dtype=np.int64),
        stored_ms=np.zeros(count, dtype=np.int64),
        changed=np.zeros(count, dtype=np.bool_),
        slots=empty_slots(count),
        ends=np.array([count, NONE, NONE], dtype=np.int64),
        **ints,
    )


@compiled
def blocks_for(words: int) -> int:
    return (words + BLOCK_WORDS - 1) // BLOCK_WORDS


@compiled
def fetch(of: Blocks, hashes: np.ndarray) -> int:
    """Read what a search for these hashes reads, which brings it into the processor's cache side by side; one by one each waits for memory.

    A third of what a search costs among a million rows. Returns nothing of use.
    """
    mask, seen = of.slots.shape[0] - 1, 0
    for i in range(hashes.shape[0]):
        seen += of.slots[hashes[i] & mask]
    for i in range(hashes.shape[0]):
        first = max(0, number_of(of.slots[hashes[i] & mask]))
        seen += (
            of.key_bytes[first]
            + of.size[first]
            + of.next[first]
            + of.stored_ms[first]
            + of.used[first]
            + of.words[first, 0]
            + of.words[first, 8]
        )
        seen += of.words[first, 16] + of.newer[max(0, of.older[first])] + of.older[max(0, of.newer[first])]
    return seen


@compiled
def has_key(of: Blocks, first: int, keys: Keys, i: int) -> bool:
    """Whether the row's key is the i-th of these."""
    if of.key_bytes[first] != keys.size[i]:
        return False
    block, at = first, 0
    for word in range(start_of(keys.words, i), keys.words.ends[i]):
        if at == BLOCK_WORDS:
            block, at = of.next[block], 0
        if of.words[block, at] != keys.words.words[word]:
            return False
        at += 1
    return True


@compiled
def find(of: Blocks, keys: Keys, firsts: np.ndarray) -> int:
    """Fill `firsts`, int32 [n], for n keys; NONE where a key has no row. Returns what `fetch` does, or that would be left out."""
    mask = of.slots.shape[0] - 1
    seen = fetch(of, keys.hash) if of.ends[_OLDEST] != NONE else 0
    for i in range(keys.hash.shape[0]):
        firsts[i], at = NONE, keys.hash[i] & mask
        while of.slots[at]:
            if of.slots[at] >> 32 == keys.hash[i] and has_key(of, number_of(of.slots[at]), keys, i):
                firsts[i] = number_of(of.slots[at])
                break
            at = (at + 1) & mask
    return seen


@compiled
def copy(of: Blocks, firsts: np.ndarray, skipped: np.ndarray, into: Flat) -> None:
    """Fill `into` with words of n rows, without the first int32 [n] ones of each."""
    for i in range(firsts.shape[0]):
        block, at = firsts[i], skipped[i]
        for word in range(start_of(into, i), into.ends[i]):
            while at >= BLOCK_WORDS:
                block, at = of.next[block], at - BLOCK_WORDS
            into.words[word] = of.words[block, at]
            at += 1


@compiled
def unlink(of: Blocks, first: int) -> None:
    """Take a row out of the order."""
    older, newer = of.older[first], of.newer[first]
    if older == NONE:
        of.ends[_OLDEST] = newer
    else:
        of.newer[older] = newer
    if newer == NONE:
        of.ends[_NEWEST] = older
    else:
        of.older[newer] = older


@compiled
def drop(of: Blocks, firsts: np.ndarray) -> None:
    """Let these rows go."""
    for i in range(firsts.shape[0]):
        block = int(firsts[i])
        remove(of.slots, int(of.hash[block]), block)
        unlink(of, block)
        while block != NONE:
            of.free[of.ends[_FREE]] = block
            of.ends[_FREE] += 1
            block = of.next[block]


@compiled
def take_block(of: Blocks) -> int:
    of.ends[_FREE] -= 1
    block: int = of.free[of.ends[_FREE]]
    of.next[block] = NONE
    return block


@compiled
def write(of: Blocks, values: Flat, i: int, block: int, at: int) -> tuple[int, int]:
    """Write the i-th of these from place `at` of a block on, and to more blocks; returns the last one and the place behind."""
    for word in range(start_of(values, i), values.ends[i]):
        if at == BLOCK_WORDS:
            of.next[block] = take_block(of)
            block, at = of.next[block], 0
        of.words[block, at] = values.words[word]
        at += 1
    return block, at


@compiled
def append(of: Blocks, rows: Packed, first: int) -> None:
    """Put rows from number `first` on, whose keys are not here, as the newest. There are free blocks for them."""
    for i in range(first, rows.changed.shape[0]):
        row = take_block(of)
        block, at = write(of, rows.keys.words, i, row, 0)
        write(of, rows.values, i, block, at)
        of.hash[row], of.key_bytes[row] = rows.keys.hash[i], rows.keys.size[i]
        of.size[row] = rows.keys.words.ends[i] - start_of(rows.keys.words, i) + rows.values.ends[i] - start_of(rows.values, i)
        of.used[row], of.stored_ms[row], of.changed[row] = rows.used[i], rows.stored_ms[i], rows.changed[i]
        link(of, row)
        insert(of.slots, rows.keys.hash[i], row)


@compiled
def link(of: Blocks, row: int) -> None:
    """Make a row the newest."""
    newest = of.ends[_NEWEST]
    of.older[row], of.newer[row] = newest, NONE
    if newest == NONE:
        of.ends[_OLDEST] = row
    else:
        of.newer[newest] = row
    of.ends[_NEWEST] = row


@compiled
def oldest(of: Blocks, blocks: int, firsts: np.ndarray) -> int:
    """Fill `firsts`, int32, with the oldest rows without which that many blocks are free; returns how many rows."""
    count, free, row = 0, of.ends[_FREE], of.ends[_OLDEST]
    while free < blocks:
        firsts[count], count, free, row = row, count + 1, free + blocks_for(of.size[row]), of.newer[row]
    return count


class PackedRows:
    """Rows by key in at most `limit_bytes`; the oldest make room."""

    def __init__(self, limit_bytes: int) -> None:
        self._of = blocks(limit_bytes // _ROW_BYTES)

    def get(self, keys: Keys, leave: bool = True) -> Found:
        """The rows of n distinct keys. `leave`: where they are; else they go."""
        numbers = np.empty(keys.hash.size, dtype=np.int32)
        find(self._of, keys, numbers)
        there = numbers != NONE
        numbers = numbers[there]
        found = Found(there, self._values(numbers), self._of.used[numbers], self._of.stored_ms[numbers])
        if not leave:
            drop(self._of, numbers)
        return found

    def put(self, rows: Packed) -> list[Packed]:
        """Keep rows that are not here, the last ones where not all fit. Returns what went, or did not fit."""
        sizes = rows.values.sizes + rows.keys.words.sizes
        upto = np.cumsum(-(-sizes[::-1] // BLOCK_WORDS))[::-1]  # blocks from each row to the last
        first = int(np.count_nonzero(upto > self._of.next.size))
        gone = self._oldest(int(upto[first]) if first < upto.size else 0)
        told = self._rows(gone[self._of.changed[gone]])
        drop(self._of, gone)
        append(self._of, rows, first)
        return [told, rows.first(first)]

    def _oldest(self, blocks: int) -> np.ndarray:
        numbers = np.empty(self._of.next.size, dtype=np.int32)
        return numbers[: oldest(self._of, blocks, numbers)]

    def flush(self, count: int) -> Iterator[Packed]:
        """The rows that the store does not have as they are, up to `count` at a time; they count as stored from then on."""
        held = numbers(self._of.slots)
        changed = held[self._of.changed[held]]
        for start in range(0, changed.size, count):
            part = changed[start : start + count]
            rows = self._rows(part)
            self._of.changed[part], self._of.stored_ms[part] = False, rows.used_ms
            yield rows

    def _rows(self, numbers: np.ndarray) -> Packed:
        of = self._of
        key_bytes = of.key_bytes[numbers]
        words = self._copied(numbers, np.zeros_like(key_bytes), _words_for(key_bytes))
        keys = Keys(of.hash[numbers].astype(np.int64), key_bytes.astype(np.int64), words)
        return Packed(keys, self._values(numbers), of.used[numbers], of.stored_ms[numbers], of.changed[numbers])

    def _values(self, numbers: np.ndarray) -> Flat:
        key_words = _words_for(self._of.key_bytes[numbers])
        return self._copied(numbers, key_words, self._of.size[numbers] - key_words)

    def _copied(self, numbers: np.ndarray, skipped: np.ndarray, sizes: np.ndarray) -> Flat:
        ends = np.cumsum(sizes, dtype=np.int64)
        into = Flat(np.empty(ends[-1] if ends.size else 0, dtype=np.int64), ends)
        copy(self._of, numbers, skipped, into)
        return into


def _words_for(sizes: np.ndarray) -> np.ndarray:
    """[n], of so many bytes."""
    return -(-sizes // WORD_BYTES)
