"""Where the weights of delayed labels lead, by exact expectation: no samples, no learner.

At constant features, with p = P(positive) and p_dp = P(positive after the window), each policy emits a known number of rows of each kind
per click. The expected slope of its loss is then a function of the model's output f alone, and training ends where that is zero.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from core import labels
from core.labels import DEFER, DEFUSE, ES_DFM, FNC, FNW, SLIVER, VANILLA, WAIT, WINDOW

PAIRS = ((0.2, 0.1), (0.12, 0.09), (0.5, 0.45), (0.05, 0.01))  # (p, p_dp)
GRID = 2_000  # places at which the slope's sign is looked at
HALVINGS = 60

Weigh = Callable[[int, int, float, float, float], tuple[float, float]]  # policy, kind, f, p_dp, p_rn -> a, b
Emissions = Sequence[tuple[int, float]]  # kind, rows per click


class Delay(NamedTuple):
    """What is true of a click."""

    p: float  # P(positive)
    p_dp: float  # P(positive after the window)

    @property
    def observed_negative(self) -> float:
        """P(no positive within the window)."""
        return 1.0 - self.p + self.p_dp

    @property
    def p_rn(self) -> float:
        """P(a true negative, where a negative was observed)."""
        return (1.0 - self.p) / self.observed_negative


def emissions(policy: int, true: Delay) -> Emissions:
    """The rows that a click leads to, in expectation: the table of `core.labels`."""
    in_time, late, never = true.p - true.p_dp, true.p_dp, 1.0 - true.p
    window = [(labels.IN_WINDOW, in_time), (labels.NEGATIVE, true.observed_negative)]
    again = [(labels.LATE, late)]
    matured = [(labels.MATURED_IN_WINDOW, in_time), (labels.MATURED_LATE, late), (labels.MATURED_NEGATIVE, never)]
    early = [(labels.NEGATIVE, 1.0), (labels.LATE, true.p)]
    return {
        WINDOW: window,
        VANILLA: window + again,
        FNW: early,
        FNC: early,
        ES_DFM: window + again + matured,
        DEFUSE: window + again + matured,
        DEFER: [*window, *again, (labels.FINAL_POSITIVE, in_time), (labels.MATURED_LATE, late), (labels.FINAL_NEGATIVE, never)],
        WAIT: [(labels.FINAL_POSITIVE, true.p), (labels.FINAL_NEGATIVE, never)],
        SLIVER: [(labels.IN_WINDOW, true.p), (labels.FINAL_NEGATIVE, never)],
    }[policy]


def expected_slope(policy: int, rows: Emissions, true: Delay, weigh: Weigh, f: float) -> float:
    """Mean over clicks of d loss / d logit at the output f, with both helpers exact; loss = a (-log f) + b (-log(1 - f))."""
    total = 0.0
    for kind, count in rows:
        a, b = weigh(policy, kind, f, true.p_dp, true.p_rn)
        total += count * (b * f - a * (1.0 - f))
    return total


def rest_points(policy: int, rows: Emissions, true: Delay, weigh: Weigh) -> list[float]:
    """Every f in (0, 1) at which the expected slope changes its sign, found on a grid and halved down to 1e-15."""

    def slope(f: float) -> float:
        return expected_slope(policy, rows, true, weigh, f)

    grid = [(k + 0.5) / GRID for k in range(GRID)]
    signs = [slope(f) > 0.0 for f in grid]
    return [_root(slope, grid[k], grid[k + 1]) for k in range(GRID - 1) if signs[k] != signs[k + 1]]


def _root(slope: Callable[[float], float], low: float, high: float) -> float:
    rises = slope(high) > 0.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if (slope(middle) > 0.0) == rises else (middle, high)
    return 0.5 * (low + high)


def rest_point(policy: int, true: Delay) -> float:
    """Where f belongs, by the papers: p of the corrected policies, else the value with that policy's own bias.

    Of fnc it is the f that is trained, whose f / (1 - f) is p.
    """
    return {WINDOW: true.p - true.p_dp, VANILLA: true.p / (1.0 + true.p_dp), FNC: true.p / (1.0 + true.p)}.get(policy, true.p)
