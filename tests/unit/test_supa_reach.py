"""What the memory-aware score reads: histories, ways and features, against lists of all edges, enumerated paths and named features."""

from collections import Counter

import numpy as np
import pytest
from supa_memory_reference import (
    DAY_MS,
    STEPS,
    Past,
    alive,
    asked,
    features,
    gathering,
    int32,
    known,
    known_of,
    left,
    minded,
    vector,
    ways,
)
from supa_reference import START_MS, Contact, World

from learners.supa.history import HALF_LIVES_MS, NEVER, History, no_history, note
from learners.supa.pairs import FEATURES, OF_THE_MOMENT, OLDEST, describe
from learners.supa.reach import explore

HOUR_MS, RING = 3_600_000, 12


def grown(count: int, ring: int, each: int = 12, seed: int = 0) -> Past:
    """With nodes that were removed, some of them back, and two that never had an edge."""
    past = Past(World(minded(ring_size=ring)))
    contacts = gathering(count, seed, each)
    for start in range(0, count, 30):
        past.learn(*contacts[start : start + 30])
        past.remove(f"{'uit'[start // 30 % 3]}{start // 30 % 5}")
    for id_ in ("u90", "i90"):
        past.world.row(id_)
    return past


# ---- histories


def room(rows: int) -> History:
    return History(
        np.zeros((rows, len(HALF_LIVES_MS))), np.zeros((rows, len(HALF_LIVES_MS))), np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    )


def counted(heat: np.ndarray, now_ms: int) -> np.ndarray:
    """float64 [half-lives]: the edges that a row's heat says are left."""
    return np.array([2.0 ** (at - now_ms / half_life) for at, half_life in zip(heat, HALF_LIVES_MS, strict=True)])


def test_counts_are_sums_over_all_edges_late_ones_too() -> None:
    random, of, past = np.random.default_rng(0), room(3), [list[tuple[int, bool]]() for _ in range(3)]
    for k in range(300):
        row, new, ts_ms = int(random.integers(3)), bool(random.random() < 0.4), START_MS + k * 120_000 - int(10 ** random.uniform(0, 8))
        note(of, row, len(past[row]), new, ts_ms)
        past[row].append((ts_ms, new))
        edges, met = [at for at, _ in past[row]], [at for at, was_new in past[row] if was_new]
        for now_ms in (ts_ms, ts_ms + HOUR_MS, max(edges)):
            for heat, times in ((of.heat, edges), (of.new_heat, met)):
                expected = [left(times, now_ms, half_life) for half_life in HALF_LIVES_MS]
                if times:
                    np.testing.assert_allclose(counted(heat[row], now_ms), expected, rtol=1e-6, atol=1e-300)
        assert of.first_ms[row] == edges[0] and of.partners[row] == len(met)
        assert of.new_heat[row].any() == bool(met), "of a row that met nobody new nothing is written"


@pytest.mark.parametrize("start_ms", [0, START_MS])
def test_a_count_halves_in_its_half_life(start_ms: int) -> None:
    """At the epoch too, where what was never counted is as great as one edge."""
    of = room(1)
    note(of, 0, 0, False, start_ms)
    note(of, 0, 1, True, start_ms)
    for k, half_life in enumerate(HALF_LIVES_MS):
        assert counted(of.heat[0], start_ms)[k] == pytest.approx(2.0)
        assert counted(of.heat[0], start_ms + int(half_life))[k] == pytest.approx(1.0)
        assert counted(of.new_heat[0], start_ms + int(half_life))[k] == pytest.approx(0.5)


def test_centuries_apart_nothing_overflows() -> None:
    of, century_ms = room(1), 36_525 * DAY_MS
    for edges, ts_ms in enumerate((0, 20 * century_ms, century_ms, 20 * century_ms)):
        note(of, 0, edges, True, ts_ms)
    np.testing.assert_allclose(counted(of.heat[0], 20 * century_ms), 2.0, rtol=1e-5)
    assert of.first_ms[0] == 0 and of.partners[0] == 4


def test_no_history_is_of_no_row() -> None:
    arrays = no_history()
    assert set(arrays) == set(History._fields) and all(len(array) == 0 for array in arrays.values())
    assert all(arrays[name].dtype == getattr(room(1), name).dtype and arrays[name].ndim == getattr(room(1), name).ndim for name in arrays)
    assert -np.inf == NEVER


@pytest.mark.parametrize("ring", [2, RING])
def test_edges_are_noted_in_both_ends_histories(ring: int) -> None:
    """Of a small ring much is forgotten, and who was forgotten is new again."""
    past = grown(300, ring)
    of, now_ms, again = past.world.graph.memory.history, last_ms(past), 0
    for row in alive(past.world):
        edges, new = past.of(row), past.of(row, new=True)
        assert past.world.table.edges[row] == len(edges) and of.partners[row] == len(new) and of.first_ms[row] == edges[0]
        again += len(new) - len(known(past.world.table.neighbours, row))
        for heat, times in ((of.heat[row], edges), (of.new_heat[row], new)):
            expected = [left(times, now_ms, half_life) for half_life in HALF_LIVES_MS]
            np.testing.assert_allclose(counted(heat, now_ms), expected, rtol=1e-6, atol=1e-300)
    assert (again > 100) == (ring == 2) and sum(len(past.of(row)) - len(past.of(row, new=True)) for row in alive(past.world)) > 20


def test_of_a_removed_row_no_history_is_left() -> None:
    past = grown(100, RING)
    row, of = past.world.row("i7"), past.world.graph.memory.history
    assert of.partners[row] and of.heat[row].all()
    past.remove("i7")
    assert not any(array[row].any() for array in of)


# ---- ways


@pytest.mark.parametrize(("ring", "count"), [(4, 90), (4, 400), (RING, 30), (RING, 400)])
def test_ways_are_those_of_all_paths(ring: int, count: int) -> None:
    world = grown(count, ring).world
    of, reach, seen = world.table.neighbours, world.graph.memory.reach, Counter[str]()
    for q in [*alive(world), world.row("u90")]:
        expected, order = ways(of, q), known(of, q)
        with asked(world, q, START_MS) as (_, query):
            assert query.neighbours == len(order)
            assert reach.order[: query.neighbours].tolist() == [entry.entry for entry in order]
            assert dict(enumerate(reach.entry[reach.entry > 0])) == dict(enumerate(1 + e.entry for e in sorted(order, key=lambda e: e.row)))
            assert np.flatnonzero(reach.entry).tolist() == sorted(entry.row for entry in order)
            found = reach.found[: reach.size[0]].tolist()
            assert len(found) == len(set(found)) and set(found) == set(expected) == set(np.flatnonzero(reach.ways))
            np.testing.assert_allclose(reach.ways[found], [expected[row][0] for row in found], rtol=1e-12)
            np.testing.assert_allclose(reach.recent[found], [expected[row][1] for row in found], rtol=1e-12)
            assert set(np.flatnonzero(reach.recent)) == set(found)
        assert not any(array.any() for array in (reach.ways, reach.recent, reach.entry, reach.size)), "a query is left as it was found"
        seen.update(long=len(order) > STEPS, stale=int(of.held[q]) > len(order), itself=q in expected, many=len(expected) > 5)
    assert all(
        seen[case] for case in ("itself", "many", *(("stale",) if count > 90 else ()), *(("long",) if (ring, count) == (RING, 400) else ()))
    )


def chain(*contacts: tuple[str, str, int], ring: int = 4) -> World:
    """Edges so many hours after the start."""
    world = World(minded(ring_size=ring))
    world.learn(*[(one, other, 0, START_MS + hours * HOUR_MS) for one, other, hours in contacts])
    return world


def reached(world: World, id_: str) -> dict[int, tuple[float, float]]:
    with asked(world, world.row(id_), START_MS) as (memory, _):
        of = memory.reach
        return {int(row): (float(of.ways[row]), float(of.recent[row])) for row in of.found[: of.size[0]]}


def test_a_way_weighs_less_through_those_who_know_many() -> None:
    """u0 - i0 - u1 - i1, a day between the last two: by hand. The way back to i0 is one too."""
    world = chain(("u0", "i0", 0), ("u1", "i0", 1), ("u1", "i1", 25))
    weight = 1 / np.log(4) ** 2
    expected = {world.row("i1"): (weight, weight / 2), world.row("i0"): (weight, weight)}
    found = reached(world, "u0")
    assert found.keys() == expected.keys()
    assert all(found[row] == pytest.approx(expected[row]) for row in expected)


def test_no_way_goes_through_the_query_or_a_node_that_is_gone() -> None:
    world = chain(("u0", "i0", 0), ("u0", "i1", 1))
    assert reached(world, "u0") == {}, "both ways on from its items lead back"
    world = chain(("u0", "i0", 0), ("u1", "i0", 1), ("u1", "i1", 2), ("u2", "i2", 3), ("u2", "i0", 4))
    assert set(reached(world, "u0")) == {world.row(id_) for id_ in ("i0", "i1", "i2")}
    world.remove("u1")
    assert set(reached(world, "u0")) == {world.row(id_) for id_ in ("i0", "i2")}
    world.learn(("u3", "i9", 0, START_MS + 9 * HOUR_MS))
    assert world.row("u3") == world.row("u2") - 1, "it has the row that was free"
    assert set(reached(world, "u0")) == {world.row(id_) for id_ in ("i0", "i2")}
    world.remove("i2")
    assert set(reached(world, "u0")) == {world.row("i0")}
    world.remove("i0")
    assert reached(world, "u0") == {}


def test_ways_go_on_from_the_neighbours_met_last() -> None:
    """Of ten, the first two are too long ago; a later edge with one of them brings it back, and the next is."""
    own = [("u0", f"i{k}", k) for k in range(10)]
    world = chain(*own, *((f"u{k + 1}", f"i{k}", 20) for k in range(10)), *((f"u{k + 1}", f"t{k}", 21) for k in range(10)), ring=16)
    assert {row for k in range(2, 10) if (row := world.row(f"t{k}"))} == {row for row in reached(world, "u0") if world.table.type[row] == 2}
    world.learn(("u0", "i0", 0, START_MS + 30 * HOUR_MS))
    found = reached(world, "u0")
    assert {world.row(f"t{k}") for k in (0, *range(3, 10))} == {row for row in found if world.table.type[row] == 2}
    assert found[world.row("t0")][0] == pytest.approx(8 * found[world.row("t3")][0]), "first of eight, and last of them"


# ---- features


def describe_all(world: World, q: int, rows: list[int], now_ms: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of all, and whether they are remembered."""
    with asked(world, q, now_ms) as (memory, query):
        x, remembered = np.full((len(rows) + 3, memory.x.shape[1]), 7.0), np.full(len(rows) + 3, 7, np.int64)
        describe(world.table, memory.history, query, np.array(rows, np.int32), x, remembered)
    assert (x[len(rows) :] == 7.0).all() and (remembered[len(rows) :] == 7).all(), "no more than asked for"
    return x[: len(rows)], remembered[: len(rows)]


def which(world: World, q: int, v: int) -> str:
    """Who remembers the other: "own" the query, "theirs" the candidate alone."""
    of = world.table.neighbours
    return "own" if known_of(of, q, v) else "theirs" if known_of(of, v, q) else "neither"


def last_ms(past: Past) -> int:
    return max(ts_ms for row in past.edges for ts_ms in past.of(row))


@pytest.mark.parametrize("ring", [1, 3, RING])
def test_features_are_what_their_names_say(ring: int) -> None:
    past, names, seen = grown(270, ring, each=7), [*FEATURES, "first relation", "second relation"], Counter[str]()
    world, now_ms = past.world, last_ms(past)
    rows = [*alive(world), world.row("u90"), world.row("i90")]
    for k, q in enumerate(rows):
        at_ms = now_ms + (-3 * DAY_MS, 0, 200_000, 30 * 60_000, 40 * DAY_MS)[k % 5]
        x, remembered = describe_all(world, q, rows, at_ms)
        expected = np.array([vector(past, q, v, at_ms) for v in rows])
        for j, name in enumerate(names):
            np.testing.assert_allclose(x[:, j], expected[:, j], rtol=1e-5 if j < 2 else 1e-7, atol=1e-6 if j < 2 else 1e-8, err_msg=name)
        own, theirs = (
            [bool(known_of(world.table.neighbours, *pair)) for pair in pairs] for pairs in ([(q, v) for v in rows], [(v, q) for v in rows])
        )
        assert remembered.tolist() == [int(a or b) for a, b in zip(own, theirs, strict=True)]
        seen.update(
            own=sum(own), theirs=sum(b and not a for a, b in zip(own, theirs, strict=True)), neither=len(rows) - int(remembered.sum())
        )
        seen.update(name for j, name in enumerate(names) if np.unique(expected[:, j]).size > 1)
    assert seen["own"] > 20 and seen["neither"] > 20 and (seen["theirs"] > 10 or ring == RING)
    assert all(seen[name] for name in names), "a feature was the same of all"


def test_the_names_of_the_features_are_those_that_the_twin_knows() -> None:
    past = grown(30, 4)
    assert set(features(past, 0, 1, START_MS)) == {*FEATURES, "relation 0", "relation 1"}
    assert len(FEATURES) == len(set(FEATURES)) == past.world.graph.memory.x.shape[1] - 2


def test_of_the_moment_is_what_changes_within_a_day() -> None:
    """Asked a day later, of those that are no clue for a question without a time, all change; of the others only the long ones."""
    by_name = {FEATURES[k] for k in OF_THE_MOMENT}
    assert {name for name in FEATURES if "minutes" in name or "hour" in name} - by_name == {"log minutes since they met last"}
    assert {name for name in FEATURES if name.endswith(" h")} - by_name == {name for name in FEATURES if name.endswith("168 h")}
    assert {"log minutes since its first", "the same where q met nobody after v"} <= by_name
    assert len(by_name) == 8 + 4 + 2 and len(OF_THE_MOMENT) == len(by_name)


def test_what_is_older_than_a_bound_is_all_the_same() -> None:
    """Also of a row that never had an edge."""
    world = chain(("u0", "i0", 0), ("u1", "i1", 24))
    heats = [k for k, name in enumerate(FEATURES) if name.endswith(" h")]
    old, older = (describe_all(world, 0, [world.row(id_) for id_ in ("i0", "i1", "i2")], START_MS + days * DAY_MS)[0] for days in (60, 900))
    assert (old[:, heats[:4]] == 0.2 * OLDEST).all() and (old[:2, heats[4]] > 0.2 * OLDEST).all() and (old[2, heats] == 0.2 * OLDEST).all()
    assert (older[:, heats] == 0.2 * OLDEST).all() and np.isfinite(older).all()
    assert (describe_all(world, 0, [world.row("i2")], 0)[0][:, heats] == 0.2 * OLDEST).all(), "at the epoch too"


@pytest.mark.parametrize(
    ("since_ms", "minutes", "hour"), [(299_999, 1, 1), (300_000, 0, 1), (3_599_999, 0, 1), (3_600_000, 0, 0), (-9, 1, 1)]
)
def test_five_minutes_and_an_hour_end_on_time(since_ms: int, minutes: int, hour: int) -> None:
    world = chain(("u0", "i0", 0))
    x, _ = describe_all(world, 0, [world.row("i0")], START_MS + since_ms)
    assert [x[0, FEATURES.index(f"whether they met in the last {span}")] for span in ("five minutes", "hour")] == [minutes, hour]


def test_who_was_forgotten_is_remembered_from_the_other_end() -> None:
    """u0 has room for one: i0, met twice, still knows it."""
    contacts: list[Contact] = [
        ("u0", id_, relation, START_MS + k * HOUR_MS) for k, (id_, relation) in enumerate((("i0", 0), ("i0", 1), ("i1", 0)))
    ]
    world = World.grown(minded(ring_size=1), contacts)
    x, remembered = describe_all(world, 0, [world.row("i0"), world.row("i1"), world.row("i2")], START_MS + 2 * HOUR_MS + 60_000)
    by_name = {name: x[:, k].tolist() for k, name in enumerate((*FEATURES, "first", "second"))}
    assert remembered.tolist() == [1, 1, 0]
    assert by_name["log meetings"] == pytest.approx([0.3 * np.log(3), 0.3 * np.log(2), 0])
    assert by_name["whether q met nobody after v"] == [0, 1, 0] and by_name["1 / (1 + neighbours that q met after v)"] == [0.5, 1, 0]
    assert by_name["whether they met in the last five minutes"] == [0, 1, 0] and by_name["whether they met in the last hour"] == [0, 1, 0]
    assert (by_name["first"], by_name["second"]) == ([0, 1, 0], [1, 0, 0])


def test_exploring_takes_no_room_that_is_not_there() -> None:
    """All know all: as many rows are found as there are."""
    ids = [f"{letter}{k}" for letter in "uit" for k in range(6)]
    pairs = [(one, other) for one in ids for other in ids if one < other]
    world = chain(*((one, other, k) for k, (one, other) in enumerate(pairs)), ring=20)
    reach = world.graph.memory.reach
    explore(world.table.neighbours, int32(world.row("u0")), reach)
    assert reach.size[0] == len(ids) and reach.found.size == min(STEPS, 20) * 20 * 20
