"""Which events repeat, against a dict that keeps every id for ever: whatever the cuts, and wherever the ids lie by then."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import duplicates
from features.duplicates import FAMILY, Duplicates
from features.store import StateStore

CACHE_BYTES = 8 << 20
HORIZON_MS = 1_000
T0 = 1_700_000_000_000
Event = tuple[str, str | None, int]  # user, event id, time


class Twin:
    """When each id of a user was last accepted."""

    def __init__(self) -> None:
        self.accepted: dict[tuple[str, str], int] = {}

    def repeats(self, user: str, event_id: str | None, now_ms: int) -> bool:
        if event_id is None:
            return False
        last_ms = self.accepted.get((user, event_id))
        if last_ms is not None and now_ms - last_ms < HORIZON_MS:
            return True
        self.accepted[user, event_id] = now_ms
        return False

    def live(self, now_ms: int) -> list[int]:
        return sorted(ms for ms in self.accepted.values() if now_ms - ms < HORIZON_MS)


class Stage:
    """As the user stage uses it."""

    def __init__(self, path: Path) -> None:
        self._path, self._saves, self._now_ms = path, 0, 0
        self._open(StateStore.empty(path / "store", (FAMILY,), CACHE_BYTES))

    def _open(self, store: StateStore) -> None:
        self._store, self._duplicates = store, Duplicates(store, HORIZON_MS)

    def apply(self, events: Sequence[Event]) -> list[bool]:
        now_ms, before_ms = np.array([ms for _, _, ms in events], dtype=np.int64), self._now_ms
        self._now_ms = int(now_ms.max(initial=before_ms))
        repeats = self._duplicates.mark([user for user, _, _ in events], [id_ for _, id_, _ in events], now_ms, before_ms)
        self._duplicates.trim()
        self._duplicates.rows.drop_expired(before_ms, self._now_ms)
        told: list[bool] = repeats.tolist()
        return told

    def flush(self) -> None:
        self._duplicates.flush()

    def reopen(self) -> None:
        """As after a checkpoint and a restart."""
        self.flush()
        self._saves += 1
        checkpoint = self._path / f"checkpoint-{self._saves}"
        self._store.checkpoint(checkpoint)
        self._store.close()
        self._open(StateStore.from_checkpoint(checkpoint, self._path / "store", (FAMILY,), CACHE_BYTES))

    def live(self) -> list[int]:
        """Times of the unexpired ids in the store."""
        return sorted(int.from_bytes(value, "little") for _, value in self._duplicates.rows.live(self._now_ms))

    def stored(self) -> int:
        return sum(1 for _ in self._store.items(FAMILY))

    def close(self) -> None:
        self._store.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def random_events(seed: int, count: int, ids: int) -> list[Event]:
    """Of few users, often at one time, now and then hours apart, and at the horizon to the millisecond."""
    random = np.random.default_rng(seed)
    passed = random.choice([0, 1, 20, HORIZON_MS - 1, HORIZON_MS, 7 * HORIZON_MS], count, p=[0.4, 0.4, 0.185, 0.005, 0.005, 0.005])
    times, numbers = (T0 + np.cumsum(passed)).tolist(), random.integers(ids, size=(count, 2)).tolist()
    return [(f"u{user % 3}", f"e{id_}" if id_ else None, ms) for (user, id_), ms in zip(numbers, times, strict=True)]


def expected(events: Sequence[Event]) -> tuple[list[bool], Twin]:
    twin = Twin()
    return [twin.repeats(*event) for event in events], twin


@pytest.mark.parametrize("recent_ids", [1, 2, 16, 1 << 16])
@pytest.mark.parametrize("ids", [4, 300])
def test_random_events_equal_the_dict_in_any_cut(stage: Stage, monkeypatch: pytest.MonkeyPatch, recent_ids: int, ids: int) -> None:
    monkeypatch.setattr(duplicates, "RECENT_IDS", recent_ids)
    stage.reopen()
    events = random_events(ids, 3_000, ids)
    told, twin = expected(events)
    assert 100 < sum(told) < 2_900
    random, found, start = np.random.default_rng(recent_ids), list[bool](), 0
    while start < len(events):
        size = int(random.choice([0, 1, 2, 40, 500]))
        found += stage.apply(events[start : start + size])
        start += size
        if (what := random.random()) < 0.1:
            stage.flush()
        elif what < 0.12:
            stage.reopen()
    assert found == told
    stage.flush()
    assert stage.live() == twin.live(events[-1][2])


passed_ms = st.sampled_from([0, 1, HORIZON_MS // 2, HORIZON_MS - 1, HORIZON_MS, HORIZON_MS + 1, 2 * HORIZON_MS - 1, 5 * HORIZON_MS])
any_rows = st.lists(st.tuples(st.sampled_from(["u", "ü"]), st.sampled_from([None, "", "a", "b", "é"]), passed_ms), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(any_rows, st.data(), st.integers(1, 4), st.integers(0, 2 * HORIZON_MS))
def test_any_events_equal_the_dict(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str | None, int]], data: st.DataObject, recent_ids: int, first_ms: int
) -> None:
    """Also where time starts near zero."""
    times = (1 + first_ms + np.cumsum([passed for _, _, passed in rows])).tolist()
    events = [(user, event_id, ms) for (user, event_id, _), ms in zip(rows, times, strict=True)]
    told, twin = expected(events)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6))), len(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "RECENT_IDS", recent_ids)
        stage, found = Stage(tmp_path_factory.mktemp("duplicates")), list[bool]()
        for start, end in pairwise(cuts):
            found += stage.apply(events[start:end])
            if data.draw(st.booleans()):
                stage.flush()
        stage.flush()
        assert found == told
        assert stage.live() == twin.live(times[-1])
        stage.close()


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize(("passed", "repeats"), [(0, True), (HORIZON_MS - 1, True), (HORIZON_MS, False), (20 * HORIZON_MS, False)])
def test_an_id_counts_again_a_horizon_later(stage: Stage, flushed: bool, passed: int, repeats: bool) -> None:
    """Wherever in a generation of the store it was seen first."""
    for number in range(20):
        first_ms = T0 + number * (41 * HORIZON_MS + HORIZON_MS // 20)
        assert stage.apply([("u", f"{number}", first_ms)]) == [False]
        if flushed:
            stage.flush()
        assert stage.apply([("u", "other", first_ms + passed), ("u", f"{number}", first_ms + passed)]) == [False, repeats]


def test_times_stay_with_their_ids_where_a_batch_needs_a_larger_table(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "RECENT_IDS", 64)
    stage.reopen()
    for at in range(20):
        stage.apply([("u", f"{at}", T0 + at * 10)])
    stage.apply([("u", f"new {n}", T0 + 500) for n in range(200)])
    later_ms = T0 + 100 + HORIZON_MS
    assert stage.apply([("u", f"{at}", later_ms) for at in range(20)]) == [at > 10 for at in range(20)]


def test_users_do_not_share_their_ids(stage: Stage) -> None:
    """Nor is one taken for another whose name and id make the same text."""
    events = [(user, event_id, T0) for user, event_id in (("a", "bc"), ("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("b", "bc"))]
    assert stage.apply(events) == [False, False, True, False, False, False]


def test_rows_without_an_id_are_never_repeats(stage: Stage) -> None:
    assert stage.apply([("u", None, T0)] * 3) == [False] * 3
    assert stage.apply([]) == []
    stage.flush()
    assert stage.stored() == 0


def test_ids_in_memory_reach_the_store_when_they_are_many(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "RECENT_IDS", 10)
    stage.reopen()
    stage.apply([("u", f"{n}", T0) for n in range(9)])
    assert stage.stored() == 0
    assert stage.apply([("u", f"{n}", T0) for n in range(500)]) == [n < 9 for n in range(500)]
    assert stage.stored() == 500
    assert stage.apply([("u", f"{n}", T0) for n in range(501)]) == [True] * 500 + [False]


def test_old_ids_leave_the_store(stage: Stage) -> None:
    for generation in range(20):
        stage.apply([("u", f"{generation} {n}", T0 + generation * HORIZON_MS) for n in range(50)])
        stage.flush()
        assert stage.stored() <= 2 * 50
