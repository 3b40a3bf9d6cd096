"""Who met whom last: fixed rings of recent neighbours, and walks over them.

A ring entry remembers the generation of the neighbour's row, so that a row given to another id is never mistaken for it.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class Rings(NamedTuple):
    """Last neighbours of every row of one table; slot `k mod size` holds the k-th edge of its row."""

    row: np.ndarray  # int32 [rows, size], in the other table
    neighbour_generation: np.ndarray  # int32 [rows, size], of the neighbour's row when they met
    relation: np.ndarray  # uint8 [rows, size]
    ts_ms: np.ndarray  # int64 [rows, size]
    written: np.ndarray  # int64 [rows], edges so far
    generation: np.ndarray  # int32 [rows], times the row itself was freed


class WalkRule(NamedTuple):
    """How walks go: see `SupaConfig` for each field."""

    walks: int
    length: int
    hop_weight: float
    unit_ms: float
    tau: float


class Slots(NamedTuple):
    """The contexts that one end of an edge is trained against: weight > 0 for targets, 0 for negatives, each once."""

    row: np.ndarray  # int32 [capacity]
    relation: np.ndarray  # int64 [capacity]
    weight: np.ndarray  # float64 [capacity]
    draws: np.ndarray  # uint64, room for random bits


@inlined
def below(draws: np.ndarray, k: int, bound: int) -> int:
    """A number in [0, bound) from the k-th 32 random bits of `draws` (uint64); `bound` at most 2^31."""
    bits = (draws[k >> 1] >> (_HALF * np.uint64(k & 1))) & _LOW
    return int(np.int64((bits * np.uint64(bound)) >> _HALF))


@inlined
def decay(age_ms: float, unit_ms: float) -> float:
    """g = 1 / ln(e + age / unit): 1 for a new edge, .76 after one unit (SUPA, log decay). Late rows count as new."""
    return 1.0 / math.log(math.e + max(age_ms, 0.0) / unit_ms)


@compiled
def remember(rings: Rings, row: int, neighbour: int, neighbour_generation: int, relation: int, ts_ms: int) -> None:
    """Append an edge to the ring of `row`, over the oldest where it is full."""
    slot = rings.written[row] % rings.row.shape[1]
    rings.row[row, slot] = neighbour
    rings.neighbour_generation[row, slot] = neighbour_generation
    rings.relation[row, slot] = relation
    rings.ts_ms[row, slot] = ts_ms
    rings.written[row] += 1


@inlined
def add_target(slots: Slots, count: int, row: int, relation: int, weight: float) -> int:
    """Put a target into `slots`, or its weight onto the same one; returns the slots now taken."""
    for k in range(count):
        if slots.row[k] == row and slots.relation[k] == relation:
            slots.weight[k] += weight
            return count
    slots.row[count], slots.relation[count], slots.weight[count] = row, relation, weight
    return count + 1


@compiled
def walk(rings: tuple[Rings, Rings], side: int, row: int, ts_ms: int, rule: WalkRule, slots: Slots, at: int, count: int) -> int:
    """One uniform walk over the past from `row` of table `side`; returns the slots taken after it.

    Nodes of the other table become targets, weighted by `hop_weight` times the product of g over the edges walked. The walk ends
    at an edge whose g is tau or less, at an empty ring, or at a neighbour whose row was freed since they met.

    Args:
        slots: its `draws` hold 32 random bits for each hop from the `at`-th on. Updated.
        count: slots taken so far.
    """
    weight = rule.hop_weight
    for hop in range(rule.length):
        ring, held = rings[side], min(rings[side].written[row], rings[side].row.shape[1])
        slot = below(slots.draws, at + hop, held)
        met = ring.row[row, slot]
        if held == 0 or rings[1 - side].generation[met] != ring.neighbour_generation[row, slot]:
            break
        g = decay(float(ts_ms - ring.ts_ms[row, slot]), rule.unit_ms)
        if g <= rule.tau:
            break
        weight *= g
        if hop % 2 == 0:
            count = add_target(slots, count, met, ring.relation[row, slot], weight)
        row, side = met, 1 - side
    return count
