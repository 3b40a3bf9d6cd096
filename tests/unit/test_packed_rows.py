"""Packed rows by key against an OrderedDict that counts blocks: what stays, what has to go, and what is told of each."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pytest

from core.slots import HASH_BITS, numbers
from features.packed_kernel import BLOCK_BYTES, BLOCK_WORDS, NONE, Keys, Packed
from features.packed_rows import PackedRows, keys_of
from features.sparse_rows import WORD_BYTES, flat

HIGHEST = (1 << HASH_BITS) - 1
ROOM = BLOCK_WORDS * WORD_BYTES  # bytes of a block
SIZES = [1, 7, 8, 9, ROOM - 9, ROOM - 8, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM]
ALIKE = [b"", b"\0", b"\0\0", b"a", b"a\0", b"a\0\0", b"a" + bytes(7), b"a" + bytes(8), b"b", "ünïcödé".encode(), "鍵".encode() * 40]
POOL = [*ALIKE, *(b"k" * size for size in SIZES), *(b"k" * size + b"\0" for size in SIZES), *(f"user {n}".encode() for n in range(20))]
Hashing = Callable[[np.ndarray], np.ndarray]
HASHINGS: dict[str, Hashing] = {
    "own": lambda hash_: hash_,
    "one": np.zeros_like,
    "few": lambda hash_: hash_ % 3,
    "the highest": lambda hash_: HIGHEST - hash_ % 3,
}


@dataclass(frozen=True)
class Row:
    value: tuple[int, ...]
    used: int
    stored_ms: int
    changed: bool


Rows = list[tuple[bytes, Row]]


class Model:
    """Rows in the order in which they came."""

    def __init__(self, blocks: int) -> None:
        self.blocks, self.rows = blocks, OrderedDict[bytes, Row]()

    @staticmethod
    def blocks_of(rows: Rows) -> int:
        words = [-(-len(key) // WORD_BYTES) + len(row.value) for key, row in rows]
        return sum(-(-size // BLOCK_WORDS) for size in words)

    def put(self, rows: Rows) -> tuple[Rows, Rows]:
        """Pushed out and changed, oldest first; and those that do not fit."""
        first, gone = 0, []
        while self.blocks_of(rows[first:]) > self.blocks:
            first += 1
        while self.blocks_of([*self.rows.items(), *rows[first:]]) > self.blocks:
            gone.append(self.rows.popitem(last=False))
        self.rows.update(rows[first:])
        return [(key, row) for key, row in gone if row.changed], rows[:first]

    def flush(self) -> Rows:
        changed = [(key, row) for key, row in self.rows.items() if row.changed]
        self.rows.update((key, replace(row, changed=False, stored_ms=row.value[0])) for key, row in changed)
        return changed


def hashed(keys: Sequence[bytes], hashing: Hashing) -> Keys:
    told = keys_of(keys)
    return told._replace(hash=hashing(told.hash))


def packed(rows: Rows, hashing: Hashing) -> Packed:
    values = flat([np.array(row.value, dtype=np.int64).tobytes() for _, row in rows])
    columns = np.array([[row.used, row.stored_ms, row.changed] for _, row in rows], dtype=np.int64).reshape(-1, 3)
    return Packed(hashed([key for key, _ in rows], hashing), values, columns[:, 0], columns[:, 1], columns[:, 2].astype(bool))


def words_of(values: list[bytes]) -> list[tuple[int, ...]]:
    return [tuple(np.frombuffer(value, dtype=np.int64).tolist()) for value in values]


def plain(rows: Packed) -> Rows:
    columns = zip(words_of(rows.values.split()), rows.used.tolist(), rows.stored_ms.tolist(), rows.changed.tolist(), strict=True)
    told = [Row(*row) for row in columns]
    assert rows.used_ms.tolist() == [row.value[0] for row in told]
    return list(zip(rows.keys.split(), told, strict=True))


def put(held: PackedRows, rows: Packed) -> Rows:
    return [*chain(*map(plain, held.put(rows)))]


def flushed(held: PackedRows) -> Rows:
    parts = [plain(rows) for rows in held.flush(3)]
    assert all(len(part) == 3 for part in parts[:-1])
    return [row for part in parts for row in part]


def check(held: PackedRows, model: Model, hashing: Hashing) -> None:
    """Every key is found, and each block is free or one row's, once."""
    found = held.get(hashed(POOL, hashing))
    keys = [key for key, there in zip(POOL, found.there.tolist(), strict=True) if there]
    told = zip(words_of(found.values.split()), found.used.tolist(), found.stored_ms.tolist(), strict=True)
    assert dict(zip(keys, told, strict=True)) == {key: (row.value, row.used, row.stored_ms) for key, row in model.rows.items()}
    of, order, in_use = held._of, [], []
    free, row, older = of.free[: of.ends[0]].tolist(), int(of.ends[1]), NONE
    while row != NONE:
        assert of.older[row] == older
        order.append(row)
        block = row
        while block != NONE:
            in_use.append(block)
            block = int(of.next[block])
        older, row = row, int(of.newer[row])
    assert of.ends[2] == older
    assert sorted(free + in_use) == list(range(model.blocks))
    assert len(in_use) == model.blocks_of(list(model.rows.items()))
    assert sorted(numbers(of.slots).tolist()) == sorted(order)
    assert plain(held._rows(np.array(order, dtype=np.int32))) == list(model.rows.items())


def new_rows(random: np.random.Generator, model: Model, most: int) -> Rows:
    rows: Rows = []
    for at in random.permutation(len(POOL))[: random.integers(most + 1)].tolist():
        size = int(random.choice([1, 2, BLOCK_WORDS - 1, BLOCK_WORDS, BLOCK_WORDS + 1, 3 * BLOCK_WORDS, 90]))
        value = tuple(random.integers(-(1 << 63), 1 << 63, size).tolist())
        used, stored_ms, changed = random.integers([1 << 40, 1 << 40, 2]).tolist()
        rows += [(POOL[at], Row(value, used, stored_ms, changed == 1))] if POOL[at] not in model.rows else []
    return rows


@pytest.mark.parametrize("hashing", HASHINGS.values(), ids=HASHINGS)
@pytest.mark.parametrize("blocks", [0, 1, 3, 10, 40, 400])
def test_any_use_equals_the_model(blocks: int, hashing: Hashing) -> None:
    random = np.random.default_rng(blocks)
    held, model = PackedRows(blocks * BLOCK_BYTES), Model(blocks)
    for _ in range(80):
        rows = new_rows(random, model, int(random.choice([1, 6, len(POOL)])))
        assert put(held, packed(rows, hashing)) == [*chain(*model.put(rows))]
        check(held, model, hashing)
        wanted = [POOL[at] for at in random.permutation(len(POOL))[: random.integers(8)]]
        found = held.get(hashed(wanted, hashing), leave=False)
        told = zip(words_of(found.values.split()), found.used.tolist(), found.stored_ms.tolist(), strict=True)
        gone = [model.rows.pop(key, None) for key in wanted]
        assert found.there.tolist() == [row is not None for row in gone]
        assert list(told) == [(row.value, row.used, row.stored_ms) for row in gone if row]
        check(held, model, hashing)
        if random.random() < 0.2:
            assert sorted(flushed(held)) == sorted(model.flush())
            assert flushed(held) == []
            check(held, model, hashing)


def of_size(words: int, used: int = 0) -> Row:
    return Row((7, *range(1, words)), used, 0, True)


def test_rows_come_back_as_they_were_and_count_as_stored_after_a_flush() -> None:
    held = PackedRows(10 * BLOCK_BYTES)
    held.put(packed([(b"old", Row((50, 1), 3, 20, False)), (b"new", Row((60, 2), 4, 0, True))], HASHINGS["own"]))
    assert flushed(held) == [(b"new", Row((60, 2), 4, 0, True))]
    found = held.get(keys_of([b"new", b"never", b"old"]))
    assert found.there.tolist() == [True, False, True]
    assert (found.used.tolist(), found.stored_ms.tolist()) == ([4, 3], [60, 20])
    [pushed_out] = held.put(packed([(b"large", of_size(10 * BLOCK_WORDS - 1))], HASHINGS["own"]))
    assert plain(pushed_out) == [], "the store has them"
    assert not held.get(keys_of([b"new", b"old"])).there.any()


def test_a_row_that_was_looked_at_is_not_the_newer_for_it() -> None:
    held = PackedRows(2 * BLOCK_BYTES)
    held.put(packed([(b"a", of_size(1)), (b"b", of_size(2))], HASHINGS["own"]))
    held.get(keys_of([b"a"]))
    [pushed_out] = held.put(packed([(b"c", of_size(3))], HASHINGS["own"]))
    assert pushed_out.keys.split() == [b"a"]


def test_without_room_every_row_is_handed_back() -> None:
    for limit_bytes in (0, BLOCK_BYTES - 1):
        held, rows = PackedRows(limit_bytes), [(b"", of_size(1)), (b"a", Row((1, 2), 3, 4, False))]
        assert put(held, packed(rows, HASHINGS["own"])) == rows
        assert not held.get(keys_of([b"", b"a"]), leave=False).there.any()
        assert flushed(held) == []


@pytest.mark.parametrize("limit_bytes", [100_000, 1 << 20, 333 * 1_025, (1 << 20) + 333, 50 << 20])
def test_all_arrays_together_stay_within_the_limit(limit_bytes: int) -> None:
    arrays = PackedRows(limit_bytes)._of
    assert 0.9 * limit_bytes < sum(array.nbytes for array in arrays) <= limit_bytes + 100
