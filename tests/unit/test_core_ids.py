"""The id map against a model that keeps its ids in a list, least recently used first."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from core.errors import SettingsError
from core.ids import SEGMENT_ROWS, IdMap
from tests.snapshots import save

CAPACITY = 8 * SEGMENT_ROWS
RESERVE = 2 * SEGMENT_ROWS


class ListModel:
    """Ids in order of last use."""

    def __init__(self) -> None:
        self.used: list[str] = []
        self.uses: dict[str, int] = {}  # of all ids, up to the last of each
        self.count = 0

    def touch(self, id_: str) -> None:
        self.count += 1
        self.uses[id_] = self.count
        if id_ in self.used:
            self.used.remove(id_)
        self.used.append(id_)

    def evict(self, credit: dict[str, int] | None = None) -> list[str]:
        """`credit`: uses by which an id counts as used later than it was."""
        room = CAPACITY - len(self.used)
        order = sorted(self.used, key=lambda id_: self.uses[id_] + (credit or {}).get(id_, 0))
        gone = order[: RESERVE - room] if room < RESERVE else []
        self.used = [id_ for id_ in self.used if id_ not in set(gone)]
        return gone


def segments(count: int, seed: int) -> list[list[str]]:
    """Ids of `count` segments, few of them often and many of them once."""
    rng = np.random.Generator(np.random.Philox(seed))
    return [[f"i{k}" for k in rng.zipf(1.15, RESERVE) % 20_000] for _ in range(count)]


def test_map_equals_the_model_over_evictions_and_restores(tmp_path: Path) -> None:
    ids, model, evicted = IdMap(CAPACITY), ListModel(), 0
    for number, segment in enumerate(segments(12, 1)):
        rows = ids.admit(segment)
        for id_ in segment:
            model.touch(id_)
        assert [ids.ids[row] for row in rows] == segment
        gone = ids.evict()
        assert [id_ for id_, _ in gone] == model.evict()
        assert all(ids.ids[row] is None for _, row in gone)
        evicted += len(gone)
        check_same_ids(ids, model)
        if number % 3 == 0:
            ids = reopened(ids, tmp_path / "ids")
    assert evicted > RESERVE


def credit_of(ids: IdMap, of: dict[str, int]) -> np.ndarray:
    """int64 [size], of each row."""
    return np.array([of.get(str(id_), 0) for id_ in ids.ids], np.int64)


def test_an_id_with_credit_counts_as_used_later(tmp_path: Path) -> None:
    """Some ids are worth thousands of uses."""
    ids, model, plain = IdMap(CAPACITY), ListModel(), IdMap(CAPACITY)
    worth = {f"i{k}": (k % 7) * 700 for k in range(20_000)}
    for number, segment in enumerate(segments(12, 3)):
        ids.admit(segment)
        plain.admit(segment)
        for id_ in segment:
            model.touch(id_)
        assert [id_ for id_, _ in ids.evict(partial(credit_of, ids, worth))] == model.evict(worth)
        plain.evict()
        check_same_ids(ids, model)
        if number % 3 == 0:
            ids = reopened(ids, tmp_path / "ids")
    assert plain.evicted > RESERVE and set(filter(None, ids.ids)) != set(filter(None, plain.ids))


def test_credit_of_nothing_changes_nothing() -> None:
    ids, with_ = IdMap(CAPACITY), IdMap(CAPACITY)
    for segment in segments(8, 4):
        ids.admit(segment)
        with_.admit(segment)
        assert ids.evict() == with_.evict(lambda: np.zeros(with_.size, np.int64))
    assert ids.digest() == with_.digest()


def test_credit_is_asked_for_only_where_rows_must_go() -> None:
    """It may cost as much as there are rows, and most segments evict nobody."""
    ids, asked = IdMap(CAPACITY), list[int]()

    def credit() -> np.ndarray:
        asked.append(ids.size)
        return np.zeros(ids.size, np.int64)

    for number, segment in enumerate(segments(12, 3)):
        ids.admit(segment)
        before = len(asked)
        assert bool(ids.evict(credit)) == (len(asked) > before), number
    assert 0 < len(asked) < 12


def test_of_equal_counts_the_one_used_first_goes_first() -> None:
    """Numbers of rows do not matter: "b" has the lower one and was used last."""
    ids = IdMap(CAPACITY)
    ids.admit(["b", "a", "c", *(f"i{k}" for k in range(CAPACITY - RESERVE))])
    ids.admit(["b"])
    uses = CAPACITY - RESERVE + 4
    credit = np.full(ids.size, 10 * uses)
    credit[:3] = 0, uses - 2, 5 * uses  # "a" was use 2
    assert [id_ for id_, _ in ids.evict(lambda: credit)] == ["a", "b", "c"]


def test_what_came_and_what_went_is_counted() -> None:
    ids, gone = IdMap(CAPACITY), 0
    for segment in segments(12, 2):
        ids.admit(segment)
        gone += len(ids.evict())
    assert ids.evicted == gone > 0
    assert ids.admitted == len(ids) + gone
    ids.admit(["new", "new"])
    ids.remove("new")  # a removal makes no room that was needed
    assert (ids.admitted, ids.evicted) == (len(ids) + gone + 1, gone)


def check_same_ids(ids: IdMap, model: ListModel) -> None:
    rows = ids.lookup(model.used).tolist()
    assert len(ids) == len(model.used) == len(set(rows))
    assert min(rows) >= 0
    assert max(rows) < CAPACITY


def reopened(ids: IdMap, path: Path) -> IdMap:
    save(ids, path)
    other = IdMap(CAPACITY)
    other.restore(path)
    assert other.digest() == ids.digest()
    return other


def test_rows_do_not_depend_on_the_cut_or_on_a_restore(tmp_path: Path) -> None:
    whole, cut = IdMap(CAPACITY), IdMap(CAPACITY)
    for segment in segments(8, 2):
        expected = whole.admit(segment)
        rows = [cut.admit(segment[:100]), cut.admit([]), cut.admit(segment[100:])]
        np.testing.assert_array_equal(np.concatenate(rows), expected)
        assert whole.evict() == cut.evict()
        cut = reopened(cut, tmp_path / "ids")
    assert whole.digest() == cut.digest()


def test_lookup_changes_nothing() -> None:
    ids = IdMap(CAPACITY)
    ids.admit(["a", "b"])
    before = ids.digest()
    assert ids.lookup(["b", "never", "a"]).tolist() == [1, -1, 0]
    assert ids.digest() == before
    assert ids.lookup([]).dtype == np.int32


def test_order_of_last_use_is_part_of_the_state() -> None:
    one, other = IdMap(CAPACITY), IdMap(CAPACITY)
    one.admit(["a", "b"])
    other.admit(["a", "b", "a"])
    assert one.lookup(["a", "b"]).tolist() == other.lookup(["a", "b"]).tolist()
    assert one.digest() != other.digest()


def test_a_removed_id_frees_its_row() -> None:
    ids = IdMap(CAPACITY)
    ids.admit(["a", "b"])
    assert ids.remove("a") == 0
    assert ids.remove("a") == -1
    assert ids.admit(["c"]).tolist() == [0]
    assert ids.lookup(["a"]).tolist() == [-1]


def test_a_table_too_small_says_so() -> None:
    with pytest.raises(SettingsError, match="at least"):
        IdMap(100)
    ids = IdMap(CAPACITY)
    with pytest.raises(SettingsError, match="capacity"):
        ids.admit(f"i{k}" for k in range(CAPACITY + 1))
