"""Most recent: the items that anybody engaged with last."""

import numpy as np

from core.compiled import compiled
from core.contender import Run
from learners.baselines.order import Order, OrderedItems, grow_order, raise_to, rank_in
from learners.baselines.popular import NOTHING


@compiled
def judge_recent(
    position: np.ndarray,
    item: np.ndarray,
    engaged: np.ndarray,
    judged: np.ndarray,
    seen: np.ndarray,
    k: int,
    order: Order,
    nothing: np.ndarray,
    out: np.ndarray,
) -> None:
    """Row by row: the rank in the list, then the item goes to the top."""
    for i in range(item.shape[0]):
        out[i] = rank_in(order, item[i], seen[i], nothing, k) if judged[i] else 0
        if engaged[i]:
            raise_to(order, item[i], float(position[i]))


class Recent(OrderedItems):
    """The items by the position of their last engaged event."""

    name = "recent"

    def judge(self, run: Run, k: int) -> np.ndarray:
        self._order = grow_order(self._order, run.items)
        out = np.zeros(len(run), dtype=np.int32)
        judge_recent(run.position, run.item, run.engaged, run.judged, run.seen, k, self._order, NOTHING, out)
        return out
