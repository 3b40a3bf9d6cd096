"""Steps from item to item, compiled: a user's last item, and the counts of the steps from it.

A count is the log2 of the sum of 2^(t / half life) over its steps at times t: it never needs upkeep, and counts of one item compare at
any later time, because ageing subtracts the same from all. Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay: a practical
time decay model for streaming systems", ICDE 2009.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled
from core.rows import CHUNK_BITS


class Lasts(NamedTuple):
    """The last counted event of every user."""

    item: np.ndarray  # int32 [users], row
    met: np.ndarray  # int32 [users], 1 + generation of that row at the event; 0: none yet
    ms: np.ndarray  # int64 [users], its time
    dirty: np.ndarray  # bool [chunks], changed since the last snapshot


class Steps(NamedTuple):
    """Up to k neighbours of every item. A slot is empty unless `met` is 1 + the generation of the neighbour's row."""

    neighbour: np.ndarray  # int32 [items, k], rows
    met: np.ndarray  # int32 [items, k]
    score: np.ndarray  # float64 [items, k], log2 counts as of time 0
    generation: np.ndarray  # int32 [items], times the row was freed
    version: np.ndarray  # int64 [items], of the last step in the row; 0: none
    event_ms: np.ndarray  # int64 [items], newest step in the row
    touched: np.ndarray  # bool [items], already given as fresh; no state, it only spares work
    dirty: np.ndarray  # bool [chunks], changed since the last snapshot


@compiled
def slot_of(steps: Steps, row: int, to: int) -> int:
    """The slot of neighbour `to`, -1 where it has none."""
    met = steps.generation[to] + 1
    for slot in range(steps.neighbour.shape[1]):
        if steps.neighbour[row, slot] == to and steps.met[row, slot] == met:
            return slot
    return -1


@compiled
def weakest_slot(steps: Steps, row: int) -> int:
    """The first empty slot; in a full row the lowest score, the first of equal ones."""
    lowest = 0
    for slot in range(steps.neighbour.shape[1]):
        if steps.met[row, slot] != steps.generation[steps.neighbour[row, slot]] + 1:
            return slot
        if steps.score[row, slot] < steps.score[row, lowest]:
            lowest = slot
    return lowest


@compiled
def add_step(steps: Steps, row: int, to: int, ts_ms: int, version: int, half_life_ms: float) -> None:
    """Count a step from item `row` to item `to`. A new neighbour is always taken in: a count of one is below most others."""
    now, slot = ts_ms / half_life_ms, slot_of(steps, row, to)
    if slot < 0:
        slot = weakest_slot(steps, row)
        steps.neighbour[row, slot], steps.met[row, slot] = to, steps.generation[to] + 1
        steps.score[row, slot] = now
    else:
        score = steps.score[row, slot]
        steps.score[row, slot] = max(now, score) + math.log2(1.0 + np.exp2(-abs(now - score)))
    steps.version[row], steps.event_ms[row] = version, max(steps.event_ms[row], ts_ms)
    steps.dirty[row >> CHUNK_BITS] = True


@compiled
def touch(steps: Steps, row: int, fresh: np.ndarray, count: int) -> int:
    """Append the row to the first `count` of `fresh` if it was not touched; returns how many they are now."""
    if steps.touched[row]:
        return count
    steps.touched[row], fresh[count] = True, row
    return count + 1


class StepRows(NamedTuple):
    """n events with user and item."""

    user: np.ndarray  # int32 [n], rows; -1 where there is none
    item: np.ndarray  # int32 [n]
    counted: np.ndarray  # bool [n], whether it is an end of a step; then it has both rows
    ts_ms: np.ndarray  # int64 [n], effective event times
    version: np.ndarray  # int64 [n], of the examples, see `Covisitation`


class StepRule(NamedTuple):
    """What stays the same from row to row: see `CovisitationConfig`."""

    gap_ms: int  # longest time between the ends of a step, in either order
    half_life_ms: float
    both_ways: bool


@compiled
def learn_steps(rule: StepRule, rows: StepRows, lasts: Lasts, steps: Steps, fresh: np.ndarray, before: np.ndarray) -> int:
    """Row by row: what is known of the step from the user's last item; count it; then this one is the last unless it is older.

    Args:
        lasts: of the users. Updated.
        steps: of the items. Updated.
        fresh: int32 [2 n]. Its first places are filled with the items touched that are not marked as such, in order.
        before: float32 [n], zeros. Filled with the count of that step as it was, decayed to the event's time.

    Returns:
        How many items are fresh.
    """
    count = 0
    for i in range(rows.user.shape[0]):
        u, to = rows.user[i], rows.item[i]
        if u < 0 or to < 0:
            continue
        at, ts_ms = lasts.item[u], rows.ts_ms[i]
        known = lasts.met[u] == steps.generation[at] + 1
        passed = ts_ms - lasts.ms[u]
        if known and at != to and abs(passed) <= rule.gap_ms:
            slot = slot_of(steps, at, to)
            if slot >= 0:
                before[i] = np.exp2(steps.score[at, slot] - ts_ms / rule.half_life_ms)
            if rows.counted[i]:
                count = take_step(rule, steps, at, to, ts_ms, rows.version[i], fresh, count)
        if rows.counted[i] and (not known or passed >= 0):
            lasts.item[u], lasts.met[u], lasts.ms[u] = to, steps.generation[to] + 1, ts_ms
            lasts.dirty[u >> CHUNK_BITS] = True
    return count


@compiled
def take_step(rule: StepRule, steps: Steps, at: int, to: int, ts_ms: int, version: int, fresh: np.ndarray, count: int) -> int:
    """Count a step, back too if so wanted; returns how many items are fresh."""
    add_step(steps, at, to, ts_ms, version, rule.half_life_ms)
    count = touch(steps, at, fresh, count)
    if rule.both_ways:
        add_step(steps, to, at, ts_ms, version, rule.half_life_ms)
        count = touch(steps, to, fresh, count)
    return count
