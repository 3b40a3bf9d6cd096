"""Who met whom last: of every node a fixed number of distinct neighbours, and walks over them.

An entry remembers the generation of the neighbour's row, so that a row given to another id is never mistaken for it.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined

LOG, EXP, REV = 0, 1, 2  # decays
ANY = -1  # node type of a hop that takes every one
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MOST = np.iinfo(np.uint16).max


ENTRY_BYTES = 19


class Neighbours(NamedTuple):
    """The `size` distinct nodes that each row met last, in no order. Constant memory: `ENTRY_BYTES` each, from `ts_ms` on."""

    row: np.ndarray  # int32 [rows, size]
    neighbour_generation: np.ndarray  # int32 [rows, size], of the neighbour's row when they met last
    relation: np.ndarray  # uint8 [rows, size], of their last edge
    meetings: np.ndarray  # uint16 [rows, size], edges between them, 65,535 at most
    ts_ms: np.ndarray  # int64 [rows, size], of their last edge
    held: np.ndarray  # int16 [rows], entries in use: the first ones
    generation: np.ndarray  # int32 [rows], times the row itself was freed


class WalkRule(NamedTuple):
    """How walks go: see `SupaConfig` for each field."""

    walks: int
    length: int
    newest_of: int
    hop_weight: float
    published: bool  # D scales the logit; else it weighs the loss
    decay: int
    unit_ms: float
    tau: float
    starts: np.ndarray  # int64 [schemas], node type where a schema begins
    hop_types: np.ndarray  # int64 [schemas, hops], node type that each hop leads to, or ANY
    hop_relations: np.ndarray  # bool [schemas, hops, relations], those that each hop may take


class Slots(NamedTuple):
    """The contexts that one end of an edge is trained against: weight > 0 for targets, 0 for negatives."""

    row: np.ndarray  # int32 [capacity]
    relation: np.ndarray  # int64 [capacity]
    weight: np.ndarray  # float64 [capacity], of a target's loss
    scale: np.ndarray  # float64 [capacity], of the logit
    draws: np.ndarray  # uint64, room for random bits


@inlined
def below(draws: np.ndarray, k: int, bound: int) -> int:
    """A number in [0, bound) from the k-th 32 random bits of `draws` (uint64); `bound` at most 2^31."""
    bits = (draws[k >> 1] >> (_HALF * np.uint64(k & 1))) & _LOW
    return int(np.int64((bits * np.uint64(bound)) >> _HALF))


@compiled
def decay(age: float, kind: int) -> float:
    """g of an age in decay units (SUPA, section on decay); an edge from the future counts as new.

    LOG: 1 / ln(e + age). EXP: e^-age. REV: 1 / (1 + age).
    """
    age = max(age, 0.0)
    if kind == LOG:
        return 1.0 / math.log(math.e + age)
    return math.exp(-age) if kind == EXP else 1.0 / (1.0 + age)


@compiled
def decay_slope(age: float, kind: int) -> float:
    """dg / d age."""
    age = max(age, 0.0)
    if kind == LOG:
        log = math.log(math.e + age)
        return -1.0 / ((math.e + age) * log * log)
    return -math.exp(-age) if kind == EXP else -1.0 / ((1.0 + age) * (1.0 + age))


@compiled
def entry_of(of: Neighbours, row: int, neighbour: int) -> int:
    """Where `neighbour` stands among those of `row`, -1 where it does not."""
    for k in range(of.held[row]):
        if of.row[row, k] == neighbour:
            return k if of.neighbour_generation[row, k] == of.generation[neighbour] else -1
    return -1


@inlined
def _place(of: Neighbours, row: int, neighbour: int) -> int:
    """The entry that `neighbour` is to have: its own, a free one, or that of the longest unmet. Of a stale entry the count is void."""
    held = of.held[row]
    for k in range(held):
        if of.row[row, k] == neighbour:
            if of.neighbour_generation[row, k] != of.generation[neighbour]:
                of.meetings[row, k] = 0
            return k
    if held < of.row.shape[1]:
        of.held[row] += 1
        of.meetings[row, held] = 0
        return int(held)
    oldest = int(np.argmin(of.ts_ms[row]))
    of.meetings[row, oldest] = 0
    return oldest


@compiled
def remember(of: Neighbours, row: int, neighbour: int, relation: int, ts_ms: int) -> None:
    """Note an edge from `row` to `neighbour`, in place of the longest unmet where there is no room."""
    at = _place(of, row, neighbour)
    of.ts_ms[row, at] = ts_ms if of.meetings[row, at] == 0 else max(ts_ms, of.ts_ms[row, at])
    of.row[row, at], of.relation[row, at] = neighbour, relation
    of.neighbour_generation[row, at] = of.generation[neighbour]
    of.meetings[row, at] = min(of.meetings[row, at] + 1, _MOST)


@compiled
def forget(of: Neighbours, row: int, neighbour: int) -> bool:
    """Take the edges from `row` to `neighbour` out; False where there is none."""
    at = entry_of(of, row, neighbour)
    if at < 0:
        return False
    last = of.held[row] - 1
    for array in (of.row, of.neighbour_generation):
        array[row, at], array[row, last] = array[row, last], 0
    of.relation[row, at], of.relation[row, last] = of.relation[row, last], 0
    of.meetings[row, at], of.meetings[row, last] = of.meetings[row, last], 0
    of.ts_ms[row, at], of.ts_ms[row, last] = of.ts_ms[row, last], 0
    of.held[row] = last
    return True


@inlined
def _newest(held: np.ndarray, ts_ms: np.ndarray, row: int, newest_of: int, draws: np.ndarray, at: int) -> int:
    """The most recently met of `newest_of` uniform entries of a row; -1 where there is none. Arrays as in `Neighbours` and `Slots`."""
    best = -1
    for k in range(newest_of if held[row] else 0):
        entry = below(draws, at * newest_of + k, held[row])
        if best < 0 or ts_ms[row, entry] > ts_ms[row, best]:
            best = entry
    return best


@inlined
def _fits(of: Neighbours, types: np.ndarray, row: int, entry: int, rule: WalkRule, schema: int, hop: int) -> bool:
    """Whether a hop of the schema may go to this entry."""
    wanted = rule.hop_types[schema, hop]
    allowed = rule.hop_relations[schema, hop, of.relation[row, entry]]
    return bool(allowed and (wanted == ANY or types[of.row[row, entry]] == wanted))


@compiled
def _newest_fitting(of: Neighbours, types: np.ndarray, row: int, rule: WalkRule, slots: Slots, at: int, schema: int, hop: int) -> int:
    """As `_newest`, among the entries that the schema's hop allows."""
    fitting = 0
    for entry in range(of.held[row]):
        fitting += _fits(of, types, row, entry, rule, schema, hop)
    best = -1
    for k in range(rule.newest_of if fitting else 0):
        left = below(slots.draws, at * rule.newest_of + k, fitting)
        for entry in range(of.held[row]):
            if _fits(of, types, row, entry, rule, schema, hop):
                if left == 0 and (best < 0 or of.ts_ms[row, entry] > of.ts_ms[row, best]):
                    best = entry
                left -= 1
    return best


@inlined
def add_target(slots: Slots, count: int, row: int, relation: int, d: float, rule: WalkRule) -> int:
    """Put a target into `slots`, or its weight onto the same one; returns the slots now taken. D is `d`."""
    if rule.published:
        slots.row[count], slots.relation[count], slots.weight[count], slots.scale[count] = row, relation, 1.0, d
        return count + 1
    for k in range(count):
        if slots.row[k] == row and slots.relation[k] == relation:
            slots.weight[k] += d
            return count
    slots.row[count], slots.relation[count], slots.weight[count], slots.scale[count] = row, relation, d, 1.0
    return count + 1


@inlined
def schema_of(rule: WalkRule, type_: int, k: int) -> int:
    """The schema of the k-th walk from a node of this type: those that begin there take turns; -1 where none does."""
    fitting = 0
    for start in rule.starts:
        fitting += start == type_
    turn, found = k % max(fitting, 1), -1
    for schema in range(rule.starts.shape[0]):
        if rule.starts[schema] == type_:
            if turn == 0:
                found = schema
            turn -= 1
    return found


@compiled
def walk(of: Neighbours, types: np.ndarray, row: int, ts_ms: int, until_ms: int, rule: WalkRule, slots: Slots, k: int, count: int) -> int:
    """The k-th walk over the past from `row`; returns the slots taken after it.

    Every node on it becomes a target, by `hop_weight` times D, the product of g over the edges walked. The walk ends at an edge whose g
    is tau or less or that is later than `until_ms`, where there is no neighbour to go to, or at one whose row was freed since they met.

    Args:
        types: uint8 [rows], of the nodes.
        slots: its `draws` hold 32 random bits for each draw of each hop of each walk. Updated.
        count: slots taken so far.
    """
    d, schema = rule.hop_weight, schema_of(rule, types[row], k)
    for hop in range(rule.length if schema < 0 else min(rule.length, rule.hop_types.shape[1])):
        at = k * rule.length + hop
        entry = (
            _newest(of.held, of.ts_ms, row, rule.newest_of, slots.draws, at)
            if schema < 0
            else _newest_fitting(of, types, row, rule, slots, at, schema, hop)
        )
        if entry < 0:
            break
        met, when = of.row[row, entry], of.ts_ms[row, entry]
        g = decay((ts_ms - when) / rule.unit_ms, rule.decay)
        if of.generation[met] != of.neighbour_generation[row, entry] or g <= rule.tau or when > until_ms:
            break
        d *= g
        count = add_target(slots, count, met, of.relation[row, entry], d, rule)
        row = met
    return count
