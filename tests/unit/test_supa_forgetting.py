"""What was learned halves in a half-life of event time, put off until a row is read: against a twin that applies the exponential."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from supa_logs import SMALL, examples, run
from supa_reference import DAY_MS, START_MS, World, busy, close, stream

from learners.supa import kernel
from learners.supa.descent import update_biases, update_contexts, update_long
from learners.supa.losses import differentiate
from learners.supa.neighbours import remember
from learners.supa.sampling import Edge
from learners.supa.table import FORGET_STEPS, arrive, fade

HALF_LIFE_MS = 200 * DAY_MS
FORGETS: dict[str, Any] = {"forget_half_life_seconds": HALF_LIFE_MS / 1000, "short_vector": True}
LEARNED = ("long", "short", "context", "bias")
SUMS = ("long_sum", "short_sum", "context_sum", "bias_sum")


def fade_naively(world: World, rows: Sequence[int], ts_ms: int) -> int:
    """Multiply each row that has not been for a sixty-fourth of a half-life; returns how many were."""
    table, count = world.table, 0
    for row in rows:
        half_lives = (ts_ms - int(table.faded_ms[row])) / HALF_LIFE_MS
        if half_lives >= 1 / FORGET_STEPS:
            for name in LEARNED:
                getattr(table, name)[row] *= np.float32(np.exp(-half_lives * np.log(2.0)))
            table.faded_ms[row] = ts_ms
            count += 1
    return count


@pytest.mark.parametrize("half_lives", [1.0, 2.0, 0.25, 1 / FORGET_STEPS])
def test_all_that_was_learned_halves_in_a_half_life(half_lives: float) -> None:
    world = World.grown(busy(**FORGETS), stream(60))
    row, before = world.row("i5"), {name: array.copy() for name, array in world.graph.arrays.items()}
    now_ms = int(world.table.faded_ms[row] + half_lives * HALF_LIFE_MS)
    fade(world.table, row, now_ms, world.rule.forget_per_ms)
    for name in LEARNED:
        close(world.graph.arrays[name][row], before[name][row] * 0.5**half_lives, 1e-6)
    assert world.table.faded_ms[row] == now_ms
    for name, array in world.graph.arrays.items():
        changed = set(np.flatnonzero((array != before[name]).reshape(len(array), -1).any(axis=1)).tolist())
        assert changed == ({row} if name in (*LEARNED, "faded_ms") else set()), name


def test_small_steps_are_put_off_and_none_is_lost() -> None:
    """A thousandth of a half-life at a time changes nothing until a sixty-fourth has passed; the whole is the same."""
    world = World.grown(busy(**FORGETS), stream(60))
    row, start = world.row("i5"), int(world.table.faded_ms[world.row("i5")])
    first, values = world.table.long[row].copy(), set[bytes]()
    for step in range(1, 1025):
        fade(world.table, row, start + step * HALF_LIFE_MS // 1024, world.rule.forget_per_ms)
        values.add(world.table.long[row].tobytes())
    assert len(values) == 1 + 64
    close(world.table.long[row], first / 2, 1e-5)


def test_time_that_goes_back_restores_nothing() -> None:
    world = World.grown(busy(**FORGETS), stream(60))
    before = world.table.long[3].copy(), int(world.table.faded_ms[3])
    fade(world.table, 3, before[1] - 9 * HALF_LIFE_MS, world.rule.forget_per_ms)
    assert np.array_equal(world.table.long[3], before[0]) and world.table.faded_ms[3] == before[1]


@pytest.mark.parametrize("changes", [{}, {"interaction": True, "loss": "sigmoid", "propagation": "logit", "bias_rate": 0.0}])
def test_rows_are_faded_where_an_edge_reads_them(changes: dict[str, Any]) -> None:
    """The ends before anything, the nodes that each end is trained against before its gradients are taken."""
    config = busy(**FORGETS, **changes)
    whole, twin, contacts, faded = World(config), World(config), stream(150), 0
    for ordinal, contact in enumerate(contacts):
        whole.learn(contact)
        rows, ts_ms, table = twin.rows(contact), contact[3], twin.table
        for row in rows:
            arrive(table, row, ordinal, ts_ms)
        ages_ms = (ts_ms - int(table.last_ms[rows[0]]), ts_ms - int(table.last_ms[rows[1]]))
        faded += fade_naively(twin, rows, ts_ms)
        edge = twin.edge(contact, ages_ms)
        if config.interaction:
            kernel.learn_interaction(table, edge, twin.rule, twin.scratch())
        faded += sum(learn_end(twin, side, edge) for side in (0, 1))
        for row, met in (rows, rows[::-1]):
            remember(table.neighbours, row, met, contact[2], ts_ms)
            table.last_ms[row] = max(table.last_ms[row], ts_ms)
        twin.ordinal += 1
    assert faded > 500
    for name in LEARNED:
        close(getattr(whole.table, name), getattr(twin.table, name), 1e-5)
    assert np.array_equal(whole.table.faded_ms, twin.table.faded_ms)
    for name in SUMS:
        close(getattr(whole.table, name), getattr(twin.table, name), 1e-5)


def learn_end(twin: World, side: int, edge: Edge) -> int:
    """Part by part; returns how many rows faded."""
    table, rule, row = twin.table, twin.rule, edge.ends[side]
    scratch, drawn = twin.drawn(side, edge)
    if drawn[-1][2] > 0:
        return 0
    faded = fade_naively(twin, [slot[0] for slot in drawn], edge.ts_ms)
    h, gradient, slots, slope = scratch.h[side], scratch.gradient[side], scratch.slots, scratch.slope
    kernel.effective(table, row, edge.ages_ms[side], rule, h)
    assert differentiate(table.context, table.bias, slots, len(drawn), rule.sigmoid, h, slope, gradient)
    update_contexts(table.context, table.context_sum, slots, len(drawn), slope, h, rule.rates)
    if rule.rates.biases:
        update_biases(table.bias, table.bias_sum, slots, len(drawn), slope, rule.rates)
    kernel.update_short(table, row, edge.ages_ms[side], gradient, rule)
    update_long(table.long, table.long_sum, row, gradient, rule.rates)
    return faded


def test_without_a_half_life_nothing_fades() -> None:
    """The time from which a row would fade is that of its first edge."""
    world, contacts = World.grown(busy(), stream(60)), stream(60)
    assert world.rule.forget_per_ms == 0.0
    for id_ in ("u1", "i5"):
        assert world.table.faded_ms[world.row(id_)] == next(contact[3] for contact in contacts if id_ in contact)


def test_what_fades_is_told_even_where_nothing_is_learned() -> None:
    """Two nodes of two types and negatives of the type that was met: there are none to learn from, ten half-lives later."""
    config = replace(SMALL, typed_share=1.0, walks=0, forget_half_life_seconds=6.0)
    learner = run(examples([("click", "u", "a")]), config=config)
    first = learner.touched()["item_vectors"]["vector"].to_numpy()
    learner.graph.learn(np.array([[0, learner.items.first]], np.int32), np.zeros(1, np.int64), later(), 1)
    told = learner.touched()["item_vectors"]
    assert np.linalg.norm(learner.items.vectors(np.array([0]))) < 0.01 * np.linalg.norm(first)
    assert told["version"].to_list() == [1]


def later() -> np.ndarray:
    """int64 [1]: a minute after the log's first row."""
    ts_ms = np.full(1, START_MS + 60_000, np.int64)
    ts_ms.flags.writeable = False
    return ts_ms
