"""The memory-aware score in the graph and the learner: settings, cuts, digests and snapshots; and that it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from supa_logs import SMALL, examples, feed, mixed, run
from supa_memory_reference import DAY_MS, MINUTE_MS, alive, minded
from supa_reference import START_MS, Contact, World

from core.composite import CompositeStage
from core.errors import SettingsError, SnapshotError
from learners.supa import SupaConfig, SupaLearner
from tests.snapshots import save

NOW_MS = START_MS + 60 * DAY_MS
REMEMBERING = replace(SMALL, memory_every=2)
MIXED = mixed(500)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("memory_question", {"memory_question": "soon"}),
        ("memory_every", {"memory_every": -1}),
        ("asking_types", {"asking_types": ("shop",)}),
        ("asking_types", {"asking_types": ("user", "users")}),
    ],
)
def test_a_setting_that_cannot_work_is_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"`{name}`"):
        SupaConfig(**wrong)


def test_types_that_ask_are_those_named_or_all() -> None:
    assert SupaConfig().asks().tolist() == [True, True]
    assert SupaConfig(asking_types=("item",)).asks().tolist() == [False, True]
    assert replace(REMEMBERING, memory_every=5).identity == REMEMBERING.identity != SMALL.identity


@pytest.mark.parametrize(
    "changes", [{}, {"passes": 2, "batch_edges": 60, "validation_edges": 20, "validate_every": 1}, {"undo_types": ("hate",)}]
)
def test_any_cut_of_the_log_gives_the_same_weights(changes: dict[str, Any]) -> None:
    config, random = replace(REMEMBERING, **changes), np.random.default_rng(0)
    whole = run(MIXED, config=config)
    assert whole.graph.memory.weights[:, 1].any()
    for cuts in (range(1, MIXED.height), *(random.integers(0, MIXED.height, count).tolist() for count in (1, 5, 40))):
        cut = run(MIXED, cuts, config)
        assert cut.digest() == whole.digest()
        assert cut.graph.memory.weights.tobytes() == whole.graph.memory.weights.tobytes()


def test_the_digest_has_the_weights_and_the_histories() -> None:
    digests = set()
    for name in ("none", "weights", "sums", "heat", "new_heat", "first_ms", "partners"):
        learner = run(MIXED[:100], config=REMEMBERING)
        memory = learner.graph.memory
        if name != "none":
            getattr(memory if name in ("weights", "sums") else memory.history, name)[0] += 1
        digests.add(learner.digest())
    assert len(digests) == 7


@pytest.mark.parametrize("at", [0, 137, 256, 499])
def test_a_restored_learner_goes_on_with_the_same_weights(tmp_path: Path, at: int) -> None:
    learner, back = SupaLearner(REMEMBERING), SupaLearner(REMEMBERING)
    stage, resumed = CompositeStage([learner], 1), CompositeStage([back], 1)
    feed(stage, MIXED[:at])
    save(stage, tmp_path)
    resumed.restore(tmp_path)
    for rows in (MIXED[:0], MIXED[at:]):
        for each in (stage, resumed):
            feed(each, rows)
        assert_same(back, learner)
    assert back.graph.memory.weights.any()


def assert_same(one: SupaLearner, other: SupaLearner) -> None:
    """To the byte, and so are the scores."""
    assert one.digest() == other.digest()
    for name in ("weights", "sums"):
        assert getattr(one.graph.memory, name).tobytes() == getattr(other.graph.memory, name).tobytes()
    for name, array in one.graph.arrays.items():
        assert np.array_equal(array, other.graph.arrays[name]), name
    rows = np.flatnonzero(one.graph.table.alive)
    told = [each.graph.memory_scores(0, rows, NOW_MS).tobytes() for each in (one, other)]
    assert told[0] == told[1]


def test_the_learner_scores_with_memory_as_of_the_newest_event() -> None:
    learner = run(MIXED, config=REMEMBERING)
    users, items = learner.users, learner.items
    user, asked = users.ids.ids[1], [*items.ids.ids[:6], "nobody"]
    row, newest_ms = int(users.lookup([user])[0]), int(MIXED["ts_ms"].max())
    wanted = learner.graph.memory_scores(row, items.lookup(asked), newest_ms).astype(np.float32)
    assert learner.score(user, asked).tobytes() == wanted.tobytes() and np.isnan(wanted).tolist() == [False] * 6 + [True]
    learned = learner.graph.scores(row, items.lookup(asked))
    assert not np.array_equal(wanted, learned, equal_nan=True)
    only_items = run(MIXED, config=replace(REMEMBERING, asking_types=("item",)))
    assert np.array_equal(only_items.score(user, asked), only_items.graph.scores(row, items.lookup(asked)), equal_nan=True)


def test_histories_that_were_not_kept_are_not_made_up(tmp_path: Path) -> None:
    save(CompositeStage([run(MIXED[:50])], 1), tmp_path)
    with pytest.raises(SnapshotError, match="`memory`"):
        CompositeStage([SupaLearner(REMEMBERING)], 1).restore(tmp_path)


# ---- it learns


def reciprocal_ranks(world: World, contacts: list[Contact], items: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 [2, n]: of the item of each edge among all, before it is learned, by the score with memory and the one without."""
    out, rows = [], np.array([world.row(f"i{k}") for k in range(items)])
    for contact in contacts:
        q, true = world.rows(contact)
        with_memory, without = world.graph.memory_scores(q, rows, contact[3]), world.graph.scores(q, rows)
        out.append([1.0 / (1 + np.count_nonzero(scores > scores[rows == true])) for scores in (with_memory, without)])
        world.learn(contact)
    ours, theirs = np.array(out).T
    return ours, theirs


def test_who_repeats_is_known_to_repeat() -> None:
    """Users take their last item again, four times in five."""
    random, last, contacts = np.random.default_rng(0), dict[int, int](), list[Contact]()
    for k in range(3000):
        user = int(random.integers(25))
        if user not in last or random.random() > 0.8:
            last[user] = int(random.integers(50))
        contacts.append((f"u{user}", f"i{last[user]}", 0, START_MS + k * MINUTE_MS))
    world = World.grown(minded(memory_every=2), contacts[:2700])
    ours, theirs = reciprocal_ranks(world, contacts[2700:], 50)
    assert np.mean(ours == 1.0) > 0.7 and ours.mean() > theirs.mean() + 0.1
    rows, now_ms = np.array([world.row(f"i{k}") for k in range(50)]), contacts[-1][3] + MINUTE_MS
    first = [int(np.argmax(world.graph.memory_scores(world.row(f"u{user}"), rows, now_ms))) for user in range(25)]
    assert first == [last[user] for user in range(25)]


def test_what_is_popular_for_the_moment_stands_above_the_others() -> None:
    """Every two hours another item is it; users come once or twice."""
    random, contacts = np.random.default_rng(0), list[Contact]()
    for k in range(3000):
        item = k // 120 * 7 % 50 if random.random() < 0.7 else int(random.integers(50))
        contacts.append((f"u{random.integers(1500)}", f"i{item}", 0, START_MS + k * MINUTE_MS))
    world = World.grown(minded(memory_every=2), contacts[:2700])
    ours, theirs = reciprocal_ranks(world, contacts[2700:], 50)
    assert ours.mean() > 0.5 and ours.mean() > theirs.mean() + 0.1
    rows, now_ms = np.array([world.row(f"i{k}") for k in range(50)]), contacts[-1][3] + MINUTE_MS
    users = [row for row in alive(world)[:200] if world.table.type[row] == 0 and world.table.edges[row]]
    first = [int(np.argmax(world.graph.memory_scores(q, rows, now_ms))) for q in users]
    assert first.count(2999 // 120 * 7 % 50) > 0.8 * len(users)


def test_an_item_alone_in_a_log_teaches_nothing_and_breaks_nothing() -> None:
    learner = run(examples([("click", "u", "a")] * 3), config=replace(REMEMBERING, memory_every=1))
    assert np.isfinite(learner.graph.memory.weights).all() and np.isfinite(learner.graph.memory_scores(0, np.array([0]), NOW_MS)).all()


def test_the_question_asked_is_part_of_what_was_learned(tmp_path: Path) -> None:
    save(SupaLearner(REMEMBERING), tmp_path)
    with pytest.raises(SnapshotError, match="`memory` was 1, is 2"):
        SupaLearner(replace(REMEMBERING, memory_question="later")).restore(tmp_path)


def test_a_number_that_is_not_finite_teaches_nothing() -> None:
    world = World(minded(memory_every=1))
    contacts: list[Contact] = [(f"u{k % 4}", f"i{k % 7}", 0, START_MS + k * MINUTE_MS) for k in range(60)]
    world.learn(*contacts[:50])
    memory, before = world.graph.memory, world.graph.memory.weights.copy()
    world.table.bias[:] = np.nan
    world.learn(*contacts[50:])
    assert before.any() and memory.weights.tobytes() == before.tobytes()
    assert world.graph.nonfinite_updates >= 10


def test_an_outlier_does_not_stop_the_weights() -> None:
    world = World(minded(memory_every=1))
    contacts: list[Contact] = [(f"u{k % 4}", f"i{k % 7}", 0, START_MS + k * MINUTE_MS) for k in range(60)]
    world.learn(*contacts[:50])
    world.table.long[world.row("u1")] = 1e18
    world.learn(*contacts[50:])
    assert np.isfinite(world.graph.memory.weights).all() and world.graph.memory.sums.max() < 1e4
