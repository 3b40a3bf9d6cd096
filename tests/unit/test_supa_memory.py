"""The memory-aware score: candidates, steps against autograd, scores, states; and that it learns."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from supa_logs import SMALL, mixed
from supa_memory_reference import DAY_MS, Past, alive, asked, gathering, int32, known, minded, vector, ways
from supa_reference import START_MS, World, close, grad

from core.errors import SettingsError
from learners.supa.memory import CHUNK_ROWS, EPSILON, FIRST, RATE, STRANGERS, Memory, _choose, _descend, score_rows, teach
from learners.supa.pairs import FEATURES, OF_THE_MOMENT, describe

NOW_MS = START_MS + 60 * DAY_MS
SEED = np.uint64(5)
REMEMBERING = replace(SMALL, memory_every=2)
MIXED = mixed(500)


def grown(count: int = 300, each: int = 12, **changes: Any) -> World:
    """Some nodes of which are gone."""
    world = World.grown(minded(**changes), gathering(count, each=each))
    for id_ in ("u3", "i5", "t1"):
        world.remove(id_)
    return world


def ends(one: int, other: int) -> tuple[int, int]:
    """As the kernel takes them from a run."""
    return int32(one), int32(other)


def contents(world: World) -> dict[str, bytes]:
    """All that a row or a type has."""
    of = world.graph
    others = {name: getattr(of.table, name) for name in ("touched", "dirty", "extent", "alpha", "alpha_sum")}
    return {name: array.tobytes() for name, array in {**of.arrays, **others}.items()}


# ---- candidates


@pytest.mark.parametrize("ring", [2, 4, 16])
def test_what_is_near_is_remembered_or_three_steps_away(ring: int) -> None:
    world = grown(ring_size=ring)
    before, of = contents(world), world.table.neighbours
    for q in alive(world):
        remembered, near = [entry.row for entry in known(of, q)], world.graph.near(q).tolist()
        assert near[: len(remembered)] == remembered
        assert sorted(near[len(remembered) :]) == sorted(ways(of, q).keys() - set(remembered))
    assert contents(world) == before and not world.graph.memory.reach.ways.any() and not world.graph.memory.reach.entry.any()


def chosen(world: World, q: int, true: int, ordinal: int, side: int = 0) -> list[tuple[int, float]]:
    """Rows, and how many nodes each stands for."""
    with asked(world, q, NOW_MS) as (memory, query):
        count = _choose(world.table, memory, query, int32(true), ordinal, side, SEED)
        return list(zip(memory.row[:count].tolist(), np.exp(memory.logit[:count]).tolist(), strict=True))


def kinds(world: World, q: int) -> tuple[set[int], set[int], set[int]]:
    """All nodes as the query sees them: remembered, in reach but not remembered, and strangers."""
    remembered = {entry.row for entry in known(world.table.neighbours, q)}
    near = ways(world.table.neighbours, q).keys() - remembered
    return remembered, near, set(alive(world)) - remembered - near


@pytest.mark.parametrize("each", [12, 60])
def test_the_true_one_comes_first_then_all_that_are_remembered(each: int) -> None:
    world = grown(count=25 * each, each=each)
    q = world.row("u7")
    remembered, near, strangers = kinds(world, q)
    for true in (min(remembered), min(near), max(strangers)):
        for ordinal in range(20):
            drawn = chosen(world, q, true, ordinal)
            rows, counts = [row for row, _ in drawn], Counter(row for row, _ in drawn)
            own = remembered - {true}
            assert drawn[0] == (true, 1.0) and counts[true] == 1
            assert set(rows[1 : 1 + len(own)]) == own and all(stands_for == 1.0 for _, stands_for in drawn[1 : 1 + len(own)])
            assert all(counts[row] <= 1 for row in remembered | near), "only strangers may be drawn twice: each draw stands for its share"
            assert set(rows) <= {true} | remembered | near | strangers, "who is gone was drawn"


def test_each_node_is_expected_to_be_stood_for_once() -> None:
    """Over the draws of many edges, whoever was true; within five standard errors."""
    world, seeds = grown(count=1500, each=100, ring_size=8), 1200
    q = world.row("u7")
    remembered, near, strangers = kinds(world, q)
    assert len(near) > STRANGERS and len(strangers) > STRANGERS, "else there is nothing to draw"
    for true in (min(near), max(strangers)):
        total = Counter[int]()
        for ordinal in range(seeds):
            for row, stands_for in chosen(world, q, true, ordinal, side=ordinal % 2):
                total[row] += stands_for / seeds  # type: ignore[assignment]
        for kind, most in ((remembered, 1e-9), (near, 0.25), (strangers, 0.4)):
            each = np.array([total[row] for row in kind])
            np.testing.assert_allclose(each, 1.0, atol=most)
            assert each.mean() == pytest.approx(1.0, abs=0.015)
        assert total.keys() == remembered | near | strangers


def test_draws_differ_by_edge_end_and_seed_and_nothing_else() -> None:
    world = grown()
    q, true = world.row("u7"), world.row("i2")
    assert chosen(world, q, true, 5) == chosen(world, q, true, 5)
    assert len({str(chosen(world, q, true, ordinal, side)) for ordinal in range(10) for side in (0, 1)}) == 20


def test_a_few_in_reach_are_all_candidates() -> None:
    world = grown(count=60)
    q = world.row("u7")
    _, near, _ = kinds(world, q)
    assert 0 < len(near) < STRANGERS
    drawn = dict(chosen(world, q, world.row("u7"), 1))
    assert all(drawn[row] == 1.0 for row in near - {q})


# ---- steps


def prepare(memory: Memory, types: int) -> np.random.Generator:
    """With weights, and sums of some steps, at random; those not used stay 0."""
    random = np.random.default_rng(0)
    memory.weights[:] = random.normal(0, 0.3, memory.weights.shape) * memory.used
    memory.sums[:] = random.uniform(0, 2, memory.sums.shape)
    assert len(memory.weights) == types
    return random


def loss_of(weights: torch.Tensor, memory: Memory, count: int, x: np.ndarray, log_counts: np.ndarray) -> torch.Tensor:
    """- log softmax of the first; `weights` by whether it is remembered, the last one constant."""
    inputs = torch.tensor(np.hstack([x[:count], np.ones((count, 1))]))
    logits = (weights[memory.remembered[:count]] * inputs).sum(1) + torch.tensor(log_counts)
    return -torch.log_softmax(logits, 0)[0]


@pytest.mark.parametrize("question", ["next", "later"])
def test_a_step_is_that_of_the_softmax_over_what_the_candidates_stand_for(question: str) -> None:
    world = grown(memory_question=question)
    random, remembered_rows = prepare(world.graph.memory, 3), 0
    for q, true in ((world.row(one), world.row(other)) for one in ("u7", "i2", "t4") for other in ("u1", "i8", "t9")):
        with asked(world, q, NOW_MS) as (memory, query):
            count, type_ = _choose(world.table, memory, query, int32(true), 3, 0, SEED), world.table.type[q]
            memory.logit[:count] += random.normal(0, 1, count)
            x, log_counts = np.zeros_like(memory.x), memory.logit[:count].copy()
            describe(world.table, memory.history, query, memory.row[:count].copy(), x, memory.remembered)
            before, sums = memory.weights.copy(), memory.sums.copy()
            leaf = torch.tensor(before[type_], requires_grad=True)
            loss_of(leaf, memory, count, x, log_counts).backward()  # type: ignore[no-untyped-call]
            remembered_rows += int(memory.remembered[:count].sum())
            _descend(world.table, memory, query, count)
        close(memory.gradient, grad(leaf), 1e-9)
        steps = np.where(memory.used, grad(leaf), 0.0)
        close(memory.sums[type_], sums[type_] + steps**2, 1e-9)
        close(memory.weights[type_], before[type_] - RATE * steps / np.sqrt(sums[type_] + steps**2 + EPSILON), 1e-9)
        others = np.arange(3) != type_
        assert np.array_equal(memory.weights[others], before[others]) and np.array_equal(memory.sums[others], sums[others])
    assert remembered_rows > 20


@pytest.mark.parametrize("question", ["next", "later"])
def test_for_a_time_unknown_nothing_of_the_moment_speaks(question: str) -> None:
    """Of all edges, with both regimes of all types learned."""
    weights, moment = grown(memory_question=question).graph.memory.weights, np.zeros(len(FEATURES) + 3, np.bool_)
    moment[list(OF_THE_MOMENT)] = True
    assert not weights[:, :, moment].any() if question == "later" else weights[:, 1, moment].all()
    assert weights[:, 1][:, ~moment].all() and weights[:, 0, -1].all()


# ---- teaching


def test_teaching_is_a_step_from_either_end() -> None:
    world, twin = grown(), grown()
    one, other = world.row("u7"), world.row("i2")
    before = contents(world)
    teach(world.table, world.graph.memory, ends(one, other), NOW_MS, 9, SEED)
    assert contents(world) == before, "it changed a table"
    for side, (q, true) in enumerate(((one, other), (other, one))):
        with asked(twin, q, NOW_MS) as (memory, query):
            count = _choose(twin.table, memory, query, int32(true), 9, side, SEED)
            _descend(twin.table, memory, query, count)
    assert world.graph.memory.weights.tobytes() == twin.graph.memory.weights.tobytes()
    assert world.graph.memory.sums.tobytes() == twin.graph.memory.sums.tobytes()
    assert not np.array_equal(world.graph.memory.weights, grown().graph.memory.weights)
    reach = world.graph.memory.reach
    assert not any(array.any() for array in (reach.ways, reach.recent, reach.entry, reach.size))


@pytest.mark.parametrize("pair", [("u7", "i90"), ("u90", "i7"), ("u90", "i90"), ("u3", "i7")])
def test_a_node_without_an_edge_teaches_nothing(pair: tuple[str, str]) -> None:
    """New, or gone and back."""
    world = grown()
    before, memory = world.graph.memory.weights.copy(), world.graph.memory
    teach(world.table, memory, ends(world.row(pair[0]), world.row(pair[1])), NOW_MS, 9, SEED)
    assert np.array_equal(memory.weights, before)
    world.learn((*pair, 0, NOW_MS))
    assert np.array_equal(memory.weights, before)
    world.learn((*pair, 0, NOW_MS))
    assert not np.array_equal(memory.weights, before)


def test_only_of_types_that_ask_weights_are_learned() -> None:
    weights = {types: grown(asking_types=types).graph.memory.weights for types in ((), ("user",), ("tag", "item"))}
    learned = {types: [bool(of_type.any()) for of_type in of_types] for types, of_types in weights.items()}
    assert learned == {(): [True] * 3, ("user",): [True, False, False], ("tag", "item"): [False, True, True]}
    assert np.array_equal(weights["tag", "item"][1:], weights[()][1:]), "types do not share what they learn"


@pytest.mark.parametrize("every", [1, 3])
def test_every_few_rows_of_the_log_teach_before_they_are_learned(every: int) -> None:
    world, twin = World(minded(memory_every=every)), World(minded(memory_every=1000))
    for ordinal, contact in enumerate(gathering(70)):
        if ordinal % every == 0:
            teach(twin.table, twin.graph.memory, ends(*twin.rows(contact)), contact[3], ordinal, np.uint64(twin.config.seed))
        for each in (world, twin):
            each.learn(contact)
        assert world.graph.memory.weights.tobytes() == twin.graph.memory.weights.tobytes()
    assert world.graph.memory.weights.any()


def test_the_weights_change_no_vector() -> None:
    """With and without the score, the same is learned."""
    one, other = World.grown(minded(), gathering(100)), World.grown(minded(memory_every=0), gathering(100))
    for name, array in other.graph.arrays.items():
        assert np.array_equal(array, one.graph.arrays[name]), name


# ---- scores


def naive_scores(past: Past, q: int, rows: list[int], now_ms: int) -> np.ndarray:
    memory, of = past.world.graph.memory, past.world.table.neighbours
    out = []
    for v in rows:
        remembered = int(any(entry.row == v for entry in known(of, q)) or any(entry.row == q for entry in known(of, v)))
        out.append(memory.weights[past.world.table.type[q], remembered] @ np.append(vector(past, q, v, now_ms), 1.0))
    return np.array(out)


def scored(world: World, q: int, rows: np.ndarray, remembered_first: bool = False) -> np.ndarray:
    out = np.full(rows.size, -7.0)
    score_rows(world.table, world.graph.memory, int32(q), rows.astype(np.int32), NOW_MS, remembered_first, out)
    return out


def test_a_score_is_the_weights_times_the_features_of_any_number_of_rows() -> None:
    past = Past(World(minded()))
    past.learn(*gathering(200, each=8))
    world, random = past.world, np.random.default_rng(0)
    for q in (world.row("u1"), world.row("t2")):
        expected = dict(zip(alive(world), naive_scores(past, q, alive(world), NOW_MS), strict=True))
        for count in (0, 1, 2, CHUNK_ROWS, CHUNK_ROWS + 1, 3 * CHUNK_ROWS + 5):
            rows = random.choice(alive(world), count)
            scores = scored(world, q, rows)
            np.testing.assert_allclose(scores, [expected[row] for row in rows.tolist()], rtol=1e-5, atol=1e-5)
            assert scores.tobytes() == world.graph.memory_scores(q, rows, NOW_MS).tobytes()
            assert scores[:9].tobytes() == b"".join(scored(world, q, rows[k : k + 1]).tobytes() for k in range(min(9, count)))


def test_what_is_remembered_may_come_first_in_its_order() -> None:
    world = grown(ring_size=2)
    rows, of, forgotten = np.array(alive(world)), world.table.neighbours, 0
    world.graph.memory.weights[:, 1, -1] -= 50.0  # else what is remembered is first anyway
    for q in rows.tolist():
        plain, first = (world.graph.memory_scores(q, rows, NOW_MS, remembered_first) for remembered_first in (False, True))
        own = {entry.row for entry in known(of, q)}
        met = np.array([row in own or any(entry.row == q for entry in known(of, row)) for row in rows.tolist()])
        forgotten += int(met.sum()) - len(own)
        assert np.array_equal(first, np.where(met, plain + FIRST, plain))
        assert first[met].min() > first[~met].max() and plain[met].min() < plain[~met].max()
        assert np.array_equal(np.argsort(first[met]), np.argsort(plain[met]))
    assert forgotten > 10, "whom it forgot but who remembers it"


def test_scoring_changes_no_state() -> None:
    world = grown()
    asking = [*alive(world)[:5], world.row("u90")]
    before, digest = contents(world), world.graph.digest()
    for q in asking:
        world.graph.memory_scores(q, np.array([*alive(world), -1]), NOW_MS, True)
    assert contents(world) == before and world.graph.digest() == digest


def test_asking_between_edges_changes_nothing_of_what_is_learned() -> None:
    whole, asking = World(minded()), World(minded())
    for contact in gathering(60):
        whole.learn(contact)
        asking.learn(contact)
        asking.graph.memory_scores(asking.row(contact[0]), np.array(alive(asking)), contact[3])
    assert whole.graph.digest() == asking.graph.digest() and contents(whole) == contents(asking)


def test_of_rows_that_are_not_there_there_is_no_score() -> None:
    world = grown()
    gone = world.row("i7")
    world.graph.free(gone)
    rows = np.array([-1, world.row("u1"), gone, world.row("i90"), world.row("t4"), -1])
    scores = world.graph.memory_scores(world.row("u7"), rows, NOW_MS)
    assert scores.dtype == np.float64 and np.isnan(scores).tolist() == [True, False, True, True, False, True]
    assert world.graph.memory_scores(world.row("u7"), np.array([-1]), NOW_MS).shape == (1,)


def test_a_removed_node_is_neither_remembered_nor_in_reach() -> None:
    world = grown()
    q = world.row("u7")
    gone = next(row for row in ways(world.table.neighbours, q) if row in {entry.row for entry in known(world.table.neighbours, q)})
    world.graph.free(gone)
    with asked(world, q, NOW_MS) as (memory, query):
        x, remembered = np.zeros((1, memory.x.shape[1])), np.zeros(1, np.int64)
        describe(world.table, memory.history, query, np.array([gone], np.int32), x, remembered)
        assert memory.reach.entry[gone] == 0 and memory.reach.ways[gone] == 0 and gone not in memory.reach.found[: memory.reach.size[0]]
    assert remembered[0] == 0 and not x[0, FEATURES.index("log meetings") :].any()
    assert gone not in {row for k in range(50) for row, _ in chosen(world, q, world.row("u1"), k)}


def test_without_the_score_it_cannot_be_asked_for() -> None:
    world = World.grown(minded(memory_every=0), gathering(30))
    with pytest.raises(SettingsError, match="`memory_every`"):
        world.graph.memory_scores(0, np.array([0]), NOW_MS)
    assert not {"heat", "new_heat", "first_ms", "partners"} & world.graph.arrays.keys() and world.graph.memory.reach.ways.size == 0
