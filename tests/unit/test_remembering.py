"""The serving cache tells the learner's memory-aware score, to the bit, and ranks personal lists by it."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl
import pytest
from supa_logs import SMALL, examples, feed, mixed

from core.composite import CompositeStage
from core.errors import FreshetError
from core.schemas import DELTA_BASE
from core.stage import Publication
from learners import remembering
from learners.cache import ParameterCache
from learners.recommend import RETRIEVED, CacheConfig
from learners.supa import SupaConfig, SupaLearner
from learners.supa.excerpt import record_type
from learners.supa.pairs import FEATURES

CONFIG = replace(SMALL, memory_every=2, ring_size=6)
MIXED = mixed(900)
ENDLESS = mixed(9_000, users=4_000, items=3_000)  # tables have 2,048 rows


class Served:
    """A learner, and the cache that is told of it."""

    def __init__(self, config: SupaConfig, cache: CacheConfig | None = None) -> None:
        self.learner, self.cache = SupaLearner(config), ParameterCache(cache)
        self.stage = CompositeStage([self.learner], 1)

    def learn(self, rows: pl.DataFrame) -> None:
        feed(self.stage, rows)
        if (publication := self.stage.publish()) is not None:
            self.cache.apply("learner", publication)

    def score(self, user: str, items: Sequence[str]) -> np.ndarray:
        """Of the learner, not rounded."""
        row = int(self.learner.users.lookup([user])[0])
        return self.learner.graph.memory_scores(row, self.learner.items.lookup(items), self.learner.newest_ms)

    def check(self, users: Sequence[str], items: Sequence[str]) -> int:
        """Every pair has the learner's score; how many have one."""
        known = 0
        for user in users:
            ours = self.cache.score(user, items)
            assert ours.tobytes() == self.score(user, items).tobytes(), user
            assert ours.astype(np.float32).tobytes() == self.learner.score(user, items).tobytes(), user
            known += int(np.count_nonzero(~np.isnan(ours)))
        return known

    @property
    def users(self) -> list[str]:
        return [id_ for id_ in self.learner.users.ids.ids if id_]

    @property
    def items(self) -> list[str]:
        return [id_ for id_ in self.learner.items.ids.ids if id_]


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, ring_size=2), replace(CONFIG, undo_types=("hate",)), replace(CONFIG, passes=2)])
def test_the_cache_scores_as_the_learner_does(config: SupaConfig) -> None:
    served = Served(config)
    for start in range(0, MIXED.height, 60):
        served.learn(MIXED[start : start + 60])
        assert served.check(served.users, [*served.items, "nothing"])
    assert np.isnan(served.cache.score("nobody", served.items)).all()


def test_the_cache_scores_as_the_learner_does_after_rows_went_to_others() -> None:
    served, step = Served(CONFIG), 600
    for start in range(0, ENDLESS.height, step):
        served.learn(ENDLESS[start : start + step])
        assert served.check(served.users[:: len(served.users) // 20], served.items)
    assert served.learner.users.ids.evicted and served.learner.items.ids.evicted


def test_the_order_of_what_was_met_at_once_is_the_learners() -> None:
    served = Served(replace(CONFIG, ring_size=20))
    rows = examples([("click", f"u{n % 7}", f"i{n * 5 % 23}") for n in range(120)])
    served.learn(rows.with_columns(ts_ms=pl.lit(rows["ts_ms"][-1])))  # more than `STEPS` neighbours, none of them the newest
    assert served.check(served.users, served.items) == 7 * 23


def test_a_personal_list_is_ranked_by_memory() -> None:
    served = Served(CONFIG, CacheConfig(seen_items=0, similar_items=0))
    served.learn(MIXED)
    items = served.items
    assert len(items) < RETRIEVED, "all are found, so the list is that of all"
    for user in served.users:
        scores = served.score(user, items).tolist()
        best = sorted(zip([-score for score in scores], items, strict=True))[:10]
        listed = served.cache.recommend(user, 10, ["personal"]).items
        assert [(item.score, item.item_id) for item in listed] == [(-negated, item) for negated, item in best]


def test_a_personal_list_has_what_is_near_though_the_vectors_speak_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.recommend.RETRIEVED", 1)
    served = Served(replace(CONFIG, ring_size=4), CacheConfig(seen_items=0, similar_items=0))
    served.learn(MIXED)
    graph, found = served.learner.graph, 0
    for user, row in zip(served.users, served.learner.users.lookup(served.users).tolist(), strict=True):
        near = {served.learner.items.ids.ids[at - served.learner.items.first] for at in graph.near(row).tolist()}
        listed = {item.item_id for item in served.cache.recommend(user, 60, ["personal"]).items}
        assert near <= listed <= set(served.items)
        found += len(near) - len(listed)
    assert found < 0, "what vectors find comes on top"


def test_where_no_memory_is_published_lists_go_by_vectors() -> None:
    for config in (
        SMALL,
        replace(CONFIG, short_vector=True),
        replace(CONFIG, serving="published"),
        replace(CONFIG, asking_types=("item",)),
    ):
        served = Served(config)
        served.learn(MIXED)
        assert not {"user_memory", "item_memory", "memory_weights"} & {name for name, size in served.cache.sizes.items() if size.rows}
        assert served.cache.recommend(served.users[0], 5).source == "personal"


def test_readers_beside_a_writer_have_the_scores_of_their_version() -> None:
    learner = SupaLearner(CONFIG)
    stage, publications, expected = CompositeStage([learner], 1), list[Publication](), dict[int, dict[str, bytes]]()
    edges = examples([("click", f"u{n * n % 31}", f"i{n * 7 % 41}") for n in range(600)])
    items = [f"i{n}" for n in range(41)]
    for start in range(0, edges.height, 20):
        feed(stage, edges[start : start + 20])
        publications.append(told := stage.publish() or pytest.fail("nothing is published"))
        expected[told.version] = {user: learner.score(user, items).tobytes() for user in (f"u{n}" for n in range(31))}
    cache, seen = ParameterCache(), set[int]()
    cache.apply("learner", publications[0])
    done = threading.Event()

    def read(user: str) -> None:
        while not done.is_set():
            state = cache.state
            asker, rows = state.asker(user), np.array([state.items.row(item) for item in items])
            version, scores = state.writers["learner"].version, np.full(len(items), np.nan)
            if asker.memory is not None:
                scores[rows >= 0] = asker.memory.scores(rows[rows >= 0])
            assert scores.astype(np.float32).tobytes() == expected[version][user]
            seen.add(version)

    with ThreadPoolExecutor(3) as readers:
        reading = [readers.submit(read, user) for user in ("u0", "u1", "u4")]
        for publication in publications[1:]:
            cache.apply("learner", publication)
            time.sleep(0.01)
        done.set()
        for one in reading:
            one.result()
    assert len(seen) > len(publications) // 3


def test_a_cache_that_starts_late_scores_with_what_has_come() -> None:
    served = Served(CONFIG)
    served.learn(MIXED)
    while not served.learner.touch_next(1_000):
        pass
    told = served.stage.publish() or pytest.fail("nothing is published")
    user, items = served.users[0], served.items
    for order in permutations(told.tables):
        cache = ParameterCache()
        for name in order:
            cache.apply("learner", Publication({name: told.tables[name]}, told.version, told.clock_ms, told.sent_ms))
            cache.score(user, items)
            assert cache.recommend(user, 5, ["personal"]).source in ("personal", "none")
        assert cache.score(user, items).tobytes() == served.score(user, items).tobytes()


def test_a_list_is_as_long_while_some_memories_have_not_come() -> None:
    whole = Served(CONFIG, CacheConfig(seen_items=0, similar_items=0))
    whole.learn(MIXED)
    while not whole.learner.touch_next(1_000):
        pass
    told = whole.stage.publish() or pytest.fail("nothing is published")
    late = ParameterCache(whole.cache.config)
    late.apply("learner", replace(told, tables={**told.tables, "item_memory": told.tables["item_memory"][:5]}))
    for user in whole.users:
        listed = {item.item_id for item in late.recommend(user, 200, ["personal"]).items}
        assert listed == {item.item_id for item in whole.cache.recommend(user, 200, ["personal"]).items} == set(whole.items)


def test_a_user_who_remembers_nothing_any_more_has_scores() -> None:
    served = Served(replace(CONFIG, undo_types=("hate",)))
    pairs = [(f"u{n % 5}", f"i{n % 7}") for n in range(35)]
    undone = [("hate", "u0", f"i{n}") for n in range(7)]
    served.learn(examples([*(("click", *pair) for pair in pairs), *undone]))
    assert not served.learner.graph.near(int(served.learner.users.lookup(["u0"])[0])).size
    assert served.check(served.users, served.items) == 35


def test_the_room_grows_with_the_question() -> None:
    small, large = remembering._room(8, 4, 1, 10), remembering._room(8, 4, 1, 5_000)
    assert small is not large and remembering._room(8, 4, 1, 10) is large
    assert remembering._room(16, 4, 1, 10) is not large


def record(**values: Any) -> bytes:
    out = np.zeros(1, record_type(4))
    out["node"] = 1
    for name, value in values.items():
        out[name] = value
    return out.tobytes()


def memory(*cells: bytes | None, size: int = record_type(4).itemsize) -> Publication:
    rows = [(f"u{n}", 1, 1, False, cell and list(cell)) for n, cell in enumerate(cells)]
    table = pl.DataFrame(rows, schema={**DELTA_BASE, "memory": pl.Array(pl.UInt8(), size)}, orient="row")
    return Publication({"user_memory": table}, 1, 1, np.empty(0, dtype=np.int64))


IMPOSSIBLE = (
    {"heat": np.nan},
    {"new_heat": np.inf},
    {"node": 0},
    {"node": -3},
    {"held": 5},
    {"held": -1},
    {"edges": -1},
    {"partners": -2},
    {"node": 1 << 27},
    {"row": -9},
    {"neighbour_generation": -1},
)


@pytest.mark.parametrize("bad", IMPOSSIBLE)
def test_a_memory_that_cannot_be_is_refused_and_counted(bad: dict[str, Any]) -> None:
    cache = ParameterCache()
    applied = cache.apply("learner", memory(record(), record(**bad), None))
    assert (applied.rows, applied.nonfinite) == (1, 2)
    assert cache.sizes["user_memory"].rows == 1


def test_memories_of_another_size_are_an_error() -> None:
    cache = ParameterCache()
    with pytest.raises(FreshetError, match="no record of a node's memory has 13 bytes"):
        cache.apply("learner", memory(bytes(13), size=13))
    cache.apply("learner", memory(record()))
    with pytest.raises(FreshetError, match="wide"):
        cache.apply("learner", memory(bytes(record_type(5).itemsize), size=record_type(5).itemsize))


@pytest.mark.parametrize("numbers", [2 * (len(FEATURES) + 1), 2 * (len(FEATURES) + 2) + 1, 2])
def test_weights_of_another_version_are_an_error(numbers: int) -> None:
    schema = {**DELTA_BASE, "weights": pl.Binary(), "asked_ms": pl.Int64()}
    weights = pl.DataFrame([("user", 1, 1, False, np.zeros(numbers).tobytes(), 1)], schema=schema, orient="row")
    with pytest.raises(FreshetError, match="another version's"):
        ParameterCache().apply("learner", Publication({"memory_weights": weights}, 1, 1, np.empty(0, dtype=np.int64)))
