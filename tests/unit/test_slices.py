"""The slices against sets and counts, a row at a time: in any cut, with save and load in between."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.contender import SEEN_ITEMS, Run
from evaluation.slices import HEAD_ROWS, HEAD_SHARE, HOUR_MS, SLICES, Slicer, head_bar

T0 = 1_700_000_000_000
HOURS = 6.0


class NaiveSlicer:
    """What is true before a row, with sets and counts; then remember it."""

    def __init__(self, hours: float) -> None:
        self.new_ms = hours * HOUR_MS
        self.pairs, self.users, self.first_ms, self.counts, self.least = set(), set(), {}, Counter(), 1

    def slice(self, user: int, item: int, ts_ms: int, engaged: bool) -> tuple[bool, ...]:
        told = (
            (user, item) not in self.pairs,
            user not in self.users,
            item not in self.first_ms or ts_ms < self.first_ms[item] + self.new_ms,
            self.counts[item] >= self.least,
        )
        self.first_ms.setdefault(item, ts_ms)
        if engaged:
            self.pairs.add((user, item))
            self.users.add(user)
            self.counts[item] += 1
            if self.counts.total() % HEAD_ROWS == 0:
                self.least = self.least_of_head()
        return told

    def least_of_head(self) -> int:
        """Of the fewest items that together have half of the events: the count of the least of them."""
        wanted, items = self.counts.total() * HEAD_SHARE, self.counts.most_common()
        return next(count for at, (_, count) in enumerate(items, 1) if sum(count for _, count in items[:at]) >= wanted)


def random_run(seed: int, rows: int, users: int, items: int) -> Run:
    """Ids are numbered in the order of their first event, as an evaluation does; some events are late."""
    random = np.random.default_rng(seed)
    user, item = (_numbered((n * random.random(rows) ** 3).astype(np.int64)) for n in (users, items))
    now_ms = T0 + np.cumsum(random.choice([0, HOUR_MS // 4], rows, p=[0.95, 0.05]))  # some events come just as an item ceases to be new
    ts_ms = now_ms - random.choice([0, 0, 0, 11 * HOUR_MS], rows)
    engaged, seen = random.random(rows) < 0.8, np.full((rows, SEEN_ITEMS), -1, dtype=np.int32)
    return Run(np.arange(rows), ts_ms, user, item, engaged, engaged, seen, int(user.max()) + 1, int(item.max()) + 1)


def _numbered(ids: np.ndarray) -> np.ndarray:
    numbers = {id_: number for number, id_ in enumerate(dict.fromkeys(ids.tolist()))}
    return np.array([numbers[id_] for id_ in ids.tolist()], dtype=np.int32)


def expected(run: Run) -> np.ndarray:
    naive = NaiveSlicer(HOURS)
    rows = zip(run.user.tolist(), run.item.tolist(), run.ts_ms.tolist(), run.engaged.tolist(), strict=True)
    return np.array([naive.slice(*row) for row in rows]).T


def parts(run: Run, cuts: list[int]) -> list[Run]:
    """The run in stretches; users and items are announced no earlier than they come."""
    out = []
    for start, stop in zip([0, *cuts], [*cuts, len(run)], strict=True):
        users, items = (int(ids[:stop].max(initial=-1)) + 1 for ids in (run.user, run.item))
        part = run.part(start, stop)
        out.append(Run(part.position, part.ts_ms, part.user, part.item, part.engaged, part.judged, part.seen, users, items))
    return out


def in_cuts(run: Run, cuts: list[int], reload: bool = False) -> np.ndarray:
    """bool [4, n]; with `reload`, a new slicer goes on with what the one before it saved, at every cut."""
    slicer, out = Slicer(HOURS), []
    for part in parts(run, cuts):
        out.append(slicer.slice(part))
        if reload:
            before, slicer = slicer, Slicer(HOURS)
            slicer.load(before.save())
            before.slice(part)  # what the saved one goes on to do is its own
    return np.concatenate(out, axis=1)


LONG = random_run(1, 4 * HEAD_ROWS, 3_000, 900)
EXPECTED = expected(LONG)


@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 5_000, 5_000, 9_999], list(range(500, len(LONG), 500))], ids=["whole", "uneven", "many"])
@pytest.mark.parametrize("reload", [False, True])
def test_a_long_log_equals_the_naive_twin(cuts: list[int], reload: bool) -> None:
    found = in_cuts(LONG, cuts, reload)
    for at, name in enumerate(SLICES):
        assert found[at].tolist() == EXPECTED[at].tolist(), name
        assert 0.02 < found[at].mean() < 0.98, f"{name} tells rows apart"


def test_the_head_is_narrower_once_it_is_known() -> None:
    """Before the first look every item with an event is in it; then the items that make up half of the events, about."""
    head = in_cuts(LONG, [])[3]
    first = int(np.flatnonzero(np.cumsum(LONG.engaged) == HEAD_ROWS)[0]) + 1
    assert head[:first].mean() > 0.8
    assert abs(head[first:].mean() - HEAD_SHARE) < 0.1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 200), st.integers(1, 30), st.integers(1, 30), st.booleans(), st.data())
def test_any_log_in_any_cut_equals_the_naive_twin(seed: int, rows: int, users: int, items: int, reload: bool, data: st.DataObject) -> None:
    run = random_run(seed, rows, users, items)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    np.testing.assert_array_equal(in_cuts(run, cuts, reload), expected(run))


@pytest.mark.parametrize(("counts", "least"), [([2, 1, 1], 2), ([1, 1, 0, 1, 1], 1), ([0, 9], 9), ([3, 5, 1], 5), ([2, 3, 4], 3), ([0], 1)])
def test_the_head_is_the_fewest_items_that_have_half_of_the_events(counts: list[int], least: int) -> None:
    assert head_bar(np.array(counts), HEAD_SHARE) == least


def test_pairs_are_told_apart_over_the_whole_range_of_numbers() -> None:
    """The key of a pair is one number: neither the halves nor the table's growth may mix them."""
    users, items = np.array([0, 1, 0, 1, 65_536, 1]), np.array([1, 0, 65_536, 65_536, 1, 0])
    rows = users.size
    run = Run(
        np.arange(rows), np.full(rows, T0), users.astype(np.int32), items.astype(np.int32), np.ones(rows, dtype=np.bool_),
        np.ones(rows, dtype=np.bool_), np.full((rows, SEEN_ITEMS), -1, dtype=np.int32), 65_537, 65_537,
    )  # fmt: skip
    assert Slicer().slice(run)[0].tolist() == [True, True, True, True, True, False]
