"""Most recent: the items that anybody engaged with last."""

import numpy as np

from core.compiled import compiled
from core.contender import Run, State
from learners.baselines.order import Order, empty_order, forget, grow_order, load_order, raise_to, rank_in, save_order
from learners.baselines.popular import NOTHING, order_scores


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


class Recent:
    """The items by the position of their last engaged event. State: that position an item, and their order."""

    name = "recent"

    def __init__(self) -> None:
        self._order = empty_order()

    def judge(self, run: Run, k: int) -> np.ndarray:
        self._order = grow_order(self._order, run.items)
        out = np.zeros(len(run), dtype=np.int32)
        judge_recent(run.position, run.item, run.engaged, run.judged, run.seen, k, self._order, NOTHING, out)
        return out

    def scores(self, user: int, items: int) -> np.ndarray:
        """The position of the last event; NaN without one."""
        return order_scores(self._order, items)

    def remove(self, items: np.ndarray) -> None:
        for item in items.tolist():
            if item < self._order.score.size:
                forget(self._order, item)

    def save(self) -> State:
        return save_order(self._order)

    def load(self, state: State) -> None:
        self._order = load_order(state)
