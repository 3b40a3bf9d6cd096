"""Popular now: every engaged event counts 1 at its time and half of it one half-life later."""

import math
import re

import numpy as np

from core.compiled import compiled
from core.contender import Run
from core.errors import SettingsError
from learners.baselines.order import Order, OrderedItems, grow_order, raise_to, rank_in

NOTHING = np.full(1, -1, dtype=np.int32)
NAME = re.compile(r"popular-([1-9]\d*)([smhd])")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@compiled
def add_one(order: Order, item: int, ts_ms: int, half_life_ms: float) -> None:
    """One more event: log2(2^score + 2^(t / h)), forward decay (Cormode et al., ICDE 2009), so that ageing needs no upkeep."""
    now, held = ts_ms / half_life_ms, order.score[item]
    top = max(now, held)
    raise_to(order, item, top + math.log2(2.0 ** (now - top) + 2.0 ** (held - top)))


@compiled
def judge_popular(
    item: np.ndarray,
    ts_ms: np.ndarray,
    engaged: np.ndarray,
    judged: np.ndarray,
    seen: np.ndarray,
    k: int,
    half_life_ms: float,
    order: Order,
    nothing: np.ndarray,
    out: np.ndarray,
) -> None:
    """Row by row: the rank in the list, then the count. See `core.contender.Run` for the columns."""
    for i in range(item.shape[0]):
        out[i] = rank_in(order, item[i], seen[i], nothing, k) if judged[i] else 0
        if engaged[i]:
            add_one(order, item[i], ts_ms[i], half_life_ms)


class Popular(OrderedItems):
    """The items with the highest decayed count; their scores are its log2, forward."""

    def __init__(self, half_life_ms: int, name: str) -> None:
        super().__init__()
        self.name, self._half_life_ms = name, float(half_life_ms)

    def judge(self, run: Run, k: int) -> np.ndarray:
        self._order = grow_order(self._order, run.items)
        out = np.zeros(len(run), dtype=np.int32)
        judge_popular(
            run.item, run.ts_ms, run.engaged, run.judged, run.seen, k, self._half_life_ms, self._order, NOTHING, out
        )  # fmt: skip
        return out


def popular(name: str) -> Popular:
    """`popular-30m` and the like: a half-life of so many seconds, minutes, hours or days.

    Raises:
        SettingsError: the half-life cannot be read.
    """
    found = NAME.fullmatch(name)
    if not found:
        raise SettingsError(f"--baseline {name}: give a half-life, as in popular-90s, popular-30m, popular-2h, popular-1d")
    return Popular(int(found[1]) * _UNIT_MS[found[2]], name)
