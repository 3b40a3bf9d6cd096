"""Walks and negatives against plain lists that read the same random bits, and against what chance should bring."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from supa_reference import BUSY, DAY_MS, START_MS, Contact, History, Slot, World, busy, mingled, stream

from learners.supa.config import Schema
from learners.supa.sampling import Edge

THREE = ("user", "item", "tag")
SCHEMAS: tuple[Schema, ...] = (
    ("user", ((("engage",), "item"), (("*",), "user"))),
    ("user", ((("buy",), "*"), (("engage", "buy"), "tag"))),
    ("item", ((("*",), "tag"), (("buy",), "*"))),
)
KINDS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "uniform": {"newest_of": 1, "walks": 4},
    "newest of three": {"newest_of": 3, "walks": 3},
    "scaled logits": {"propagation": "logit", "walks": 5},
    "exponential": {"decay": "exp", "tau": 0.01},
    "reverse": {"decay": "rev", "tau": 0.11},
    "no walks": {"walks": 0},
    "negatives of any type": {"typed_share": 0.0, "negative_block_rows": 1},
    "negatives of one type": {"typed_share": 1.0},
    "nearly all of one type": {"typed_share": 0.8, "negatives": 40},
    "three types": {"node_types": THREE},
    "schemas": {"node_types": THREE, "schemas": SCHEMAS, "walks": 5, "tau": 0.2},
    "schemas and the newest": {"node_types": THREE, "schemas": SCHEMAS, "walks": 3, "newest_of": 1, "walk_length": 1},
}


class Watched:
    """A world beside lists of who met whom."""

    def __init__(self, **changes: Any) -> None:
        self.world = World(busy(**changes))
        self.history = History(self.world.config, self.world.graph.first.tolist())

    def learn(self, contact: Contact) -> None:
        rows = self.world.rows(contact)
        self.world.learn(contact)
        self.history.meet(rows, contact[2], contact[3])

    def remove(self, id_: str) -> None:
        if self.world.nodes["uit".index(id_[0])].ids.lookup([id_])[0] >= 0:
            self.history.free(self.world.remove(id_))

    def check(self, side: int, edge: Edge) -> list[Slot]:
        """The slots of one end, which must be those of the lists."""
        self.history.arrive((int(edge.ends[0]), int(edge.ends[1])))
        _, slots = self.world.drawn(side, edge)
        targets = self.history.targets(side, edge)
        expected = [*targets, *self.history.negatives(side, edge, targets)]
        assert [slot[:2] for slot in slots] == [slot[:2] for slot in expected]
        np.testing.assert_allclose([slot[2:] for slot in slots], [slot[2:] for slot in expected], rtol=1e-6)
        return slots


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_sees_the_past_and_this_edge_only(kind: str) -> None:
    """Ids are taken away now and then; some walks must not see the last forty days."""
    contacts = (mingled if "node_types" in KINDS[kind] else stream)(300, seed=3)
    watched, lengths = Watched(**KINDS[kind]), Counter[int]()
    world = watched.world
    for ordinal, contact in enumerate(contacts):
        if ordinal % 23 == 22:
            watched.remove(contacts[ordinal - 7][ordinal // 23 % 2])
        arrive(world, contact)
        for side in (0, 1):
            until_ms = contact[3] - 40 * DAY_MS if ordinal % 5 == 4 else contact[3] + 400 * DAY_MS
            slots = watched.check(side, world.edge(contact, until_ms=until_ms))
            lengths[sum(slot[2] > 0 for slot in slots)] += 1
        watched.learn(contact)
    assert len(lengths) >= (1 if kind == "no walks" else 2 if "schemas" in kind else 4), "walks of every length"


def arrive(world: World, contact: Contact) -> None:
    """The ends are there, as the kernel has it before it samples."""
    for row in world.rows(contact):
        type_ = world.table.type[row]
        world.table.alive[row] = True
        world.table.extent[type_] = max(world.table.extent[type_], row - world.table.first[type_] + 1)


# ---- walks


def met_on_walks(world: World, contact: Contact, count: int, side: int = 0) -> Counter[int]:
    """How often each row is a target of so many edges of the same ends."""
    met = Counter[int]()
    for ordinal in range(count):
        world.ordinal = 1000 + ordinal
        _, slots = world.drawn(side, world.edge(contact))
        met.update(slot[0] for slot in slots[1:] if slot[2] > 0)
    return met


@pytest.mark.parametrize(("newest_of", "shares"), [(1, (4, 4, 4, 4)), (2, (7, 5, 3, 1))])
def test_a_hop_is_uniform_or_takes_the_newest_of_two(newest_of: int, shares: Sequence[int]) -> None:
    """Of four neighbours, the newest first: 1 - (3/4)^2 = 7/16, ..."""
    contacts = [("u1", f"i{k}", 0, START_MS - k) for k in range(4)]
    world = World.grown(busy(walks=1, walk_length=1, newest_of=newest_of), contacts)
    met = met_on_walks(world, ("u1", "i9", 0, START_MS), 3000)
    for contact, share in zip(contacts, shares, strict=True):
        assert met[world.row(contact[1])] / 3000 == pytest.approx(share / 16, abs=0.03)


def test_every_hop_of_a_walk_leads_on() -> None:
    """u1 - i1 - u2 - i2: three hops, each by its own edge's age."""
    day = DAY_MS
    contacts = [("u2", "i2", 1, START_MS), ("u2", "i1", 0, START_MS + day), ("u1", "i1", 1, START_MS + 2 * day)]
    world = World.grown(busy(walks=40, walk_length=3, newest_of=1, hop_weight=0.25, propagation="logit"), contacts)
    _, slots = world.drawn(0, world.edge(("u1", "i9", 0, START_MS + 3 * day)))
    g = [1 / np.log(np.e + days / 4) for days in (1, 2, 3)]
    longest = [world.row("i1"), world.row("u2"), world.row("i2")]
    found = [k for k in range(len(slots) - 2) if [slot[0] for slot in slots[k : k + 3]] == longest]
    assert found, "some walk goes all the way"
    expected = [(1, 0.25 * g[0]), (0, 0.25 * g[0] * g[1]), (1, 0.25 * g[0] * g[1] * g[2])]
    for slot, (relation, scale) in zip(slots[found[0] :], expected, strict=False):
        assert slot[1:3] == (relation, 1.0) and slot[3] == pytest.approx(scale)


def test_walks_end_at_tau() -> None:
    """g of the log decay falls to .3 between 101 and 102 days."""
    world = World.grown(busy(walks=3, walk_length=1), [("u1", "i1", 0, START_MS)])
    for days, reached in ((100, True), (102, False)):
        assert bool(met_on_walks(world, ("u1", "i9", 0, START_MS + days * DAY_MS), 5)) == reached


def test_walks_see_no_edge_later_than_they_may() -> None:
    world = World.grown(busy(walks=3, walk_length=1), [("u1", "i1", 0, START_MS)])
    for until_ms, count in ((START_MS, 2), (START_MS - 1, 1)):
        _, slots = world.drawn(0, world.edge(("u1", "i9", 0, START_MS), until_ms=until_ms))
        assert sum(slot[2] > 0 for slot in slots) == count


@pytest.mark.parametrize(("propagation", "wanted"), [("weight", [(2.5, 1.0)]), ("logit", [(1.0, 1.0), *[(1.0, 0.5)] * 3])])
def test_a_target_met_again_weighs_more_or_stands_again(propagation: str, wanted: list[tuple[float, float]]) -> None:
    world = World.grown(busy(walks=3, walk_length=1, propagation=propagation), [("u1", "i1", 0, START_MS)])
    _, slots = world.drawn(0, world.edge(("u1", "i1", 0, START_MS)))
    assert [slot[2:] for slot in slots if slot[2] > 0] == wanted
    _, slots = world.drawn(0, world.edge(("u1", "i1", 1, START_MS)))
    assert slots[1][:2] == (slots[0][0], 0), "of another relation it is another target"


def test_a_freed_row_is_never_met_under_its_new_id() -> None:
    world = World(busy(walks=8, walk_length=3, negatives=1))
    for item in ("i1", "i2"):
        world.learn(("u1", item, 0, START_MS))
    freed = world.remove("i1")
    world.learn(("u2", "i3", 0, START_MS))
    assert world.row("i3") == freed, "the row is used again"
    met = met_on_walks(world, ("u1", "i9", 0, START_MS), 20)
    assert met.keys() == {world.row("u1"), world.row("i2")}


@pytest.mark.parametrize("walks", [1, 2, 5])
def test_schemas_of_one_start_take_turns_and_say_where_a_hop_may_go(walks: int) -> None:
    contacts = [("u1", "i1", 0, START_MS), ("u1", "i2", 1, START_MS), ("u1", "t1", 0, START_MS), ("u1", "t2", 1, START_MS)]
    world = World.grown(busy(node_types=THREE, schemas=SCHEMAS, walks=walks, walk_length=1), contacts)
    met = met_on_walks(world, ("u1", "i9", 0, START_MS), 40)
    first, second = {"i1"}, {"i2", "t2"}  # engaged with an item; bought anything
    assert met.keys() == {world.row(id_) for id_ in (first | second if walks > 1 else first)}
    if walks == 5:
        assert met[world.row("i1")] == 40 and met[world.row("i2")] > 20 < met[world.row("t2")]


def test_nodes_that_start_no_schema_walk_anywhere() -> None:
    contacts = [("t1", "i1", 0, START_MS), ("t1", "u2", 1, START_MS), ("t1", "t2", 0, START_MS)]
    world = World.grown(busy(node_types=THREE, schemas=SCHEMAS, walk_length=1), contacts)
    assert met_on_walks(world, ("t1", "i9", 0, START_MS), 40).keys() == {world.row(id_) for id_ in ("i1", "u2", "t2")}


# ---- negatives


def negatives_of(world: World, contact: Contact, side: int = 0) -> list[int]:
    _, slots = world.drawn(side, world.edge(contact))
    return [slot[0] for slot in slots if slot[2] == 0]


def crowd(each: int, **changes: Any) -> World:
    """A world of so many nodes of each of three types."""
    contacts = [(f"u{k}", f"{letter}{k}", 0, START_MS) for k in range(each) for letter in "it"]
    return World.grown(busy(node_types=THREE, **changes), contacts)


@pytest.mark.parametrize(("share", "own"), [(0.0, 0), (0.5, 6), (1.0, 12)])
@pytest.mark.parametrize("met", ["i1", "t1"])
def test_so_many_negatives_are_of_the_type_that_was_met(met: str, share: float, own: int) -> None:
    world, type_ = crowd(60, typed_share=share, negatives=12), "uit".index(met[0])
    for ordinal in range(0, 400, 4):
        world.ordinal = ordinal
        found = negatives_of(world, ("u1", met, 0, START_MS))
        assert len(found) == len(set(found)) == 12
        assert (world.table.type[found[:own]] == type_).all()
    of_any = world.table.type[[row for ordinal in range(40) for row in drawn_at(world, ordinal * 4, met)[own:]]]
    assert own == 12 or set(of_any.tolist()) == {0, 1, 2}


def drawn_at(world: World, ordinal: int, met: str) -> list[int]:
    world.ordinal = ordinal
    return negatives_of(world, ("u1", met, 0, START_MS))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_negatives_are_uniform(share: float) -> None:
    """4,000 draws over 40 or 120 nodes; what was met is none of them."""
    world, counts = crowd(40, typed_share=share, negatives=4, negative_block_rows=1, walks=0), Counter[int]()
    for ordinal in range(1000):
        counts.update(drawn_at(world, ordinal, "i1"))
    rows = [row for row in range(world.table.alive.size) if world.table.alive[row] and (share == 0.0 or world.table.type[row] == 1)]
    rows.remove(world.row("i1"))
    expected = 4000 / len(rows)
    assert counts.keys() == set(rows)
    chi_squared = sum((counts[row] - expected) ** 2 / expected for row in rows)
    assert chi_squared < len(rows) + 4 * np.sqrt(2 * len(rows))


def test_negatives_are_neither_targets_nor_gone() -> None:
    world = World.grown(busy(walks=9, negatives=30), stream(200))
    for item in range(0, 30, 3):
        world.remove(f"i{item}")
    for ordinal in range(200, 300):
        world.ordinal = ordinal
        _, slots = world.drawn(0, world.edge(("u3", "i4", 0, START_MS + 600 * DAY_MS)))
        targets, found = {slot[0] for slot in slots if slot[2] > 0}, [slot[0] for slot in slots if slot[2] == 0]
        assert not targets & set(found) and world.table.alive[found].all() and len(found) > 10
        assert [slot[1] for slot in slots if slot[2] == 0] == [0] * len(found), "of the edge's relation"


def test_rows_of_a_block_share_their_negatives() -> None:
    """But for those that one of them has for targets."""
    world = crowd(60, walks=0, negative_block_rows=4)
    found = [frozenset(drawn_at(world, ordinal, "i1")) for ordinal in range(16)]
    blocks = [set(found[start : start + 4]) for start in range(0, 16, 4)]
    assert [len(block) for block in blocks] == [1] * 4 and len(set.union(*blocks)) == 4
    others = set(drawn_at(world, 0, "i2"))
    assert len(others & found[0]) >= BUSY.negatives - 1


def test_a_block_keeps_its_negatives_while_nodes_arrive() -> None:
    """37 to 64 nodes of a type are drawn below 64 all the same; who is there is taken, in the order of the draws."""
    world, kept = (
        World.grown(busy(walks=0, negatives=40, typed_share=1.0), [(f"u{k}", f"i{k}", 0, START_MS) for k in range(37)]),
        list[int](),
    )
    for more in (0, 1, 9, 27):
        for k in range(37 + more):
            arrive(world, ("u1", f"i{k}", 0, START_MS))
        found = drawn_at(world, 0, "i1")
        left = [row for row in found if row in kept]
        assert left == kept[: len(left)] and len(found) >= len(kept), "the first ones stay"
        assert len(left) == len(kept) or len(found) == 40
        kept = found


def test_where_there_is_nobody_else_there_are_no_negatives() -> None:
    """And nothing is learned of the end, whose alternative would be nobody."""
    world = World(busy(typed_share=1.0, walks=0))
    contact = ("u1", "i1", 0, START_MS)
    before = {name: getattr(world.table, name)[list(world.rows(contact))].copy() for name in ("long", "context")}
    world.learn(contact)
    assert negatives_of(world, contact) == []
    assert all(np.array_equal(getattr(world.table, name)[list(world.rows(contact))], array) for name, array in before.items())
