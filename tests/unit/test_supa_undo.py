"""What is learned on trial is taken back to the byte, in the rows that it touched."""

from typing import Any

import numpy as np
import pytest
from supa_reference import DAY_MS, START_MS, Contact, World, busy, mingled, stream

from learners.supa.undo import COPIED, Undo, begin, drop, end, keep, new_undo, roll_back, with_room

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"short_vector": True, "loss": "sigmoid", "interaction": True, "propagation": "logit"},
    {"short_vector": True, "forget_half_life_seconds": 86_400.0 * 300},
    {"node_types": ("user", "item", "tag"), "short_vector": True},
)
LATER = [(one, other, relation, ts_ms + 1000 * DAY_MS) for one, other, relation, ts_ms in stream(40, seed=9)]
NOW_MS = START_MS + 2000 * DAY_MS


def parameters(world: World) -> dict[str, bytes]:
    """Everything that is taken back."""
    return {name: getattr(world.table, name).tobytes() for name in (*COPIED, "alpha", "alpha_sum")}


def begun(world: World, room: int = 3000) -> Undo:
    undo = with_room(new_undo(world.table, world.table.alive.size), room)
    begin(undo, world.table)
    return undo


def on_trial(world: World, undo: Undo, contacts: list[Contact]) -> None:
    assert world.learn_run(world.run(*contacts), world.scratch(undo=undo)) == 0


@pytest.mark.parametrize("changes", KINDS)
def test_all_that_was_learned_since_is_taken_back_to_the_byte(changes: dict[str, Any]) -> None:
    contacts = (mingled if "node_types" in changes else stream)(340)
    world = World.grown(busy(**changes), contacts[:300])
    before, undo, now = parameters(world), begun(world), world.table
    rows = {name: getattr(now, name).copy() for name in COPIED}
    on_trial(world, undo, contacts[300:])
    changed = {row for name in COPIED for row in np.flatnonzero((rows[name] != getattr(now, name)).reshape(now.alive.size, -1).any(axis=1))}
    assert len(changed) > 20 and changed <= set(undo.row[: undo.copies[0]].tolist())
    if "short_vector" in changes:
        assert parameters(world)["alpha"] != before["alpha"]
    roll_back(undo, world.table, world.ordinal, 5)
    assert parameters(world) == before
    assert undo.epoch[0] == undo.copies[0] == 0, "it holds no longer"


def test_who_met_whom_stays_and_what_is_served_is_told() -> None:
    world = World.grown(busy(), stream(300))
    undo, table = begun(world), world.table
    on_trial(world, undo, LATER)
    remembered = (table.last_ms, table.edges, table.alive, *table.neighbours)
    kept = [array.copy() for array in remembered]
    touched = undo.row[: undo.copies[0]].copy()
    table.touched[:] = table.dirty[:] = False
    roll_back(undo, table, 999, NOW_MS)
    assert all(np.array_equal(now, then) for now, then in zip(remembered, kept, strict=True))
    assert np.flatnonzero(table.touched).tolist() == sorted(touched.tolist())
    assert (table.version[touched] == 999).all() and (table.event_ms[touched] == NOW_MS).all()
    assert table.dirty.tolist() == [True, True]


def test_a_row_is_copied_once_before_its_first_change() -> None:
    world = World.grown(busy(), stream(60))
    undo, table = begun(world), world.table
    first = table.long[3].copy()
    for value in (7.0, 8.0):
        keep(undo, table, 3)
        table.long[3] = value
    assert undo.copies[0] == 1 and np.array_equal(undo.long[0], first)
    begin(undo, table)
    keep(undo, table, 3)
    table.long[3] = 9.0
    roll_back(undo, table, 0, 0)
    assert (table.long[3] == 8.0).all(), "as at the last beginning"


def test_before_the_beginning_and_after_the_end_nothing_is_kept() -> None:
    world = World.grown(busy(), stream(60))
    undo = with_room(new_undo(world.table, world.table.alive.size), 100)
    keep(undo, world.table, 3)
    begin(undo, world.table)
    end(undo)
    on_trial(world, undo, LATER[:3])
    assert undo.copies[0] == 0 and not undo.kept.any()


def test_a_row_freed_meanwhile_stays_free() -> None:
    world = World.grown(busy(), stream(300))
    undo, before = begun(world), parameters(world)
    gone = [world.row("i1"), world.row("i2")]
    copies = {name: getattr(world.table, name).copy() for name in COPIED}
    on_trial(world, undo, [*LATER, ("u1", "i1", 0, NOW_MS)])
    for row in gone:
        drop(undo, row)
    world.remove("i1")
    world.remove("i2")
    assert undo.row[: undo.copies[0]].tolist().count(-1) == 2
    roll_back(undo, world.table, world.ordinal, 5)
    for name, array in copies.items():
        array[gone] = 0
        assert array.tobytes() == getattr(world.table, name).tobytes() != before[name] or name.startswith("short"), name


def test_one_that_has_the_row_now_is_taken_back_to_its_own_first_vectors() -> None:
    world = World.grown(busy(), stream(300))
    undo = begun(world)
    on_trial(world, undo, [("u1", "i1", 0, LATER[0][3])])
    drop(undo, world.row("i1"))
    freed = world.remove("i1")
    assert world.row("i77") == freed
    own = world.table.long[freed].copy(), world.table.context[freed].copy()
    on_trial(world, undo, [("u1", "i77", 0, LATER[0][3]), ("u2", "i77", 1, LATER[0][3])])
    assert not np.array_equal(world.table.long[freed], own[0])
    roll_back(undo, world.table, world.ordinal, 5)
    assert np.array_equal(world.table.long[freed], own[0]) and np.array_equal(world.table.context[freed], own[1])
    assert world.table.alive[freed]


def test_room_grows_and_keeps_what_is_held() -> None:
    world = World.grown(busy(), stream(100))
    undo = begun(world, 4)
    for row in range(4):
        keep(undo, world.table, row)
    assert with_room(undo, 0) is undo, "there is room"
    grown = with_room(undo, 3)
    assert grown.row.size >= 7 and grown.copies is undo.copies and grown.kept is undo.kept
    for name in ("row", *COPIED):
        assert np.array_equal(getattr(grown, name)[:4], getattr(undo, name)[:4]), name
    sizes, last = set[int](), grown
    for _ in range(200):
        last = with_room(last, 1)
        last.copies[0] += 1
        sizes.add(last.row.size)
    assert len(sizes) < 8, "it doubles"
