"""What a user did with each of a few categories: decayed counters in slots, the category longest unused making room."""

from typing import NamedTuple

import numpy as np

from core.clock import MS
from core.compiled import compiled, inlined
from features.declarations import AFFINITY_LIVES_SECONDS, AFFINITY_SLOTS

NO_CATEGORY = 0
_HASH, _NEWEST, _COUNTS = 0, 1, 2  # words of a slot


class Affinity(NamedTuple):
    """Where the slots lie in a row, for the kernel."""

    lives_ms: np.ndarray  # float64 [lives]
    groups: int  # behaviours
    at: int  # first word
    words: int  # of all slots
    width: int  # columns: groups x lives


def affinity(groups: int, at: int) -> Affinity:
    lives_ms = np.array(AFFINITY_LIVES_SECONDS, dtype=np.float64) * MS
    width = groups * len(AFFINITY_LIVES_SECONDS)
    return Affinity(lives_ms, groups, at, AFFINITY_SLOTS * (_COUNTS + width), width)


@inlined
def slot_of(of: Affinity, row: np.ndarray, category: int) -> int:
    """First word of the category's slot; of an empty one, or that of the oldest newest event, where it has none."""
    size, best = of.words // AFFINITY_SLOTS, of.at
    for at in range(of.at, of.at + of.words, size):
        if row[at + _HASH] == category:
            return at
        if row[at + _NEWEST] < row[best + _NEWEST]:
            best = at
    return best


@compiled
def observe_affinity(of: Affinity, row: np.ndarray, floats: np.ndarray, ts_ms: int, category: int, mask: int, before: np.ndarray) -> None:
    """One event of a user with an item of a category: what was known before it, then count it.

    Args:
        row, floats: int64 and float64 [words], the same memory. Updated.
        category: hash, or NO_CATEGORY, of which nothing is known.
        mask: behaviours of the event, a bit each; without any nothing is counted.
        before: float32 [width]. Filled with the counters decayed to the event's time.
    """
    before[:] = 0.0
    if category == NO_CATEGORY:
        return
    at = slot_of(of, row, category)
    held = row[at + _HASH] == category
    if not held and mask == 0:
        return
    if not held:
        row[at : at + _COUNTS + of.width] = 0
        row[at + _HASH] = category
    newest_ms, lives = row[at + _NEWEST], of.lives_ms.shape[0]
    passed_ms = ts_ms - newest_ms if newest_ms else 0
    for life in range(lives):
        fresh = np.exp2(-abs(passed_ms) / of.lives_ms[life])
        for group in range(of.groups):
            cell = at + _COUNTS + group * lives + life
            if passed_ms > 0:
                floats[cell] *= fresh
            before[group * lives + life] = floats[cell]
            if mask >> group & 1:
                floats[cell] += fresh if passed_ms < 0 else 1.0
    row[at + _NEWEST] = max(newest_ms, ts_ms)
