"""One edge of SUPA against its parts called one by one; first vectors, served vectors, and numbers that are not finite."""

from typing import Any

import numpy as np
import pytest
from supa_reference import BUSY, DAY_MS, START_MS, Contact, Parameters, World, adagrad, busy, close, grad, mingled, stream

from learners.supa import SupaConfig, kernel
from learners.supa.descent import update_biases, update_contexts, update_long
from learners.supa.losses import LOSS_SHARE, differentiate, lose
from learners.supa.neighbours import remember
from learners.supa.sampling import Edge
from learners.supa.table import SERVED, arrive, dot, served_vectors

LEARNED = ("long", "short", "context", "bias", "long_sum", "short_sum", "context_sum", "bias_sum", "alpha", "alpha_sum")
LATE: Contact = ("u3", "i5", 0, START_MS + 601 * DAY_MS)
PUBLISHED: dict[str, Any] = {
    "short_vector": True, "loss": "sigmoid", "interaction": True, "propagation": "logit", "bias_rate": 0.0, "rate": 0.05,
}  # fmt: skip
KINDS: tuple[dict[str, Any], ...] = ({}, {"short_vector": True}, {"interaction": True, "loss": "sigmoid"}, PUBLISHED)


def copied(world: World) -> dict[str, np.ndarray]:
    return {name: getattr(world.table, name).copy() for name in LEARNED}


def learn_apart(world: World, edge: Edge) -> None:
    """The edge's updates, part by part."""
    scratch = world.scratch()
    if world.rule.interaction:
        assert kernel.learn_interaction(world.table, edge, world.rule, scratch)
    for side in (0, 1):
        scratch, slots = world.drawn(side, edge)
        if slots[-1][2] == 0:
            _learn_end_apart(world, side, edge, len(slots))


def _learn_end_apart(world: World, side: int, edge: Edge, count: int) -> None:
    table, rule, row, age_ms = world.table, world.rule, edge.ends[side], edge.ages_ms[side]
    scratch, _ = world.drawn(side, edge)
    slots, slope, h, gradient = scratch.slots, scratch.slope, scratch.h[side], scratch.gradient[side]
    kernel.effective(table, row, age_ms, rule, h)
    assert differentiate(table.context, table.bias, slots, count, rule.sigmoid, h, slope, gradient)
    update_contexts(table.context, table.context_sum, slots, count, slope, h, rule.rates)
    if rule.rates.biases:
        update_biases(table.bias, table.bias_sum, slots, count, slope, rule.rates)
    if table.short.shape[1]:
        kernel.update_short(table, row, age_ms, gradient, rule)
    update_long(table.long, table.long_sum, row, gradient, rule.rates)


@pytest.mark.parametrize("changes", KINDS)
def test_an_edge_is_its_interaction_and_then_a_step_of_each_end(changes: dict[str, Any]) -> None:
    """Every end's age is the time since the latest of its edges before, taken from the list of them."""
    whole, apart, contacts = World(busy(**changes)), World(busy(**changes)), stream(120)
    for ordinal, contact in enumerate(contacts):
        whole.learn(contact)
        rows, ts_ms = apart.rows(contact), contact[3]
        for row in rows:
            arrive(apart.table, row, ordinal, ts_ms)
        past = [[other[3] for other in contacts[:ordinal] if other[side] == contact[side]] for side in (0, 1)]
        ages_ms = (ts_ms - max(past[0], default=ts_ms), ts_ms - max(past[1], default=ts_ms))
        learn_apart(apart, apart.edge(contact, ages_ms))
        for row, met in (rows, rows[::-1]):
            remember(apart.table.neighbours, row, met, contact[2], ts_ms)
        apart.ordinal += 1
    for name, array in copied(whole).items():
        assert np.array_equal(array, getattr(apart.table, name)), name
    assert whole.table.edges.sum() == 240 and whole.graph.nonfinite_updates == 0


@pytest.mark.parametrize("short", [False, True])
def test_the_interaction_is_one_step_of_both_ends(short: bool) -> None:
    config = busy(interaction=True, short_vector=short, bias_rate=0.0)
    world = World.grown(config, stream(200))
    edge, ages = world.edge(LATE, (5 * DAY_MS, 9 * DAY_MS)), (5 / 4, 9 / 4)
    slots = [(int(row), 0, 1.0, 1.0) for row in edge.ends]
    ends = [Parameters.of(world.table, slots[side][0], [slots[side]]) for side in (0, 1)]
    z = [(end.h(age, "log") + end.context[0]) / 2 for end, age in zip(ends, ages, strict=True)]
    (-(z[0] @ z[1]).sigmoid().log()).backward()
    before = copied(world)
    assert kernel.learn_interaction(world.table, edge, world.rule, world.scratch())
    for (row, *_), end in zip(slots, ends, strict=True):
        steps = [("long", (row,), grad(end.long)), ("context", (row, 0), grad(end.context)[0])]
        steps += [("short", (row,), grad(end.short))] if short else []
        for name, at, gradient in steps:
            value, total = adagrad(before[name][at], gradient, before[f"{name}_sum"][at], config.rate, config.max_gradient_norm)
            close(getattr(world.table, name)[at], value)
            close(getattr(world.table, f"{name}_sum")[at], total)


def test_time_of_the_last_edge_never_goes_back() -> None:
    world = World(busy())
    for ts_ms in (START_MS, START_MS + 5, START_MS + 2):
        world.learn(("u1", "i1", 0, ts_ms))
    assert world.table.last_ms[list(world.rows(("u1", "i1", 0, 0)))].tolist() == [START_MS + 5] * 2


def test_what_an_edge_tells_of_its_ends_ages_is_what_passed() -> None:
    """The first edge of a node has age 0, a late one a negative one, which fades nothing."""
    world = World(busy())
    run = world.run(("u1", "i1", 0, START_MS), ("u1", "i2", 0, START_MS + 7), ("u2", "i1", 0, START_MS - 5))
    assert world.learn_run(run, world.scratch()) == 0
    assert run.ages_ms.tolist() == [[0, 0], [7, 0], [0, -5]]
    assert kernel.short_fade(world.table, 0, -5, world.rule.sample.walk) == 1.0


def test_edges_join_nodes_of_any_two_types() -> None:
    world = World.grown(busy(node_types=("user", "item", "tag"), short_vector=True), mingled(300))
    assert (world.table.extent >= 12).all()
    for name, array in copied(world).items():
        assert np.isfinite(array).all(), name
    learned = world.table.alpha
    assert np.unique(learned).size == 3 and learned.all(), "an alpha for each type"


def test_the_loss_is_what_the_twin_loses_on_the_node_that_was_met() -> None:
    world, loss, lost = World.grown(BUSY, stream(200)), np.zeros(2), []
    for ordinal in range(200, 260):
        world.ordinal = ordinal
        edge = world.edge(LATE)
        scratch, slots = world.drawn(0, edge)
        kernel.effective(world.table, edge.ends[0], 0, world.rule, scratch.h[0])
        of = (scratch.h[0], scratch.slope, scratch.gradient[0])
        assert differentiate(world.table.context, world.table.bias, scratch.slots, len(slots), False, *of)
        lose(scratch.slope[0], loss)
        only_met = [slots[0], *(slot for slot in slots[1:] if slot[2] == 0)]
        lost.append(float(Parameters.of(world.table, int(edge.ends[0]), only_met).loss(only_met, BUSY).detach()))
    shares = np.array([LOSS_SHARE * (1 - LOSS_SHARE) ** age for age in range(60)])[::-1]
    assert loss[1] == pytest.approx(shares.sum())
    assert loss[0] / loss[1] == pytest.approx((shares * lost).sum() / shares.sum(), rel=1e-4)
    assert np.ptp(lost) > 0.01


def test_every_end_that_learns_counts_in_the_loss() -> None:
    world, loss = World.grown(BUSY, stream(60)), np.zeros(2)
    run = world.run(LATE, ("u3", "i6", 0, LATE[3]))
    run.relation[1] = -1
    assert world.learn_run(run, world.scratch(loss)) == 0
    assert loss[1] == pytest.approx(1 - (1 - LOSS_SHARE) ** 2)  # two ends of one edge; what is no edge loses nothing
    assert 0 < loss[0] / loss[1] < 20


def test_a_run_tells_the_second_end_after_each_row() -> None:
    world, contacts = World(BUSY), stream(30)
    for contact in contacts:
        told = world.learn(contact)[0]
        rows = world.table, world.row(contact[1])
        expected = np.concatenate([rows[0].context[rows[1], SERVED], rows[0].long[rows[1]]])
        assert np.array_equal(told, expected)


@pytest.mark.parametrize("changes", [{}, PUBLISHED])
def test_numbers_that_would_not_be_finite_change_nothing(changes: dict[str, Any]) -> None:
    world = World.grown(busy(**changes), stream(60))
    ends = list(world.rows(LATE))
    world.table.long[ends] = 1e30
    before, refused = copied(world), world.graph.nonfinite_updates
    world.learn(LATE)
    assert world.graph.nonfinite_updates - refused == (3 if changes else 2), "the interaction, and each end"
    for name, array in before.items():
        assert np.array_equal(getattr(world.table, name), array), name
    assert world.table.last_ms[ends].tolist() == [LATE[3]] * 2, "it is remembered all the same"


def test_an_end_is_refused_alone() -> None:
    world = World.grown(BUSY, stream(60))
    user, item = world.rows(LATE)
    world.table.long[user] = 1e30
    before = copied(world)
    world.learn(LATE)
    assert world.graph.nonfinite_updates == 1
    assert np.array_equal(world.table.long[user], before["long"][user]) and not np.array_equal(world.table.long[item], before["long"][item])
    assert all(np.isfinite(array).all() for array in copied(world).values())


def test_first_vectors_depend_on_the_id_alone() -> None:
    config = busy(short_vector=True)
    one, other = World(config), World(config)
    rows = [one.row(id_) for id_ in ("u1", "u2", "u3")]
    back = [other.row(id_) for id_ in ("u3", "u2", "u1")][::-1]
    for name in ("long", "short", "context"):
        assert np.array_equal(getattr(one.table, name)[rows], getattr(other.table, name)[back])
    as_item = int(one.nodes[1].admit(["u1"])[0])
    assert not np.array_equal(one.table.long[as_item], one.table.long[rows[0]]), "a user and an item of one name differ"
    values = np.concatenate([getattr(one.table, name)[rows].ravel() for name in ("long", "short", "context")])
    scale = config.initial_scale
    assert 0.95 * scale < np.abs(values).max() < scale and abs(values.mean()) < 0.2 * scale
    assert np.unique(values).size == values.size


def test_first_vectors_depend_on_the_seed() -> None:
    first = [World(busy(seed=seed)) for seed in (7, 8)]
    assert not np.array_equal(*(world.table.long[world.row("u1")] for world in first))


def test_dot() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    assert dot(a, b) == pytest.approx(float(a.astype(float) @ b), rel=1e-5)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("with_short", [False, True])
def test_served_vectors_are_those_of_the_rows(with_short: bool, mirrored: bool, published: bool) -> None:
    rng = np.random.default_rng(mirrored)
    long, context = rng.normal(size=(9, 8)).astype(np.float32), rng.normal(size=(9, 3, 8)).astype(np.float32)
    short = rng.normal(size=(9, 8 if with_short else 0)).astype(np.float32)
    h, c = long + short if with_short else long, context[:, 2]
    expected = np.concatenate([h + c, 0 * h] if published else [c, h] if mirrored else [h, c], axis=1)
    found = served_vectors(long, short, context, 2, published, mirrored)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_the_default_learns_with_biases_and_no_short_vector() -> None:
    world = World.grown(SupaConfig(dimensions=16), [(user, item, 0, ts_ms) for user, item, _, ts_ms in stream(60)])
    assert world.table.short.shape[1] == 0 and world.table.bias.any()
