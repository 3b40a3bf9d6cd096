"""EdgeBank: a memory of pairs. What a user had comes first, newest first; then what is popular now.

Source: Poursafaei, Huang, Pelrine, Rabbany, "Towards Better Evaluation for Dynamic Link Prediction", NeurIPS 2022 (unlimited memory;
the order within it is by last contact, and lists are filled by popularity, since theirs only answers yes or no).
"""

import numpy as np

from core.compiled import compiled
from core.contender import Run, State, grown
from learners.baselines.order import Order, among, empty_order, forget, grow_order, load_order, order_scores, rank_in, save_order
from learners.baselines.popular import add_one

POPULAR_MS = 30 * 60_000.0
END = -1


@compiled
def remember(head: np.ndarray, after: np.ndarray, entry_item: np.ndarray, used: int, u: int, v: int) -> int:
    """Put an item at the head of a user's list, a new entry or the one it has; returns the entries in use."""
    at, before = head[u], END
    while at != END and entry_item[at] != v:
        at, before = after[at], at
    if at == END:
        at = used
        used += 1
        entry_item[at] = v
        after[at], head[u] = head[u], at
    elif before != END:
        after[before], after[at], head[u] = after[at], head[u], at
    return used


@compiled
def unlink(head: np.ndarray, after: np.ndarray, entry_item: np.ndarray, gone: np.ndarray) -> None:
    """Take the items of which `gone` (bool [items]) holds out of all users' lists."""
    for u in range(head.shape[0]):
        at, before = head[u], END
        while at != END:
            if not gone[entry_item[at]]:
                before = at
            elif before == END:
                head[u] = after[at]
            else:
                after[before] = after[at]
            at = after[at]


@compiled
def rank_by_memory(
    head: np.ndarray,
    after: np.ndarray,
    entry_item: np.ndarray,
    u: int,
    v: int,
    left_out: np.ndarray,
    k: int,
    order: Order,
    room: np.ndarray,
) -> int:
    """Rank in the list: the user's own items that are not left out, newest first, then the popular. 0: not in it."""
    at, held = head[u], 0
    while at != END and held < k:
        if not among(entry_item[at], left_out):
            if entry_item[at] == v:
                return held + 1
            room[held] = entry_item[at]
            held += 1
        at = after[at]
    room[held] = END
    rank = rank_in(order, v, left_out, room, k - held) if held < k else 0
    return held + rank if rank else 0


@compiled
def judge_memory(
    user: np.ndarray,
    item: np.ndarray,
    ts_ms: np.ndarray,
    engaged: np.ndarray,
    judged: np.ndarray,
    seen: np.ndarray,
    k: int,
    head: np.ndarray,
    after: np.ndarray,
    entry_item: np.ndarray,
    used: int,
    order: Order,
    out: np.ndarray,
) -> int:
    """Row by row: the rank in the list, then the pair is remembered; returns the entries in use."""
    room = np.empty(k + 1, dtype=np.int32)
    for i in range(user.shape[0]):
        if judged[i]:
            out[i] = rank_by_memory(head, after, entry_item, user[i], item[i], seen[i], k, order, room)
        if engaged[i]:
            used = remember(head, after, entry_item, used, user[i], item[i])
            add_one(order, item[i], ts_ms[i], POPULAR_MS)
    return used


class EdgeBank:
    """State: an entry a pair (8 bytes), linked from its user, newest first; popularity. A step costs the user's items at most."""

    name = "edgebank"

    def __init__(self) -> None:
        self._order, self._used = empty_order(), 0
        self._head, self._after, self._item = (np.empty(0, dtype=np.int32) for _ in range(3))

    def _grow(self, run: Run) -> None:
        self._order, users = grow_order(self._order, run.items), self._head.size
        self._head = grown(self._head, run.users)
        self._head[users:] = END
        entries = self._used + len(run)
        self._after, self._item = grown(self._after, entries), grown(self._item, entries)

    def judge(self, run: Run, k: int) -> np.ndarray:
        self._grow(run)
        out = np.zeros(len(run), dtype=np.int32)
        self._used = judge_memory(
            run.user, run.item, run.ts_ms, run.engaged, run.judged, run.seen, k,
            self._head, self._after, self._item, self._used, self._order, out,
        )  # fmt: skip
        return out

    def scores(self, user: int, items: int) -> np.ndarray:
        """The user's own items above all others, newest first; the others as popular as they are, NaN without an event."""
        scores = order_scores(self._order, items)
        if own := self._items_of(user):
            scores[own] = np.nanmax(scores) + np.arange(len(own), 0, -1)
        return scores

    def _items_of(self, user: int) -> list[int]:
        own, at = [], int(self._head[user]) if user < self._head.size else END
        while at != END:
            own.append(int(self._item[at]))
            at = int(self._after[at])
        return own

    def remove(self, items: np.ndarray) -> None:
        forget(self._order, items)
        gone = np.zeros(self._order.score.size, dtype=np.bool_)
        gone[items[items < gone.size]] = True
        unlink(self._head, self._after, self._item, gone)

    def save(self) -> State:
        own = {"head": self._head, "after": self._after, "item": self._item}
        return {name: array.copy() for name, array in own.items()} | {"used": np.array([self._used])} | save_order(self._order)

    def load(self, state: State) -> None:
        self._head, self._after, self._item = (state[name].copy() for name in ("head", "after", "item"))
        self._used, self._order = int(state["used"][0]), load_order(state)
