"""What each node did so far, beside what was learned of it: how often, how lately, and with how many others."""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled

HALF_LIVES_MS = (600_000.0, 3_600_000.0, 21_600_000.0, 86_400_000.0, 604_800_000.0)
NEVER = -np.inf


class History(NamedTuple):
    """Of every row. Counts are forward decayed (Cormode et al., ICDE 2009): log2 of the sum of 2^(t / half-life), so that ageing needs no
    upkeep; of a row without an edge they mean nothing. A partner is new if it is not remembered, forgotten ones again."""

    heat: np.ndarray  # float64 [rows, half-lives], edges
    new_heat: np.ndarray  # float64 [rows, half-lives], edges with new partners
    first_ms: np.ndarray  # int64 [rows]
    partners: np.ndarray  # int64 [rows], new ones so far


def no_history() -> dict[str, np.ndarray]:
    """Of no row."""
    heat, whole = np.zeros((0, len(HALF_LIVES_MS))), np.zeros(0, np.int64)
    return {"heat": heat, "new_heat": heat, "first_ms": whole, "partners": whole}


@compiled
def _add(heat: np.ndarray, row: int, ts_ms: int, started: bool) -> None:
    for k in range(len(HALF_LIVES_MS)):
        now = ts_ms / HALF_LIVES_MS[k]
        held = heat[row, k] if started else NEVER
        top = max(now, held)
        heat[row, k] = top + math.log2(2.0 ** (now - top) + 2.0 ** (held - top))


@compiled
def note(of: History, row: int, edges: int, new: bool, ts_ms: int) -> None:
    """One more edge of a row.

    Args:
        edges: of the row before this one.
        new: with a node that it does not remember.
    """
    if edges == 0:
        of.first_ms[row] = ts_ms
    _add(of.heat, row, ts_ms, edges > 0)
    if new:
        _add(of.new_heat, row, ts_ms, of.partners[row] > 0)
        of.partners[row] += 1
