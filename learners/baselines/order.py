"""Items in the order of a score that only ever rises, kept sorted: the list of any user is found from the top."""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled
from core.contender import State, grown

UNSCORED = -np.inf


class Order(NamedTuple):
    """Items by score, highest first."""

    score: np.ndarray  # float64 [items], UNSCORED before the first event
    by_rank: np.ndarray  # int32 [items], items
    rank_of: np.ndarray  # int32 [items], inverse of `by_rank`


def empty_order() -> Order:
    return Order(np.empty(0), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))


def grow_order(order: Order, items: int) -> Order:
    """With room for `items`: new ones unscored, at the end."""
    held = order.score.size
    if items <= held:
        return order
    score = grown(order.score, items)
    score[held:] = UNSCORED
    new = np.arange(held, score.size, dtype=np.int32)
    return Order(score, np.append(order.by_rank, new), np.append(order.rank_of, new))


@compiled
def raise_to(order: Order, item: int, score: float) -> None:
    """Give an item a score not below its own: it moves up past all that are lower."""
    order.score[item] = score
    at = order.rank_of[item]
    while at > 0 and order.score[order.by_rank[at - 1]] < score:
        above = order.by_rank[at - 1]
        order.by_rank[at], order.rank_of[above] = above, at
        at -= 1
    order.by_rank[at], order.rank_of[item] = item, at


@compiled
def forget(order: Order, items: np.ndarray) -> None:
    """As if never scored: int32 [n]; items that there are not are left out."""
    last = order.by_rank.shape[0] - 1
    for item in items:
        if item > last:
            continue
        order.score[item] = UNSCORED
        at = order.rank_of[item]
        while at < last and order.score[order.by_rank[at + 1]] > UNSCORED:
            below = order.by_rank[at + 1]
            order.by_rank[at], order.rank_of[below] = below, at
            at += 1
        order.by_rank[at], order.rank_of[item] = item, at


@compiled
def among(item: int, items: np.ndarray) -> bool:
    """Whether `item` is in `items`, which ends at the first negative number."""
    for other in items:
        if other < 0:
            return False
        if other == item:
            return True
    return False


@compiled
def rank_in(order: Order, item: int, left_out: np.ndarray, also_left_out: np.ndarray, k: int) -> int:
    """Rank of `item` in the list of the k highest that are not left out; others of the same score count as before it. 0: not in it.

    Args:
        left_out, also_left_out: int32, each ends at the first negative number.
    """
    own = order.score[item]
    if own == UNSCORED or among(item, left_out) or among(item, also_left_out):
        return 0
    before = 0
    for other in order.by_rank:
        if order.score[other] < own:
            break
        if other != item and not among(other, left_out) and not among(other, also_left_out):
            before += 1
            if before >= k:
                return 0
    return before + 1


def order_scores(order: Order, items: int) -> np.ndarray:
    """float64 [items], NaN where there is none."""
    scores = np.full(items, np.nan)
    held = order.score[:items]
    scores[: held.size] = np.where(held == UNSCORED, np.nan, held)
    return scores


def save_order(order: Order) -> State:
    return {f"order_{name}": array.copy() for name, array in order._asdict().items()}


def load_order(state: State) -> Order:
    return Order(*(state[f"order_{name}"].copy() for name in Order._fields))


class OrderedItems:
    """Lists that are the same for all users, but for what each has seen. State: a score an item, and their order."""

    def __init__(self) -> None:
        self._order = empty_order()

    def scores(self, user: int, items: int) -> np.ndarray:
        """What the order is by; NaN without an event."""
        return order_scores(self._order, items)

    def remove(self, items: np.ndarray) -> None:
        forget(self._order, items)

    def save(self) -> State:
        return save_order(self._order)

    def load(self, state: State) -> None:
        self._order = load_order(state)
