"""What an end of an edge is trained against: the node that it met, nodes on walks over its past, and negatives."""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from core.randomness import fill
from learners.supa.ahead import ask_context
from learners.supa.neighbours import Slots, WalkRule, below, walk
from learners.supa.table import Table, due, fade, stamp

TRIES = 3  # draws per negative before the edge goes with fewer
_NEGATIVES, _WALKS = np.uint64(0x53500000), np.uint64(0x53500010)  # random streams, + end


class SampleRule(NamedTuple):
    """What stays the same from edge to edge: see `SupaConfig` for each field."""

    seed: np.uint64
    negatives: int
    typed: int  # of the negatives, those of the type of the node that was met
    block_rows: int
    walk: WalkRule


class Edge(NamedTuple):
    """What is learned. Of an end, age is the time since the end's edge before, ms."""

    ends: tuple[int, int]  # rows
    relation: int
    ts_ms: int
    ordinal: int  # in the log
    ages_ms: tuple[int, int]
    until_ms: int  # walks see no edge later than this
    behind: tuple[int, int]  # ordinal and time of the edge that brings it about: this one, unless it is learned again


class Draws(NamedTuple):
    """Random bits of a block of edges, kept from edge to edge."""

    bits: np.ndarray  # uint64
    block: np.ndarray  # int64 [1], whose they are, -1 before the first


@compiled
def slot_count(rule: SampleRule) -> int:
    """Rows, at most, that one end of an edge is trained against."""
    return 1 + rule.walk.walks * rule.walk.length + rule.negatives


@compiled
def new_slots(rule: SampleRule) -> Slots:
    """Room for those of one end."""
    capacity, hops = slot_count(rule), rule.walk.walks * rule.walk.length
    bits = np.empty(hops * rule.walk.newest_of // 2 + 1, np.uint64)
    weight, scale = np.empty(capacity, np.float64), np.empty(capacity, np.float64)
    return Slots(np.empty(capacity, np.int32), np.empty(capacity, np.int64), weight, scale, bits)


@compiled
def new_draws(rule: SampleRule) -> Draws:
    return Draws(np.empty(TRIES * rule.negatives // 2 + 1, np.uint64), np.full(1, -1, np.int64))


@inlined
def power_above(count: int) -> int:
    """The least power of two that is at least `count`."""
    bound = 1
    while bound < count:
        bound *= 2
    return bound


@inlined
def _among(slots: Slots, count: int, row: int) -> bool:
    found = False
    for k in range(count):
        found |= slots.row[k] == row
    return found


@inlined
def _add_negative(table: Table, slots: Slots, count: int, row: int, relation: int) -> int:
    """Returns the slots then taken."""
    if not table.alive[row] or _among(slots, count, row):
        return count
    slots.row[count], slots.relation[count], slots.weight[count], slots.scale[count] = row, relation, 0.0, 1.0
    return count + 1


@inlined
def node_at(table: Table, place: int) -> int:
    """The row at a place among all types' extents, one after the other."""
    type_ = 0
    while place >= table.extent[type_]:
        place -= table.extent[type_]
        type_ += 1
    return int(table.first[type_] + place)


@compiled
def add_negatives(table: Table, slots: Slots, bits: np.ndarray, met: int, count: int, relation: int, rule: SampleRule) -> int:
    """Distinct nodes seen so far, no targets: `typed` of them uniform over the type of `met`, the others over all; returns the slots taken.

    Few nodes or bad luck give fewer. Draws lie below a power of two and those at or above the extent are refused, so that a block keeps
    its negatives while nodes arrive.
    """
    type_, wanted = table.type[met], count + rule.typed
    reach = power_above(table.extent[type_])
    for k in range(TRIES * rule.typed):
        place = below(bits, k, reach)
        if count < wanted and place < table.extent[type_]:
            count = _add_negative(table, slots, count, table.first[type_] + place, relation)
    wanted, nodes = wanted + rule.negatives - rule.typed, np.sum(table.extent)
    reach = power_above(nodes)
    for k in range(TRIES * rule.typed, TRIES * rule.negatives):
        place = below(bits, k, reach)
        if count < wanted and place < nodes:
            count = _add_negative(table, slots, count, node_at(table, place), relation)
    return count


@compiled
def ask_negatives(table: Table, bits: np.ndarray, edge: Edge, rule: SampleRule) -> None:
    """Have those that `add_negatives` will most likely take, of both ends, brought near."""
    types = table.type[edge.ends[0]], table.type[edge.ends[1]]
    for side in range(1 if types[0] == types[1] else 2):
        first, nodes = table.first[types[side]], table.extent[types[side]]
        reach = power_above(nodes)
        for k in range(rule.typed * reach // nodes):
            place = below(bits, k, reach)
            if place < nodes:
                ask_context(table.context, table.bias, table.touched, first + place, edge.relation)
    nodes = np.sum(table.extent)
    reach = power_above(nodes)
    for k in range(TRIES * rule.typed, TRIES * rule.typed + (rule.negatives - rule.typed) * reach // nodes):
        place = below(bits, k, reach)
        if place < nodes:
            ask_context(table.context, table.bias, table.touched, node_at(table, place), edge.relation)


@compiled
def sample(table: Table, side: int, edge: Edge, rule: SampleRule, slots: Slots, draws: Draws) -> int:
    """What end `side` of the edge is trained against; returns the slots taken: targets, then negatives.

    Target 0 is the node that it met (weight 1), the others come from walks over the past. A pure function of the table and the edge.
    """
    row, met = edge.ends[side], edge.ends[1 - side]
    slots.row[0], slots.relation[0], slots.weight[0], slots.scale[0] = met, edge.relation, 1.0, 1.0
    count, block = 1, edge.ordinal // rule.block_rows
    if rule.walk.walks:
        fill(rule.seed, _WALKS + np.uint64(side), np.uint64(edge.ordinal), slots.draws)
    for k in range(rule.walk.walks):
        count = walk(table.neighbours, table.type, row, edge.ts_ms, edge.until_ms, rule.walk, slots, k, count)
    for k in range(1, count):
        ask_context(table.context, table.bias, table.touched, slots.row[k], slots.relation[k])
    if draws.block[0] != block:
        fill(rule.seed, _NEGATIVES, np.uint64(block), draws.bits)
        draws.block[0] = block
        ask_negatives(table, draws.bits, edge, rule)
    return add_negatives(table, slots, draws.bits, met, count, edge.relation, rule)


@compiled
def fade_slots(table: Table, slots: Slots, count: int, edge: Edge, forget_per_ms: float) -> None:
    """Forget the rows of the slots up to now."""
    faded_ms = table.faded_ms  # few rows are due, and a call with the whole table costs more than asking
    for k in range(count):
        row = slots.row[k]
        if due(edge.ts_ms - faded_ms[row], forget_per_ms) and fade(table, row, edge.ts_ms, forget_per_ms):
            stamp(table, row, edge.behind[0], edge.behind[1])
