"""Curves over event time: hours are put together until a curve has few enough points, each of enough rows."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from evaluation.report.axes import HOUR_MS, STEPS_MS

POINTS = 100  # of a curve at most, where rows are evenly spread
ROWS = 100  # in the middle point of a curve at least, unless it would have fewer than FEWEST points
FEWEST = 12


def step_of(hours: Mapping[str, Any]) -> int:
    """How many ms of event time go into one point."""
    fitting = STEPS_MS[-1]
    for step in reversed(STEPS_MS):
        rows = list(_counts(hours, step).values())
        if len(rows) > POINTS or (len(rows) > FEWEST and median(rows) < ROWS):
            break
        fitting = step
    return fitting


def merged(hours: Mapping[str, Any], values: Sequence[float | None], step_ms: int) -> list[tuple[float, float | None]]:
    """Points (middle of the piece in ms, mean of its hours weighted by their rows); None between pieces that do not touch."""
    sums: dict[int, float] = {}
    rows: dict[int, int] = {}
    for ts_ms, n, value in zip(hours["ts_ms"], hours["n"], values, strict=True):
        if value is not None:
            piece = ts_ms // step_ms
            sums[piece], rows[piece] = sums.get(piece, 0.0) + n * value, rows.get(piece, 0) + n
    points: list[tuple[float, float | None]] = []
    for piece, sum_ in sums.items():
        at = (piece + 0.5) * step_ms
        if points and at - points[-1][0] > 1.5 * step_ms:
            points.append((at, None))
        points.append((at, sum_ / rows[piece]))
    return points


def _counts(hours: Mapping[str, Any], step_ms: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    for ts_ms, n in zip(hours["ts_ms"], hours["n"], strict=True):
        counts[ts_ms // step_ms] = counts.get(ts_ms // step_ms, 0) + n
    return counts


def told(step_ms: int) -> str:
    hours = step_ms // HOUR_MS
    return "hour" if hours == 1 else f"{hours} hours" if hours < 24 else "day" if hours == 24 else f"{hours // 24} days"
