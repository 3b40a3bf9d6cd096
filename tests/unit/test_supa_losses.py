"""The losses of SUPA and their gradients against torch in float64, the decay of ages, and steps of AdaGrad by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from supa_reference import BUSY, DAY_MS, RELATIONS, START_MS, Contact, Parameters, Slot, World, adagrad, busy, close, faded, grad, stream

from learners.supa import SupaConfig, kernel
from learners.supa.descent import Rates, descend, step_size, update_biases, update_contexts, update_long
from learners.supa.kernel import Scratch
from learners.supa.losses import differentiate
from learners.supa.neighbours import EXP, LOG, REV, Slots, decay, decay_slope
from learners.supa.sampling import Edge

LATE: Contact = ("u3", "i5", 1, START_MS + 601 * DAY_MS)
KINDS = {"log": LOG, "exp": EXP, "rev": REV}
AGES = (5 * DAY_MS, 9 * DAY_MS)
UNITS = tuple(age_ms / DAY_MS / 4 for age_ms in AGES)  # of four days


def differentiated(world: World, side: int, edge: Edge) -> tuple[Scratch, list[Slot]]:
    """The scratch of one end after its gradients were taken, and its slots."""
    scratch, slots = world.drawn(side, edge)
    kernel.effective(world.table, edge.ends[side], edge.ages_ms[side], world.rule, scratch.h[side])
    of = scratch.h[side], scratch.slope, scratch.gradient[side]
    assert differentiate(world.table.context, world.table.bias, scratch.slots, len(slots), world.rule.sigmoid, *of)
    return scratch, slots


# ---- gradients


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("propagation", ["weight", "logit"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_gradients_are_those_of_the_torch_twin(loss: str, propagation: str, biases: bool) -> None:
    config = busy(loss=loss, propagation=propagation, bias_rate=0.3 if biases else 0.0)
    world, counts = World.grown(config, stream(200)), set()
    assert world.table.bias.any() == biases
    for ordinal in range(200, 230):
        world.ordinal, side = ordinal, ordinal % 2
        edge = world.edge(LATE)
        scratch, slots = differentiated(world, side, edge)
        twin = Parameters.of(world.table, int(edge.ends[side]), slots)
        twin.loss(slots, config).backward()
        h = scratch.h[side].astype(np.float64)
        close(scratch.gradient[side], grad(twin.long))
        close(scratch.slope[: len(slots)], grad(twin.bias))
        close(scratch.slope[: len(slots), None] * h, grad(twin.context))
        counts.add(sum(slot[2] > 0 for slot in slots))
    assert len(counts) > 2, "there should be walks of several lengths"


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_gradients_of_large_logits_are_finite_and_true(loss: str) -> None:
    """Where most terms of a softmax are 0 to the last bit."""
    config = busy(loss=loss)
    world = World.grown(config, stream(200))
    for scale in (30.0, 300.0, 3000.0):
        edge = world.edge(LATE)
        world.table.long[edge.ends[0]] *= np.float32(scale / np.linalg.norm(world.table.long[edge.ends[0]]))
        scratch, slots = differentiated(world, 0, edge)
        twin = Parameters.of(world.table, int(edge.ends[0]), slots)
        twin.loss(slots, config).backward()
        assert np.isfinite(scratch.slope[: len(slots)]).all()
        np.testing.assert_allclose(scratch.slope[: len(slots)], grad(twin.bias), rtol=2e-6 * scale, atol=1e-12)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interactions_gradients_are_those_of_the_torch_twin(kind: str, short: bool) -> None:
    world = World.grown(busy(decay=kind, short_vector=short), stream(200))
    edge, scratch = world.edge(LATE, AGES), world.scratch()
    before = [array.copy() for array in (world.table.long, world.table.short, world.table.context)]
    assert kernel.interaction_gradients(world.table, edge, world.rule, scratch)
    ends = [Parameters.of(world.table, int(row), [(int(row), edge.relation, 1.0, 1.0)]) for row in edge.ends]
    h = [end.h(age, kind) for end, age in zip(ends, UNITS, strict=True)]
    z = [(own + end.context[0]) / 2 for own, end in zip(h, ends, strict=True)]
    (-torch.nn.functional.logsigmoid(z[0] @ z[1])).backward()
    for side, end in enumerate(ends):
        close(scratch.h[side], h[side].detach().numpy())
        close(scratch.gradient[side], grad(end.long))
        close(scratch.gradient[side], grad(end.context)[0])
    assert all(np.array_equal(a, b) for a, b in zip(before, (world.table.long, world.table.short, world.table.context), strict=True))


@pytest.mark.parametrize("clip", [10.0, 0.02])
@pytest.mark.parametrize("kind", KINDS)
def test_the_short_vector_and_its_alpha_step_as_the_torch_twin_says(kind: str, clip: float) -> None:
    config = busy(decay=kind, short_vector=True, max_gradient_norm=clip)
    world = World.grown(config, stream(200))
    table = world.table
    table.alpha[:], table.alpha_sum[:] = (0.7, -0.4), 1e-4
    for side, (age_ms, units) in enumerate(zip(AGES, UNITS, strict=True)):
        edge = world.edge(LATE, AGES)
        row = int(edge.ends[side])
        scratch, slots = differentiated(world, side, edge)
        twin, short, alpha = Parameters.of(table, row, slots), table.short[row].copy(), table.alpha[side]
        twin.loss(slots, config, units).backward()
        shorts = adagrad(short, grad(twin.short), table.short_sum[row], config.rate, clip)
        alphas = adagrad(alpha, grad(twin.alpha), table.alpha_sum[side], config.rate, clip)
        kernel.update_short(table, row, age_ms, scratch.gradient[side], world.rule)
        close(table.short[row] - short, shorts[0] - short)
        close(table.short_sum[row], shorts[1])
        close(table.alpha[side] - alpha, alphas[0] - alpha, 1e-3)
        close(table.alpha_sum[side], alphas[1], 1e-3)


def test_a_short_vector_met_just_now_teaches_no_alpha() -> None:
    world = World.grown(busy(short_vector=True), stream(200))
    before, gradient = world.table.alpha.copy(), np.ones(BUSY.dimensions, np.float32)
    for age_ms in (0, -5):
        kernel.update_short(world.table, 3, age_ms, gradient, world.rule)
    assert np.array_equal(world.table.alpha, before)


def test_what_is_left_of_the_short_vector_at_the_next_edge() -> None:
    config = busy(short_vector=True)
    world = World.grown(config, stream(200))
    world.table.alpha[:] = 0.7, -0.4
    for id_, alpha in (("u3", 0.7), ("i5", -0.4)):
        row, h = world.row(id_), np.empty(BUSY.dimensions, np.float32)
        age = DAY_MS * 9 / (config.decay_unit_seconds * 1000) / (1 + math.exp(-alpha))
        kernel.effective(world.table, row, 9 * DAY_MS, world.rule, h)
        close(h, world.table.long[row] + world.table.short[row] / math.log(math.e + age), 1e-6)


# ---- decay


@pytest.mark.parametrize("kind", KINDS)
def test_decay_is_the_published_one_and_its_slope_is_what_the_numbers_say(kind: str) -> None:
    for age in (0.3, 1.0, 7.0, 40.0):
        twin = torch.tensor(age, dtype=torch.float64, requires_grad=True)
        g = faded(twin, kind)
        g.backward()
        assert decay(age, KINDS[kind]) == pytest.approx(float(g.detach()))
        assert decay_slope(age, KINDS[kind]) == pytest.approx(float(grad(twin)))
        step = 1e-5
        slope = (decay(age + step, KINDS[kind]) - decay(age - step, KINDS[kind])) / (2 * step)
        assert decay_slope(age, KINDS[kind]) == pytest.approx(slope, rel=1e-6)
    assert decay(0.0, KINDS[kind]) == decay(-5.0, KINDS[kind]) == 1.0, "an edge from the future counts as new"
    assert decay_slope(-5.0, KINDS[kind]) == decay_slope(0.0, KINDS[kind]) < 0


def test_with_the_log_decay_tau_cuts_edges_older_than_a_hundred_days() -> None:
    assert decay(25.2, LOG) > SupaConfig().tau > decay(25.4, LOG)


# ---- steps


def test_a_step_adds_the_mean_square_and_divides_by_its_root() -> None:
    random, sums, total, value = np.random.default_rng(0), np.zeros((2, 3), np.float32), 0.0, np.zeros(8)
    ours = np.zeros(8, np.float32)
    for _ in range(20):
        gradient = (4 * random.normal(size=8)).astype(np.float32)
        value, total = adagrad(value, gradient, total, 0.15, 10.0)
        descend(ours, step_size(sums, (1, 2), float((gradient.astype(float) ** 2).sum()), 8, 0.15, 10.0), gradient)
    close(ours, value)
    close(sums[1, 2], total)
    assert np.count_nonzero(sums) == 1


@pytest.mark.parametrize("clip", [10.0, 0.05])
@pytest.mark.parametrize("propagation", ["weight", "logit"])
def test_contexts_biases_and_the_long_vector_take_row_wise_steps(propagation: str, clip: float) -> None:
    """A context that stands in several slots takes a step for each, one after the other."""
    config = busy(propagation=propagation, max_gradient_norm=clip, walks=6)
    world = World.grown(config, stream(200))
    table, edge = world.table, world.edge(LATE)
    scratch, slots = differentiated(world, 0, edge)
    assert (len({slot[:2] for slot in slots}) < len(slots)) == (propagation == "logit")
    twin = Parameters.of(table, int(edge.ends[0]), slots)
    twin.loss(slots, config).backward()
    expected = _stepped(world, twin, slots)
    value, total = adagrad(table.long[edge.ends[0]], grad(twin.long), table.long_sum[edge.ends[0]], config.rate, clip)
    _step(world, scratch, len(slots), edge)
    for (name, row, relation), (wanted, of) in expected.items():
        close(getattr(table, name)[row, relation], wanted)
        close(getattr(table, f"{name}_sum")[row, relation], of)
    close(table.long[edge.ends[0]], value)
    close(table.long_sum[edge.ends[0]], total)


def _stepped(world: World, twin: Parameters, slots: list[Slot]) -> dict[tuple[str, int, int], tuple[Any, float]]:
    """Contexts and biases after their steps, and their sums."""
    table, config, out = world.table, world.config, dict[tuple[str, int, int], tuple[Any, float]]()
    for k, (row, relation, _, _) in enumerate(slots):
        for name, gradient, rate in (("context", grad(twin.context)[k], config.rate), ("bias", grad(twin.bias)[k], config.bias_rate)):
            first = getattr(table, name)[row, relation].astype(float), float(getattr(table, f"{name}_sum")[row, relation])
            now = out.get((name, row, relation), first)
            out[name, row, relation] = adagrad(*now[:1], gradient, now[1], rate, config.max_gradient_norm)
    return out


def _step(world: World, scratch: Scratch, count: int, edge: Edge) -> None:
    table, rates = world.table, world.rule.rates
    update_contexts(table.context, table.context_sum, scratch.slots, count, scratch.slope, scratch.h[0], rates)
    update_biases(table.bias, table.bias_sum, scratch.slots, count, scratch.slope, rates)
    update_long(table.long, table.long_sum, edge.ends[0], scratch.gradient[0], rates)


def test_only_rows_in_the_slots_move() -> None:
    world = World.grown(BUSY, stream(200))
    edge = world.edge(LATE)
    scratch, slots = differentiated(world, 0, edge)
    before = world.table.context.copy(), world.table.bias.copy(), world.table.long.copy()
    _step(world, scratch, len(slots), edge)
    moved = [
        np.argwhere((was != now).reshape(*was.shape[:2], -1).any(axis=2)) for was, now in zip(before[:2], world.table[2:4], strict=True)
    ]
    assert all({tuple(at) for at in of.tolist()} == {slot[:2] for slot in slots} for of in moved)
    assert np.flatnonzero((before[2] != world.table.long).any(axis=1)).tolist() == [int(edge.ends[0])]


def test_a_gradient_of_nothing_moves_nothing() -> None:
    slots = Slots(np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1), np.ones(1), np.zeros(1, np.uint64))
    bias, sums = np.ones((1, len(RELATIONS)), np.float32), np.zeros((1, len(RELATIONS)), np.float32)
    update_biases(bias, sums, slots, 1, np.zeros(1), Rates(0.1, 0.3, 10.0))
    assert np.array_equal(bias, np.ones_like(bias)) and not sums.any()
