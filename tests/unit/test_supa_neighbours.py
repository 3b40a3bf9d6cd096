"""What nodes remember of each other against dicts, and lists that keep the order of entries."""

import numpy as np
import pytest
from supa_reference import MOST_MEETINGS, START_MS, Entry, remember

from learners.supa import neighbours
from learners.supa.neighbours import Neighbours, below, entry_of, forget

ROWS, SIZE = 9, 4
Known = dict[int, tuple[int, int, int]]  # neighbour -> relation, ts_ms, meetings


def empty(rows: int = ROWS, size: int = SIZE) -> Neighbours:
    wide = {"row": np.int32, "neighbour_generation": np.int32, "relation": np.uint8, "meetings": np.uint16, "ts_ms": np.int64}
    arrays = {name: np.zeros((rows, size), dtype) for name, dtype in wide.items()}
    return Neighbours(**arrays, held=np.zeros(rows, np.int32), generation=np.zeros(rows, np.int32))


def entries(of: Neighbours, row: int) -> list[Entry]:
    """Those of a row, in order."""
    arrays = (of.row, of.relation, of.ts_ms, of.meetings)
    told = zip(*(array[row, : of.held[row]].tolist() for array in arrays), strict=True)
    gone = (of.neighbour_generation[row] != of.generation[of.row[row]]).tolist()
    return [Entry(*one, gone=gone[at]) for at, one in enumerate(told)]


def known(of: Neighbours, row: int) -> Known:
    return {entry.row: (entry.relation, entry.ts_ms, entry.meetings) for entry in entries(of, row) if not entry.gone}


def free(of: Neighbours, row: int) -> None:
    """As the graph does."""
    for array in of[:-1]:
        array[row] = 0
    of.generation[row] += 1


def test_where_all_fit_a_node_knows_everyone_it_met() -> None:
    """The relation is the last edge's in the log, the time the latest."""
    random, of, twin = np.random.default_rng(0), empty(3, 40), dict[int, dict[int, tuple[int, int, int]]]()
    for k in range(600):
        row, met, relation, ts_ms = int(random.integers(2)), int(random.integers(3)), int(random.integers(3)), int(k + random.integers(30))
        neighbours.remember(of, row, met, relation, ts_ms)
        _, latest, count = twin.setdefault(row, {}).get(met, (0, ts_ms, 0))
        twin[row][met] = (relation, max(latest, ts_ms), count + 1)
        assert known(of, row) == twin[row]


def test_the_longest_unmet_makes_room() -> None:
    of = empty()
    for met, ts_ms in ((1, 50), (2, 20), (3, 30), (4, 40), (2, 60), (2, 5)):
        neighbours.remember(of, 0, met, 1, START_MS + ts_ms)
    neighbours.remember(of, 0, 5, 0, START_MS + 70)
    assert known(of, 0).keys() == {1, 2, 4, 5}, "3 was met at 30, 2 again at 60"
    assert known(of, 0)[5] == (0, START_MS + 70, 1) and known(of, 0)[2] == (1, START_MS + 60, 3)
    neighbours.remember(of, 0, 3, 0, START_MS + 80)
    assert known(of, 0)[3][2] == 1, "who comes back is new"


def test_one_that_comes_late_to_a_full_list_is_noted_and_is_the_next_to_go() -> None:
    of = empty()
    for met in (1, 2, 3, 4):
        neighbours.remember(of, 0, met, 0, START_MS + met)
    neighbours.remember(of, 0, 5, 0, START_MS - 9)
    assert known(of, 0).keys() == {2, 3, 4, 5} and known(of, 0)[5][1] == START_MS - 9
    neighbours.remember(of, 0, 6, 0, START_MS + 6)
    assert known(of, 0).keys() == {2, 3, 4, 6}


@pytest.mark.parametrize("seed", range(4))
def test_edges_removals_and_freed_rows_against_lists(seed: int) -> None:
    random, of, twin = np.random.default_rng(seed), empty(), [list[Entry]() for _ in range(ROWS)]
    forgotten = 0
    for k in range(1500):
        row, met, relation, ts_ms = int(random.integers(ROWS)), int(random.integers(ROWS)), k % 3, START_MS + k - int(random.integers(20))
        match random.choice(["meet", "forget", "free"], p=[0.8, 0.14, 0.06]):
            case "meet":
                neighbours.remember(of, row, met, relation, ts_ms)
                remember(twin[row], met, relation, ts_ms, SIZE)
            case "forget":
                forgotten += drop_same(of, twin[row], row, met)
            case _:
                free(of, met)
                twin[met] = []
                for entry in (entry for one in twin for entry in one if entry.row == met):
                    entry.gone = True
        assert [entries(of, row) for row in range(ROWS)] == twin
        found = [entry.row for entry in twin[row]].index(met) if any(e.row == met and not e.gone for e in twin[row]) else -1
        assert entry_of(of, row, met) == found
    assert forgotten > 20


def drop_same(of: Neighbours, twin: list[Entry], row: int, met: int) -> bool:
    """Forget in both; whether there was something to forget. The last entry takes the place."""
    at = [k for k, entry in enumerate(twin) if entry.row == met and not entry.gone]
    assert forget(of, row, met) == bool(at)
    if at:
        twin[at[0]] = twin[-1]
        twin.pop()
    return bool(at)


def test_of_what_was_forgotten_nothing_is_left() -> None:
    """Rows with the same entries have the same bytes."""
    of, other = empty(), empty()
    for met in (1, 2, 3):
        neighbours.remember(of, 0, met, 2, START_MS + met)
    for met in (3, 2):
        neighbours.remember(other, 0, met, 2, START_MS + met)
    forget(of, 0, 1)
    assert all(np.array_equal(one, two) for one, two in zip(of, other, strict=True))
    assert forget(of, 0, 3) and forget(of, 0, 2) and not forget(of, 0, 2)
    assert not any(array.any() for array in of)


def test_a_row_given_to_another_is_a_stranger() -> None:
    of = empty()
    for _ in range(3):
        neighbours.remember(of, 0, 1, 0, START_MS + 9)
    free(of, 1)
    assert entry_of(of, 0, 1) == -1 and not forget(of, 0, 1) and of.held[0] == 1
    neighbours.remember(of, 0, 1, 2, START_MS + 3)
    assert known(of, 0) == {1: (2, START_MS + 3, 1)}, "neither the count nor the time of the one before"


def test_meetings_are_counted_up_to_what_two_bytes_hold() -> None:
    of = empty()
    neighbours.remember(of, 0, 1, 0, START_MS)
    of.meetings[0, 0] = MOST_MEETINGS - 1
    for _ in range(3):
        neighbours.remember(of, 0, 1, 0, START_MS)
        assert known(of, 0)[1][2] == MOST_MEETINGS


def test_numbers_below_a_bound_are_the_upper_part_of_each_half() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 500, np.uint64)
    halves = [int(word) >> shift & 0xFFFFFFFF for word in words for shift in (0, 32)]
    for bound in (1, 3, 1000, 2**31):
        assert [below(words, k, bound) for k in range(1000)] == [half * bound >> 32 for half in halves]
