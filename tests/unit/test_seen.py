"""What lists leave out, as an evaluation tells it: against the serving cache behind the feature stage, and against dicts and lists."""

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.clock import effective_ms
from core.contender import SEEN_ITEMS
from core.hashing import partition_of
from core.schemas import EVENT
from evaluation.seen import NONE, SeenItems
from freshet.testing import Pipeline
from streams import bundled, pipeline

EVENTS, USERS = 900, 6
MONTH_SECONDS = 30 * 86_400
T0 = 1_700_000_000_000


def disturbed(seed: int) -> list[dict[str, Any]]:
    """Of the bundled log, which is in order: few users, late and future events, duplicates, hours without anything; ticks have no type."""
    random, steps, pause_ms = np.random.default_rng(seed), list[dict[str, Any]](), 0
    for row in bundled.events().head(EVENTS).iter_rows(named=True):
        pause_ms += int(random.choice([0, 900_000, 9_000_000], p=[0.99, 0.008, 0.002]))
        odd_ms = int(random.choice([0, -60_000, -7_200_000, 7_200_000], p=[0.8, 0.1, 0.05, 0.05]))
        now_ms = row.pop("ts_ms") + pause_ms
        steps.append(row | {"user_id": str(partition_of(row["user_id"], USERS)), "ts": now_ms + odd_ms})
        if random.random() < 0.05:
            steps.append(steps[int(random.integers(len(steps)))])
        if random.random() < 0.02:
            steps.append({"ts": now_ms + int(random.integers(60_000))})
    return steps


def told(p: Pipeline, steps: list[dict[str, Any]]) -> tuple[list[list[str]], pl.DataFrame]:
    """Before each accepted event what its user's list would leave out; and these events as the learners get them."""
    left_out = []
    for step in steps:
        if "type" not in step:
            p.at(max(step["ts"], p.now_ms))
            continue
        before, accepted = p.seen(step["user_id"]), p.outcomes["accepted"]
        p.feed([(step["user_id"].encode(), msgspec.json.encode(step))])
        left_out += [before] * (p.outcomes["accepted"] - accepted)
    return left_out, p.examples.filter(kind=EVENT)


def arguments(p: Pipeline, events: pl.DataFrame) -> tuple[np.ndarray, ...]:
    """user, item, ts_ms, now_ms, remembered of `SeenItems.before`, as an evaluation makes them."""
    config = pipeline.user_config(p.settings, 0)
    ts_ms, clock_ms = events["ts_ms"].to_numpy(), events["clock_ms"].to_numpy()
    user, item = (_numbered(events[name].to_list()) for name in ("user_id", "item_id"))
    now_ms = np.maximum.accumulate(np.where(clock_ms == 0, ts_ms, clock_ms))
    return (
        user,
        item,
        effective_ms(ts_ms, clock_ms, config.future_seconds * 1_000),
        now_ms,
        events["type"].is_in(config.history_types).to_numpy(),
    )


def _numbered(ids: list[str]) -> np.ndarray:
    numbers = {id_: number for number, id_ in enumerate(dict.fromkeys(ids))}
    return np.array([numbers[id_] for id_ in ids], dtype=np.int32)


def in_cuts(seen: SeenItems, columns: tuple[np.ndarray, ...], cuts: list[int]) -> np.ndarray:
    """int32 [n, SEEN_ITEMS]: `before` of each stretch; no user is announced before the first event."""
    out, users = [], 0
    for rows in np.split(np.arange(columns[0].size), cuts):
        users = max(users, int(columns[0][rows].max(initial=-1)) + 1)
        out.append(seen.before(*(column[rows] for column in columns), users))
    return np.concatenate(out)


@pytest.mark.parametrize("ttl_seconds", [900, 7_200, MONTH_SECONDS])
def test_it_tells_what_the_serving_cache_leaves_out_before_each_event(ttl_seconds: int) -> None:
    with Pipeline(dimensions=8, max_users=8_192, max_items=8_192, user_ttl_seconds=ttl_seconds) as p:
        left_out, events = told(p, disturbed(ttl_seconds))
        columns = arguments(p, events)
        assert min(p.outcomes.values()) > 25, "late, future and repeated events all come"
    names = list(dict.fromkeys(events["item_id"]))
    for cuts in ([], [1, 2, 700]):
        found = in_cuts(SeenItems(ttl_seconds * 1_000), columns, cuts)
        assert [[names[at] for at in row if at != NONE] for row in found.tolist()] == left_out
    if ttl_seconds == MONTH_SECONDS:
        assert max(map(len, left_out)) == SEEN_ITEMS, "some have all they can have"
    else:
        assert shrinks(events["user_id"].to_list(), left_out) > 5, "some expire and begin anew"


def shrinks(users: list[str], left_out: list[list[str]]) -> int:
    """How often a user has fewer items than before the last event."""
    last, count = dict[str, int](), 0
    for user, items in zip(users, left_out, strict=True):
        count += len(items) < last.get(user, 0)
        last[user] = len(items)
    return count


class NaiveSeen:
    """One event at a time, with lists. A user who expired is forgotten, but what was shown last stays until there is something new."""

    def __init__(self, ttl_ms: int) -> None:
        self.ttl_ms, self.sights, self.shown, self.used_ms = ttl_ms, {}, {}, {}

    def before(self, user: int, item: int, ts_ms: int, now_ms: int, remembered: bool) -> list[int]:
        told = self.shown.get(user, [])
        if now_ms - self.used_ms.get(user, 0) >= self.ttl_ms:
            self.sights[user] = []
        self.used_ms[user] = now_ms
        if remembered:
            self.sights[user] = self._with(self.sights[user], item, ts_ms)
            self.shown[user] = [item for _, item in self.sights[user]]
        return told + [NONE] * (SEEN_ITEMS - len(told))

    def _with(self, sights: list[tuple[int, int]], item: int, ts_ms: int) -> list[tuple[int, int]]:
        """(time, item), newest first; of equal times the later row first; each item at its newest sight."""
        newest: dict[int, int] = {}
        for at_ms, held in sorted([(ts_ms, item), *sights], key=lambda sight: -sight[0]):  # a stable sort
            newest.setdefault(held, at_ms)
        return [(at_ms, held) for held, at_ms in newest.items()][:SEEN_ITEMS]


def random_columns(random: np.random.Generator, rows: int, users: int, items: int, pause_ms: int) -> tuple[np.ndarray, ...]:
    now_ms = T0 + np.cumsum(random.choice([0, 1, pause_ms], rows))
    ts_ms = now_ms - random.choice([0, 0, 0, 1, 500_000], rows)
    user, item = random.integers(0, users, rows, dtype=np.int32), random.integers(0, items, rows, dtype=np.int32)
    return user, item, ts_ms, now_ms, random.random(rows) < 0.7


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.integers(1, 400),
    st.integers(1, 5),
    st.sampled_from([3, 28, 200]),
    st.sampled_from([2, 10_000, 100_000, 300_000]),
)
def test_any_events_in_any_cut_equal_the_naive_twin(seed: int, rows: int, users: int, items: int, pause_ms: int) -> None:
    random = np.random.default_rng(seed)
    columns, ttl_ms = random_columns(random, rows, users, items, pause_ms), 300_000
    naive = NaiveSeen(ttl_ms)
    expected = [naive.before(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    cuts = sorted(random.integers(0, rows + 1, 3).tolist())
    assert in_cuts(SeenItems(ttl_ms), columns, cuts).tolist() == expected


@pytest.mark.parametrize("at", [0, 1, 350, 900])
def test_a_loaded_one_goes_on_as_the_saved_one_does(at: int) -> None:
    columns = random_columns(np.random.default_rng(at), 1_000, 9, 60, 30_000)
    whole, again = SeenItems(300_000), SeenItems(300_000)
    head, rest = (tuple(column[rows] for column in columns) for rows in (slice(at), slice(at, None)))
    in_cuts(whole, head, [])
    again.load(whole.save())
    expected = whole.before(*rest, 9)
    assert again.before(*rest, 9).tolist() == expected.tolist(), "the loaded one has arrays of its own"
    assert (expected != NONE).any()
