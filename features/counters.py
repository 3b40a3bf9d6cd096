"""Decayed counters: every event counts 1 at its time and half of it one half-life later.

A stored counter is the sum at the entity's last time; reading it later multiplies by 2^(-age / half life).
"""

import numpy as np

from core.clock import UNSET
from core.compiled import compiled

MS = 1_000  # per second


@compiled
def observe(counts: np.ndarray, last_ms: int, ts_ms: int, code: int, half_lives_ms: np.ndarray, before: np.ndarray) -> int:
    """One row of one entity: what was known before it, then count it. Returns the entity's last time (ms) after it.

    A row older than the entity's last sees the counters as they are, and adds 2^(-age / half life).

    Args:
        counts: float64 [types x half lives], type-major, as of `last_ms`. Updated to the returned time.
        last_ms: time of the entity's newest row, 0 before the first.
        ts_ms: time of this row.
        code: index of its type; any other number counts nothing.
        half_lives_ms: float64 [half lives].
        before: float32 [types x half lives]. Filled with the counters before the row, decayed to its time.
    """
    lives = half_lives_ms.shape[0]
    types = counts.shape[0] // lives
    passed = ts_ms - last_ms
    for life in range(lives):
        factor = np.exp2(-abs(passed) / half_lives_ms[life])
        for at in range(life, types * lives, lives):
            if passed >= 0:
                counts[at] *= factor
            before[at] = counts[at]
        if 0 <= code < types:
            counts[code * lives + life] += 1.0 if passed >= 0 else factor
    return max(last_ms, ts_ms)


def effective_ms(ts_ms: np.ndarray, clock_ms: np.ndarray, future_ms: int) -> np.ndarray:
    """int64 [n]: event times, held to at most `future_ms` beyond a clock that is set.

    One odd timestamp may not freeze an entity: its counters would not decay until the clock got there.
    """
    return np.where(clock_ms == UNSET, ts_ms, np.minimum(ts_ms, clock_ms + future_ms))
