"""Fingerprints outside, dense rows inside: `core.ids` for ids that nobody has to be told of. A million of them are a few arrays."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from core.compiled import compiled
from core.ids import RowTable
from core.slots import HASH_BITS, empty_slots, insert, number_of, remove
from core.snapshot import Snapshot

_FILE = "fingerprints.msgpack"


class Index(NamedTuple):
    """Rows by key."""

    slots: np.ndarray  # see `core.slots`
    keys: np.ndarray  # int64 [rows, 2]


def empty_index(rows: int) -> Index:
    """For that many."""
    return Index(empty_slots(rows), np.zeros((rows, 2), dtype=np.int64))


@compiled
def hash_of(key: int) -> int:
    return key & ((1 << HASH_BITS) - 1)


@compiled
def row_of(index: Index, high: int, low: int) -> int:
    """-1 where the key has none."""
    mask = index.slots.shape[0] - 1
    at = hash_of(high) & mask
    while index.slots[at]:
        row = number_of(index.slots[at])
        if index.keys[row, 0] == high and index.keys[row, 1] == low:
            return row
        at = (at + 1) & mask
    return -1


@compiled
def find_rows(index: Index, keys: np.ndarray, rows: np.ndarray) -> int:
    """Fill `rows`, int32 [n], for keys, int64 [n, 2]; -1 where a key has none. Returns nothing of use.

    Two passes read what the third one will, and nothing depends on it: so the processor fetches it side by side.
    """
    mask, seen = index.slots.shape[0] - 1, 0
    for i in range(keys.shape[0]):
        seen += index.slots[hash_of(keys[i, 0]) & mask]
    for i in range(keys.shape[0]):
        seen += index.keys[max(0, number_of(index.slots[hash_of(keys[i, 0]) & mask])), 0]
    for i in range(keys.shape[0]):
        rows[i] = row_of(index, keys[i, 0], keys[i, 1])
    return seen


@compiled
def put_key(index: Index, row: int, high: int, low: int) -> None:
    """Give the row to a key that has none."""
    index.keys[row, 0], index.keys[row, 1] = high, low
    insert(index.slots, hash_of(high), row)


@compiled
def insert_rows(index: Index, keys: np.ndarray, rows: np.ndarray) -> None:
    """Give these rows, int64 [n], to keys, int64 [n, 2], that have none."""
    for i in range(rows.shape[0]):
        put_key(index, rows[i], keys[i, 0], keys[i, 1])


@compiled
def remove_rows(index: Index, rows: np.ndarray) -> None:
    """Take these rows, int64 [n], from their keys."""
    for i in range(rows.shape[0]):
        remove(index.slots, hash_of(index.keys[rows[i], 0]), rows[i])


class FingerprintMap(RowTable):
    """Fingerprint (`core.hashing`) -> row, with the order of last use. Rows are freed by `evict` only.

    State: the fingerprints with their rows, and what `RowTable` has.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._index = empty_index(capacity)

    def lookup(self, keys: np.ndarray) -> np.ndarray:
        """int32 [n]: row of each key, int64 [n, 2]; -1 where it has none. Changes nothing."""
        rows = np.empty(keys.shape[0], dtype=np.int32)
        find_rows(self._index, keys, rows)
        return rows

    def admit(self, keys: np.ndarray) -> np.ndarray:
        """int32 [n]: the row of each key, int64 [n, 2], given one where it has none; all become the last used, in order."""
        rows = self.lookup(keys)
        missing = rows < 0
        if missing.any():
            new = dict.fromkeys(map(tuple, keys[missing].tolist()))
            insert_rows(self._index, np.array(list(new)), np.array([self._take() for _ in new]))
            rows[missing] = self.lookup(keys[missing])
        self._use(rows)
        return rows

    def evict(self) -> list[int]:
        """Between segments: free the rows longest unused until a segment's worth is free. Returns these."""
        gone = self._surplus()
        remove_rows(self._index, np.array(gone, dtype=np.int64))
        for row in gone:
            self._take_back(row)
        return gone

    def snapshot(self, into: Snapshot) -> None:
        state = {"keys": self._index.keys[: self.size].tobytes(), **self._order()}
        into.write(_FILE, msgspec.msgpack.encode(state))

    def restore(self, directory: Path) -> None:
        state = msgspec.msgpack.decode((directory / _FILE).read_bytes())
        self._restore_order(state)
        rows, held = max(self.capacity, self.size), np.array(self._by_use(len(self)), dtype=np.int64)
        keys = np.frombuffer(state["keys"], dtype="<i8").reshape(-1, 2)
        self._index = empty_index(rows)
        insert_rows(self._index, keys[held], held)

    def digest(self) -> str:
        held = self._index.keys[self._by_use(len(self))].tobytes()
        return hashlib.sha256(held + msgspec.msgpack.encode(self._digested())).hexdigest()
