"""Rows in use against a dict of rows: what is in the array, packed or in the store never shows, and those who come often stay."""

from pathlib import Path

import numpy as np
import pytest

from features import hot_rows
from features.hot_rows import MADE_FREE, SOON, USED, HotRows
from features.store import ExpiringRows, StateStore

FAMILY = "rows"
CACHE_BYTES = 8 << 20
WIDTH = 83
MARK = 1  # word that tells whose row it is
T0 = 1_000_000
NEVER_MS = 1 << 40
GENERATION_BYTES = 4  # before each key in the store


class Held:
    """Hot rows over a store, and their twin: a dict of rows that forgets those unused for `ttl_ms`."""

    def __init__(self, path: Path, capacity: int, packed_bytes: int, ttl_ms: int = NEVER_MS) -> None:
        self._path, self._shape, self._ttl_ms, self._saves = path, (WIDTH, capacity, packed_bytes), ttl_ms, 0
        self.now_ms, self.twin = T0, dict[int, np.ndarray]()
        self._open(StateStore.empty(path / "store", (FAMILY,), CACHE_BYTES))

    def _open(self, store: StateStore) -> None:
        self.store, self.table = store, ExpiringRows(store, FAMILY, self._ttl_ms)
        self.hot = HotRows(self.table, *self._shape)

    def use(self, numbers: list[int], passed_ms: int = 1, random: np.random.Generator | None = None) -> None:
        """A batch: random words of some rows are written, as their users' events do."""
        random, before_ms = random or np.random.default_rng(self.now_ms), self.now_ms
        slots = self.hot.admit(names(numbers), before_ms)
        assert len(set(slots.tolist())) == len(numbers)
        for number, slot in zip(numbers, slots.tolist(), strict=True):
            row, known = self.hot.words[slot], self.alive(number)
            if before_ms - row[USED] >= self._ttl_ms:  # zeros, or expired, as is the one that the dict has
                row[:], known = 0, np.zeros(WIDTH, dtype=np.int64)
            assert np.array_equal(row, known)
            at = random.integers(2, WIDTH, 6)
            row[at] = random.choice([0, 1, -1, 300, int(random.integers(-(1 << 63), 1 << 63))], 6)
            row[USED], row[MARK] = before_ms + passed_ms, number
            self.twin[number] = row.copy()
        self.now_ms += passed_ms
        self.hot.trim()
        self.table.drop_expired(before_ms, self.now_ms)

    def alive(self, number: int) -> np.ndarray:
        row = self.twin.get(number)
        return np.zeros(WIDTH, dtype=np.int64) if row is None or self.now_ms - row[USED] >= self._ttl_ms else row

    def flush(self) -> None:
        """The store has each row once then."""
        self.hot.flush()
        stored = [key[GENERATION_BYTES:].decode() for key, _ in self.table.live(self.now_ms)]
        assert sorted(stored) == sorted(names([number for number in self.twin if self.alive(number).any()]))

    def reopen(self) -> None:
        """From the files of a checkpoint; what is in memory is lost."""
        self.flush()
        self._saves += 1
        checkpoint = self._path / f"checkpoint-{self._saves}"
        self.store.checkpoint(checkpoint)
        self.store.close()
        self._open(StateStore.from_checkpoint(checkpoint, self._path / "store", (FAMILY,), CACHE_BYTES))

    def in_the_array(self) -> set[int]:
        """Whose rows are there; each once, and as it should be. All others are zeros."""
        rows = self.hot.words[self.hot.words.any(axis=1)]
        marks = rows[:, MARK].tolist()
        assert len(set(marks)) == len(marks)
        assert all(np.array_equal(row, self.twin[mark]) for row, mark in zip(rows, marks, strict=True))
        return set(marks)

    def check(self, numbers: list[int]) -> None:
        """Also that reading changes nothing."""
        before, words = self.hot.words.copy(), [None, 1, 40]
        for count in words:
            rows = self.hot.read(names(numbers), self.now_ms, count)
            rows[self.now_ms - rows[:, USED] >= self._ttl_ms] = 0
            assert np.array_equal(rows, np.array([self.alive(number)[:count] for number in numbers]).reshape(rows.shape))
        assert np.array_equal(self.hot.words, before)


def names(numbers: list[int]) -> list[str]:
    """Some longer than others, some not ASCII, some that end with a zero."""
    return ["ü" * (number % 5 * 30) + f"{number}" + "\0" * (number % 3) for number in numbers]


@pytest.mark.parametrize("ttl_ms", [NEVER_MS, 700])
@pytest.mark.parametrize("packed_bytes", [0, 2_000, 1 << 20])
@pytest.mark.parametrize("capacity", [1, 8, 60, 5_000])
def test_random_use_equals_the_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: int, packed_bytes: int, ttl_ms: int) -> None:
    monkeypatch.setattr(hot_rows, "FLUSHED_ROWS", 7)
    random, users = np.random.default_rng(capacity), 120
    held = Held(tmp_path, capacity, packed_bytes, ttl_ms)
    for step in range(80):
        numbers = np.unique(random.zipf(1.3, random.choice([0, 1, 5, 60])) % users)
        held.use(
            (random.permutation(numbers) + 1).tolist(), int(random.choice([0, 1, 90, 290, 800], p=[0.3, 0.3, 0.25, 0.13, 0.02])), random
        )
        held.in_the_array()
        if step % 5 == 0:
            held.check((random.permutation(users)[: random.integers(users)] + 1).tolist())
        if step % 7 == 0:
            held.flush()
        if step % 29 == 28:
            held.reopen()
            assert held.in_the_array() == set()
            held.check(list(range(1, users + 5)))
    assert len(held.twin) > users / 2
    held.store.close()


@pytest.mark.parametrize("packed_bytes", [0, 1 << 20])
def test_a_batch_larger_than_the_array_has_room(tmp_path: Path, packed_bytes: int) -> None:
    held = Held(tmp_path, 4, packed_bytes)
    for numbers in (range(1, 3), range(1, 200), range(150, 400), range(1, 2)):
        held.use(list(numbers))
    held.reopen()
    held.check(list(range(1, 402)))
    held.store.close()


def test_a_flush_writes_what_changed_alone(tmp_path: Path) -> None:
    held = Held(tmp_path, 50, 1 << 20)
    held.use([1, 2, 3])
    held.use([3, 4])  # 1 and 2 are packed
    held.flush()
    stored = dict(held.store.items(FAMILY))
    assert len(stored) == 4
    batch = held.store.batch()
    batch.delete_many(FAMILY, stored)
    held.store.write(batch)
    held.use([2, 4])
    held.hot.flush()
    assert len(list(held.store.items(FAMILY))) == 2, "those of the last batch"
    held.store.close()


def test_visitors_go_after_the_next_batch_and_regulars_stay(tmp_path: Path) -> None:
    held, regular = Held(tmp_path, 100, 1 << 20), 1
    for visitor in range(2, 40):
        held.use([regular, visitor])
        assert held.in_the_array() == {regular, visitor}
    held.use([regular])
    assert held.in_the_array() == {regular}
    held.use([50, 51])
    held.use([51, 52])
    assert held.in_the_array() == {regular, 51, 52}
    for _ in range(5):
        held.use([regular])
        assert held.in_the_array() == {regular, 51}, "used in two batches running"
    held.check(list(range(1, 60)))
    held.store.close()


@pytest.mark.parametrize("more", [0, 1])
def test_who_comes_back_soon_is_no_visitor(tmp_path: Path, more: int) -> None:
    """Soon is within so many uses of others."""
    held, number, other = Held(tmp_path, 10, 1 << 20), 7, 1
    held.use([number])
    for _ in range(SOON * 10 + more):
        held.use([other])
    assert held.in_the_array() == {other}
    held.use([number])
    for _ in range(3):
        held.use([other])
    assert held.in_the_array() == ({other} if more else {other, number})
    held.store.close()


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    held, capacity = Held(tmp_path, 20, 0), 20
    for number in range(1, 101):
        held.use([number])
        held.use([number])  # no visitor
        assert held.hot.words.shape[0] == capacity
        assert held.in_the_array() >= set(range(max(1, number - capacity + capacity // MADE_FREE), number + 1))
    held.check(list(range(1, 105)))
    held.store.close()
