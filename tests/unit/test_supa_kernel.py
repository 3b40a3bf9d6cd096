"""SUPA's kernel against a torch twin of the loss, AdaGrad by hand and sampling over plain lists."""

import numpy as np
import pytest
import torch
from supa_reference import History, Parameters, adagrad, nodes

from learners.supa import SupaConfig, kernel
from learners.supa.learner import Nodes
from learners.supa.neighbours import decay, remember

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
RELATIONS = (("engage", ("click",)), ("buy", ("purchase",)))
BUSY = SupaConfig(seed=7, dimensions=16, relations=RELATIONS, ring_size=4, walks=2, walk_length=3, negatives=9, negative_block_rows=4)
Edge = tuple[str, str, int, int]  # user, item, relation, ts_ms


def stream(count: int, seed: int = 0, users: int = 12, items: int = 30) -> list[Edge]:
    """Edges about three days apart, so that many of a walk's edges are below tau; one in ten comes out of order."""
    random = np.random.default_rng(seed)
    ts_ms = START_MS + np.arange(count) * 3 * DAY_MS - random.integers(0, 10, count) // 9 * 20 * DAY_MS
    return [(f"u{random.integers(users)}", f"i{random.integers(items)}", int(random.integers(2)), int(at)) for at in ts_ms]


def learn(tables: tuple[Nodes, Nodes], edge: Edge, ordinal: int, config: SupaConfig) -> np.ndarray:
    """One edge through the compiled kernel; the item's vector after it."""
    user, item, relation, ts_ms = edge
    rows = tables[0].admit([user]), tables[1].admit([item])
    out = np.zeros((1, 2 * config.dimensions), np.float32)
    both = (tables[0].table, tables[1].table)
    assert kernel.learn_run(both, np.array([relation]), *rows, np.array([ts_ms]), ordinal, config.rule(), out, np.zeros(2)) == 0
    return out[0]


def grown(config: SupaConfig, count: int) -> tuple[Nodes, Nodes]:
    tables = nodes(config)
    for ordinal, edge in enumerate(stream(count)):
        learn(tables, edge, ordinal, config)
    return tables


def drawn(tables: tuple[Nodes, Nodes], side: int, rows: tuple[int, int], relation: int, ts_ms: int, ordinal: int, config: SupaConfig):
    """The scratch with one end's slots, and those as a list."""
    scratch = kernel.new_scratch(config.rule(), config.dimensions, np.zeros(2))
    both = (tables[0].table, tables[1].table)
    count = kernel.sample(both, side, rows[side], rows[1 - side], relation, ts_ms, ordinal, config.rule(), scratch.slots)
    return scratch, [(int(scratch.slots.row[k]), int(scratch.slots.relation[k]), float(scratch.slots.weight[k])) for k in range(count)]


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("side", [0, 1])
def test_gradients_are_those_of_the_torch_twin(side: int, short: bool) -> None:
    config = SupaConfig(**{**BUSY.__dict__, "short_vector": short})
    tables = grown(config, 200)
    rows, fade = (3, 5), 0.6
    for ordinal in range(200, 230):
        scratch, slots = drawn(tables, side, rows, ordinal % 2, START_MS + 601 * DAY_MS, ordinal, config)
        own, other = tables[side].table, tables[1 - side].table
        assert kernel.differentiate(own, other, rows[side], fade, len(slots), scratch)
        twin = Parameters.of(own, other, rows[side], slots)
        twin.loss(fade, slots).backward()
        h = scratch.h.astype(np.float64)
        close(scratch.gradient, twin.long.grad)
        close(scratch.slope[: len(slots)], twin.bias.grad)
        close(scratch.slope[: len(slots), None] * h, twin.context.grad)
        if short:
            close(fade * scratch.gradient, twin.short.grad)


def test_the_loss_is_what_the_twin_loses_on_the_node_that_was_met() -> None:
    tables, loss, lost = grown(BUSY, 200), np.zeros(2), []
    for ordinal in range(200, 260):
        scratch, slots = drawn(tables, 0, (3, 5), 0, START_MS + 601 * DAY_MS, ordinal, BUSY)
        assert kernel.differentiate(tables[0].table, tables[1].table, 3, 0.6, len(slots), scratch)
        kernel.lose(scratch.slope[0], loss)
        only_met = [slots[0], *((row, relation, -1.0 if weight else 0.0) for row, relation, weight in slots[1:])]
        lost.append(float(Parameters.of(tables[0].table, tables[1].table, 3, only_met).loss(0.6, only_met).detach()))
    shares = np.array([kernel.LOSS_SHARE * (1 - kernel.LOSS_SHARE) ** age for age in range(60)])[::-1]
    assert loss[1] == pytest.approx(shares.sum())
    assert loss[0] / loss[1] == pytest.approx((shares * lost).sum() / shares.sum(), rel=1e-4)
    assert np.ptp(lost) > 0.01


def test_every_end_that_learns_counts_in_the_loss() -> None:
    tables, loss = grown(BUSY, 60), np.zeros(2)
    both, rows = (tables[0].table, tables[1].table), (np.array([3, 3], np.int32), np.array([5, 6], np.int32))
    out = np.zeros((2, 2 * BUSY.dimensions), np.float32)
    kernel.learn_run(both, np.array([0, -1]), *rows, np.array([START_MS, START_MS]), 60, BUSY.rule(), out, loss)
    assert loss[1] == pytest.approx(1 - (1 - kernel.LOSS_SHARE) ** 2)  # two ends of one edge; what is no edge loses nothing
    assert 0 < loss[0] / loss[1] < 20


def close(ours: np.ndarray, theirs: torch.Tensor | None) -> None:
    assert theirs is not None
    error = np.linalg.norm(ours - theirs.numpy()) / np.linalg.norm(theirs.numpy())
    assert error < 1e-4, error


@pytest.mark.parametrize("clip", [10.0, 0.05])
@pytest.mark.parametrize("short", [False, True])
def test_a_step_is_row_wise_adagrad_of_these_gradients(short: bool, clip: float) -> None:
    config = SupaConfig(**{**BUSY.__dict__, "short_vector": short, "max_gradient_norm": clip})
    tables, row, fade = grown(config, 200), 3, 0.6
    scratch, slots = drawn(tables, 0, (row, 5), 1, START_MS + 601 * DAY_MS, 200, config)
    own, other = tables[0].table, tables[1].table
    twin = Parameters.of(own, other, row, slots)
    twin.loss(fade, slots).backward()
    assert twin.long.grad is not None and twin.context.grad is not None and twin.bias.grad is not None
    expected = [adagrad(own.long[row].astype(float), twin.long.grad.numpy(), float(own.long_sum[row]), config)]
    for k, (r, c, _) in enumerate(slots):
        expected.append(adagrad(other.context[r, c].astype(float), twin.context.grad[k].numpy(), float(other.context_sum[r, c]), config))
        expected.append(adagrad(other.bias[r, c].astype(float), twin.bias.grad[k].numpy(), float(other.bias_sum[r, c]), config))
    if short and twin.short.grad is not None:
        expected.append(adagrad(own.short[row].astype(float), twin.short.grad.numpy(), float(own.short_sum[row]), config))
    kernel.differentiate(own, other, row, fade, len(slots), scratch)
    kernel.update(own, other, row, fade, len(slots), config.rule(), scratch)
    actual = [(own.long[row], own.long_sum[row])]
    for r, c, _ in slots:
        actual += [(other.context[r, c], other.context_sum[r, c]), (other.bias[r, c], other.bias_sum[r, c])]
    actual += [(own.short[row], own.short_sum[row])] if short else []
    for (value, total), (twin_value, twin_total) in zip(actual, expected, strict=True):
        np.testing.assert_allclose(value, twin_value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(total, twin_total, rtol=1e-4)


@pytest.mark.parametrize("short", [False, True])
def test_an_edge_is_one_step_of_each_end_faded_by_its_last_time(short: bool) -> None:
    """Against the same parts called one by one, with t_v taken from the list of edges."""
    config = SupaConfig(**{**BUSY.__dict__, "short_vector": short})
    whole, parts, edges = nodes(config), nodes(config), stream(120)
    for ordinal, edge in enumerate(edges):
        user, item, relation, ts_ms = edge
        rows = int(parts[0].admit([user])[0]), int(parts[1].admit([item])[0])
        learn(whole, edge, ordinal, config)
        for table, row in zip(parts, rows, strict=True):
            kernel.arrive(table.table, row, ordinal, ts_ms)
        for side in (0, 1):
            past = [other[3] for other in edges[:ordinal] if other[side] == edge[side]]
            fade = decay(float(ts_ms - max(past, default=ts_ms)), config.decay_unit_seconds * 1000.0)
            scratch, slots = drawn(parts, side, rows, relation, ts_ms, ordinal, config)
            own, other = parts[side].table, parts[1 - side].table
            if slots[-1][2] == 0:
                kernel.differentiate(own, other, rows[side], fade, len(slots), scratch)
                kernel.update(own, other, rows[side], fade, len(slots), config.rule(), scratch)
        for side in (0, 1):
            remember(parts[side].table.rings, rows[side], rows[1 - side], 0, relation, ts_ms)
    for one, other in zip(whole, parts, strict=True):
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one.table[:8], other.table[:8], strict=True))


def test_sampling_sees_the_past_and_this_edge_only() -> None:
    """Slots of every edge, ids taken away now and then, equal to those of a twin that keeps all edges in lists."""
    tables, history = nodes(BUSY), History(BUSY)
    lengths = set()
    for ordinal, (user, item, relation, ts_ms) in enumerate(stream(400, seed=3)):
        if ordinal % 23 == 22:
            gone = stream(400, seed=3)[ordinal - 7][1]
            tables[1].remove(gone, ordinal)
            history.forget(1, gone)
        rows = int(tables[0].admit([user])[0]), int(tables[1].admit([item])[0])
        for side, (own, met) in enumerate(((user, item), (item, user))):
            _, slots = drawn(tables, side, rows, relation, ts_ms, ordinal, BUSY)
            name = tables[1 - side].ids.ids
            targets = {(name[r], c): w for r, c, w in slots if w > 0}
            expected = history.targets(side, own, met, relation, ts_ms, ordinal)
            assert targets == pytest.approx(expected)
            living = {id_: int(tables[s].ids.lookup([id_])[0]) for s, id_ in history.births if s != side}
            drawn_ids = history.negatives(side, {i for i, _ in expected}, ordinal, living, int(tables[1 - side].table.extent[0]))
            assert [(name[r], c) for r, c, w in slots if w == 0] == [(id_, relation) for id_ in drawn_ids]
            lengths.add((len(targets), len(drawn_ids)))
        learn(tables, (user, item, relation, ts_ms), ordinal, BUSY)
        history.learn(user, item, relation, ts_ms)
    assert len(lengths) > 12, "the stream should bring walks of every length"


def test_a_freed_row_is_never_met_under_its_new_id() -> None:
    config = SupaConfig(dimensions=8, walks=8, negatives=1)
    tables = nodes(config)
    for ordinal, item in enumerate(("old", "other")):
        learn(tables, ("u", item, 0, START_MS), ordinal, config)
    freed = int(tables[1].ids.lookup(["old"])[0])
    tables[1].remove("old", 2)
    learn(tables, ("stranger", "new", 0, START_MS), 2, config)
    assert tables[1].ids.lookup(["new"])[0] == freed, "the row is used again"
    met = set()
    for ordinal in range(20):
        _, slots = drawn(tables, 0, (0, 1), 0, START_MS, ordinal, config)
        met |= {row for row, _, weight in slots if weight > 0}
    assert met == {1}


def test_numbers_that_would_not_be_finite_change_nothing() -> None:
    tables = grown(BUSY, 60)
    users, items = tables[0].table, tables[1].table
    users.long[3] = 1e30
    before = [array.copy() for array in (*items[:8], *users[:4])]
    rows, out = (np.array([3], np.int32), np.array([5], np.int32)), np.zeros((1, 2 * BUSY.dimensions), np.float32)
    count = kernel.learn_run((users, items), np.array([0]), *rows, np.array([START_MS]), 60, BUSY.rule(), out, np.zeros(2))
    assert count >= 1, "the user's own update is refused"
    assert np.array_equal(users.long, before[8])
    assert np.array_equal(items.context, before[2]) and np.array_equal(items.context_sum, before[6])
    assert all(np.isfinite(array).all() for table in (users, items) for array in table[:8])


def test_first_vectors_depend_on_the_id_alone() -> None:
    one, other = nodes(BUSY), nodes(BUSY)
    rows = one[0].admit(["a", "b", "c", "a"])
    back = other[0].admit(["c", "b", "a"])
    assert np.array_equal(one[0].table.long[rows[:3]], other[0].table.long[back[::-1]])
    assert np.array_equal(one[0].table.context[rows[:3]], other[0].table.context[back[::-1]])
    as_item = one[1].table.long[one[1].admit(["a"])]
    assert not np.array_equal(as_item[0], one[0].table.long[rows[0]]), "a user and an item of one name differ"
    values = np.concatenate([one[0].table.long[rows[:3]].ravel(), one[0].table.context[rows[:3]].ravel()])
    assert 0.09 < np.abs(values).max() < 0.1 and abs(values.mean()) < 0.02
    assert np.unique(values).size == values.size


def test_dot_and_decay() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 64)).astype(np.float32)
    assert kernel.dot(a, b) == pytest.approx(float(a.astype(float) @ b), rel=1e-5)
    unit_ms = 4.0 * DAY_MS
    assert decay(0.0, unit_ms) == pytest.approx(1.0)
    assert decay(-5.0, unit_ms) == pytest.approx(1.0)
    assert decay(unit_ms, unit_ms) == pytest.approx(1 / np.log(np.e + 1))
    assert decay(25.2 * unit_ms, unit_ms) > 0.3 > decay(25.4 * unit_ms, unit_ms)


@pytest.mark.parametrize("side", [kernel.USER, kernel.ITEM])
@pytest.mark.parametrize("with_short", [True, False])
def test_served_vectors_are_those_of_the_rows(side: int, with_short: bool) -> None:
    rng = np.random.default_rng(side)
    long, context = rng.normal(size=(9, 8)).astype(np.float32), rng.normal(size=(9, 3, 8)).astype(np.float32)
    short = rng.normal(size=(9, 8 if with_short else 0)).astype(np.float32)
    rows = np.array([4, 0, 4, 8])
    h, c = long[rows] + short[rows] if with_short else long[rows], context[rows, kernel.SERVED]
    expected = np.concatenate([h, c] if side == kernel.USER else [c, h], axis=1)
    found = kernel.served_vectors(long, short, context, rows, side)
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()
