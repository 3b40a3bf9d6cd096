"""Packed rows in chains of blocks of one array, compiled: found by key, in the order in which they came.

A row's key and value lie in blocks, and not in objects of Python: a million small ones cost the whole process its memory cache, as every
new one of any kind then gets a place somewhere between them.
"""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled
from core.slots import empty_slots, insert, number_of, remove
from features.sparse_rows import WORD_BYTES, Flat, start_of

BLOCK_WORDS = 32  # most users' rows are packed into less
BLOCK_BYTES = BLOCK_WORDS * WORD_BYTES + 77  # with its share of all arrays
NONE = -1
_FREE, _OLDEST, _NEWEST = range(3)  # of `Blocks.ends`


class Keys(NamedTuple):
    """n keys."""

    hash: np.ndarray  # int64 [n], 31 bits
    size: np.ndarray  # int64 [n], bytes
    words: Flat  # filled up with zeros

    def split(self) -> list[bytes]:
        """Each on its own."""
        return [padded[:size] for padded, size in zip(self.words.split(), self.size.tolist(), strict=True)]


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


def free(of: Blocks) -> int:
    """How many blocks are."""
    return int(of.ends[_FREE])


@compiled
def blocks_for(words: int) -> int:
    return (words + BLOCK_WORDS - 1) // BLOCK_WORDS


@compiled
def fetch(of: Blocks, hashes: np.ndarray) -> int:
    """Read what the search for these hashes, int64 [n], will read, and what comes after it. Returns nothing of use.

    So the processor fetches it side by side; in a search each read waits for the one before. Among a million rows that takes a third of the
    time.
    """
    mask, seen = of.slots.shape[0] - 1, 0
    for i in range(hashes.shape[0]):
        seen += of.slots[hashes[i] & mask]
    for i in range(hashes.shape[0]):
        row = max(0, number_of(of.slots[hashes[i] & mask]))
        seen += of.key_bytes[row] + of.size[row] + of.next[row] + of.stored_ms[row] + of.used[row]
        seen += of.words[row, 0] + of.words[row, 8] + of.words[row, 16]
        seen += of.newer[max(0, of.older[row])] + of.older[max(0, of.newer[row])]
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
def oldest(of: Blocks, wanted: int, firsts: np.ndarray) -> int:
    """Fill `firsts`, int32, with the oldest rows without which that many blocks are free; returns how many rows."""
    count, room, row = 0, of.ends[_FREE], of.ends[_OLDEST]
    while room < wanted:
        firsts[count], count, room, row = row, count + 1, room + blocks_for(of.size[row]), of.newer[row]
    return count
