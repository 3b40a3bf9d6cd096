"""The map of fingerprints against a model that keeps them in a list, least recently used first, and against the map of ids."""

from pathlib import Path

import numpy as np
import pytest

from core.errors import SettingsError
from core.fingerprint_map import FingerprintMap
from core.hashing import fingerprints
from core.ids import SEGMENT_ROWS, IdMap
from tests.snapshots import save

CAPACITY = 8 * SEGMENT_ROWS
RESERVE = 2 * SEGMENT_ROWS
Key = tuple[int, int]


class ListModel:
    """Keys in order of last use, and the row of each."""

    def __init__(self) -> None:
        self.used: list[Key] = []
        self.rows: dict[Key, int] = {}

    def touch(self, key: Key, row: int) -> None:
        if key in self.used:
            self.used.remove(key)
        else:
            assert row not in self.rows.values()
        self.used.append(key)
        assert self.rows.setdefault(key, row) == row

    def evict(self) -> list[int]:
        room = CAPACITY - len(self.used)
        gone = self.used[: RESERVE - room] if room < RESERVE else []
        self.used = self.used[len(gone) :]
        return [self.rows.pop(key) for key in gone]


def texts(count: int, seed: int) -> list[list[str]]:
    """Ids of `count` segments, few of them often and many of them once."""
    rng = np.random.Generator(np.random.Philox(seed))
    return [[f"i{k}" for k in rng.zipf(1.15, RESERVE) % 20_000] for _ in range(count)]


def keys_of(ids: list[str]) -> np.ndarray:
    return fingerprints(ids).view(np.int64)


def crowded(count: int, seed: int) -> list[np.ndarray]:
    """Keys of segments that have few hashes, at the start and at the end of the table, and often one of two numbers in common."""
    rng = np.random.default_rng(seed)
    highs = np.array([0, 1, -1, -2, (1 << 31) - 1, 1 << 31, -(1 << 63)])
    return [np.stack([rng.choice(highs, RESERVE), rng.zipf(1.15, RESERVE) % 3_000], axis=1) for _ in range(count)]


def reopened(held: FingerprintMap, path: Path) -> FingerprintMap:
    save(held, path)
    other = FingerprintMap(CAPACITY)
    other.restore(path)
    assert other.digest() == held.digest()
    return other


@pytest.mark.parametrize("spread", [True, False])
def test_map_equals_the_model_over_evictions_and_restores(tmp_path: Path, spread: bool) -> None:
    segments = [keys_of(ids) for ids in texts(12, 1)] if spread else crowded(12, 1)
    held, model, evicted = FingerprintMap(CAPACITY), ListModel(), 0
    for number, keys in enumerate(segments):
        rows = held.admit(keys)
        for key, row in zip(map(tuple, keys.tolist()), rows.tolist(), strict=True):
            model.touch(key, row)
        gone = held.evict()
        assert gone == model.evict()
        evicted += len(gone)
        check_same_keys(held, model)
        if number % 3 == 0:
            held = reopened(held, tmp_path / "map")
    assert evicted > RESERVE
    assert held.lookup(segments[0]).min() == -1, "some went for good"


def check_same_keys(held: FingerprintMap, model: ListModel) -> None:
    rows = held.lookup(np.array(model.used)).tolist()
    assert rows == [model.rows[key] for key in model.used]
    assert len(held) == len(model.used) == len(set(rows))
    assert 0 <= min(rows) <= max(rows) < CAPACITY


def test_rows_are_those_of_the_map_of_ids(tmp_path: Path) -> None:
    held, ids = FingerprintMap(CAPACITY), IdMap(CAPACITY)
    for number, segment in enumerate(texts(12, 3)):
        np.testing.assert_array_equal(held.admit(keys_of(segment)), ids.admit(segment))
        assert held.evict() == [row for _, row in ids.evict()]
        np.testing.assert_array_equal(held.lookup(keys_of(segment)), ids.lookup(segment))
        if number % 5 == 4:
            held = reopened(held, tmp_path / "map")
    assert len(held) == len(ids)


def test_what_came_and_what_went_is_counted() -> None:
    held, gone = FingerprintMap(CAPACITY), 0
    for segment in texts(12, 2):
        held.admit(keys_of(segment))
        gone += len(held.evict())
    assert held.evicted == gone > 0
    assert held.admitted == len(held) + gone


def test_rows_do_not_depend_on_the_cut_or_on_a_restore(tmp_path: Path) -> None:
    whole, cut = FingerprintMap(CAPACITY), FingerprintMap(CAPACITY)
    for segment in texts(8, 2):
        keys = keys_of(segment)
        expected = whole.admit(keys)
        rows = [cut.admit(part) for part in (keys[:1], keys[1:100], keys[:0], keys[100:])]
        np.testing.assert_array_equal(np.concatenate(rows), expected)
        assert whole.evict() == cut.evict()
        cut = reopened(cut, tmp_path / "map")
    assert whole.digest() == cut.digest()


def test_lookup_changes_nothing() -> None:
    held = FingerprintMap(CAPACITY)
    held.admit(keys_of(["a", "b"]))
    before = held.digest()
    assert held.lookup(keys_of(["b", "never", "a", "b"])).tolist() == [1, -1, 0, 1]
    assert held.digest() == before
    none = held.lookup(keys_of([]))
    assert none.dtype == np.int32
    assert none.size == 0


def test_a_key_that_comes_twice_in_a_segment_has_one_row() -> None:
    held = FingerprintMap(CAPACITY)
    assert held.admit(keys_of(["a", "b", "a", "c", "b"])).tolist() == [0, 1, 0, 2, 1]
    assert held.admit(keys_of(["d", "a", "d"])).tolist() == [3, 0, 3]
    assert len(held) == held.admitted == 4


def test_keys_that_share_one_of_their_two_numbers_are_two() -> None:
    held, keys = FingerprintMap(CAPACITY), np.array([[1, 2], [1, 3], [2, 2], [1 + (1 << 31), 2], [0, 0], [-1, 2]])
    assert held.lookup(keys).tolist() == [-1] * 6
    assert held.admit(keys).tolist() == [0, 1, 2, 3, 4, 5]
    assert held.lookup(keys[::-1]).tolist() == [5, 4, 3, 2, 1, 0]


def test_order_of_last_use_is_part_of_the_state() -> None:
    one, other = FingerprintMap(CAPACITY), FingerprintMap(CAPACITY)
    one.admit(keys_of(["a", "b"]))
    other.admit(keys_of(["a", "b", "a"]))
    assert one.lookup(keys_of(["a", "b"])).tolist() == other.lookup(keys_of(["a", "b"])).tolist()
    assert one.digest() != other.digest()


def test_a_map_without_keys_comes_back_and_goes_on(tmp_path: Path) -> None:
    held = reopened(FingerprintMap(CAPACITY), tmp_path / "map")
    assert (len(held), held.evict(), held.admit(keys_of(["a"])).tolist()) == (0, [], [0])


def test_a_table_too_small_says_so() -> None:
    with pytest.raises(SettingsError, match="at least"):
        FingerprintMap(100)
    held = FingerprintMap(CAPACITY)
    with pytest.raises(SettingsError, match="capacity"):
        held.admit(keys_of([f"i{k}" for k in range(CAPACITY + 1)]))
