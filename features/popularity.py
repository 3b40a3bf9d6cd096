"""Popularity as a forward-decayed count, in log2 so that it needs no upkeep.

log2 of the sum of 2^(t / h) over an item's events at times t: two items compare by it at any later time, because ageing
subtracts the same from both. Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay: a practical time decay model
for streaming systems", ICDE 2009. The sum itself would overflow, so an item keeps its count as of its last event.
"""

import numpy as np

from core.compiled import compiled


@compiled
def observe_popularity(count: float, last_ms: int, ts_ms: int, half_life_ms: float) -> float:
    """The count as of max(last_ms, ts_ms) after one more event at `ts_ms`; `last_ms` is 0 before the first."""
    passed = ts_ms - last_ms
    factor: float = np.exp2(-abs(passed) / half_life_ms)
    if passed >= 0:
        return count * factor + 1.0
    return count + factor


def log2_popularity(count: np.ndarray, last_ms: np.ndarray, half_life_ms: float, origin_ms: int = 0) -> np.ndarray:
    """float64 [n]: log2 of each count, forward from `origin_ms`; NaN where there was no event.

    Args:
        count: float64 [n], as of `last_ms`.
        last_ms: int64 [n].
        half_life_ms: of the score.
        origin_ms: 0 gives the score that is published; the clock gives log2 of the count decayed to now.
    """
    known = count > 0
    log2 = np.log2(count, out=np.full(count.shape, np.nan), where=known)
    forward: np.ndarray = log2 + (last_ms - origin_ms) / half_life_ms
    return forward
