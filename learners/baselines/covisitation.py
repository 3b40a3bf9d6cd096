"""Co-visitation: what others went to next from the user's last item, then what is popular now."""

import numpy as np

from core.compiled import compiled
from core.contender import Run, State, grown
from learners.baselines.order import Order, empty_order, forget, grow_order, load_order, order_scores, rank_in, save_order
from learners.baselines.popular import add_one

NEIGHBOURS = 96  # of an item; the lowest gives way
POPULAR_MS = 30 * 60_000.0
NOBODY = -1


@compiled
def add_step(neighbours: np.ndarray, scores: np.ndarray, to: int, ts_ms: int, half_life_ms: float) -> None:
    """Count a step to `to` in a row of neighbours: int32 and float64 [NEIGHBOURS], forward-decayed log2 counts."""
    now, at, lowest = ts_ms / half_life_ms, NOBODY, 0
    for slot in range(neighbours.shape[0]):
        if neighbours[slot] == to:
            at = slot
        if scores[slot] < scores[lowest]:
            lowest = slot
    if at == NOBODY:
        neighbours[lowest], scores[lowest] = to, now
        return
    top = max(now, scores[at])
    scores[at] = top + np.log2(2.0 ** (now - top) + 2.0 ** (scores[at] - top))


@compiled
def rank_by_steps(neighbours: np.ndarray, scores: np.ndarray, item: int, left_out: np.ndarray, k: int, order: Order, least: float) -> int:
    """Rank in the list: neighbours that are not left out by score, then the popular; equals count as before it, 0 is a miss."""
    listed, held = np.full(neighbours.shape[0] + 1, -1, dtype=np.int32), 0
    own, before = np.nan, 0
    for slot in range(neighbours.shape[0]):
        if neighbours[slot] == item:
            own = scores[slot]
    for slot in range(neighbours.shape[0]):
        other, out = neighbours[slot], neighbours[slot] < 0 or scores[slot] < least
        for seen in left_out:
            out = out or (seen >= 0 and seen == other)
        if not out:
            listed[held] = other
            held += 1
            before += other != item and scores[slot] >= own
    for at in range(held):
        if listed[at] == item:
            return before + 1 if before < k else 0
    rank = rank_in(order, item, left_out, listed, k - held) if held < k else 0
    return held + rank if rank else 0


@compiled
def judge_steps(
    user: np.ndarray,
    item: np.ndarray,
    ts_ms: np.ndarray,
    engaged: np.ndarray,
    judged: np.ndarray,
    seen: np.ndarray,
    k: int,
    last_item: np.ndarray,
    neighbours: np.ndarray,
    scores: np.ndarray,
    nobody: np.ndarray,
    order: Order,
    half_life_ms: float,
    least_count: float,
    out: np.ndarray,
) -> None:
    """Row by row: the rank in the list, then the step from the user's last item."""
    for i in range(user.shape[0]):
        u, at = user[i], last_item[user[i]]
        if judged[i]:
            if at >= 0:
                out[i] = rank_by_steps(
                    neighbours[at], scores[at], item[i], seen[i], k, order, ts_ms[i] / half_life_ms + np.log2(least_count)
                )
            else:
                out[i] = rank_in(order, item[i], seen[i], nobody, k)
        if not engaged[i]:
            continue
        if at >= 0 and at != item[i]:
            add_step(neighbours[at], scores[at], item[i], ts_ms[i], half_life_ms)
        last_item[u] = item[i]
        add_one(order, item[i], ts_ms[i], POPULAR_MS)


class Covisitation:
    """Steps between the consecutive events of a user, counted per pair of items and decayed; neighbours below `least_count` (decayed to
    now) are left to popularity. State: NEIGHBOURS slots an item (1.2 kB), the last item of each user, popularity.
    """

    def __init__(self, name: str, half_life_ms: float, least_count: float) -> None:
        self.name, self._half_life_ms, self._least_count = name, half_life_ms, least_count
        self._order, self._nobody = empty_order(), np.full(1, NOBODY, dtype=np.int32)
        self._neighbours, self._scores = np.empty((0, NEIGHBOURS), dtype=np.int32), np.empty((0, NEIGHBOURS))
        self._last_item, self._now_ms = np.empty(0, dtype=np.int32), 0

    def _grow(self, run: Run) -> None:
        self._order = grow_order(self._order, run.items)
        held, users = self._scores.shape[0], self._last_item.size
        self._neighbours, self._scores = grown(self._neighbours, run.items), grown(self._scores, run.items)
        self._neighbours[held:], self._scores[held:] = NOBODY, -np.inf
        self._last_item = grown(self._last_item, run.users)
        self._last_item[users:] = NOBODY

    def judge(self, run: Run, k: int) -> np.ndarray:
        self._grow(run)
        out = np.zeros(len(run), dtype=np.int32)
        judge_steps(
            run.user, run.item, run.ts_ms, run.engaged, run.judged, run.seen, k, self._last_item,
            self._neighbours, self._scores, self._nobody, self._order, self._half_life_ms, self._least_count, out,
        )  # fmt: skip
        self._now_ms = int(run.ts_ms[-1]) if len(run) else self._now_ms
        return out

    def scores(self, user: int, items: int) -> np.ndarray:
        """Neighbours of the user's last item, as of the newest event, above all others, which are as popular as they are; NaN without
        an event."""
        scores = order_scores(self._order, items)
        at = self._last_item[user] if user < self._last_item.size else NOBODY
        if at >= 0:
            least = self._now_ms / self._half_life_ms + np.log2(self._least_count)
            listed = (self._neighbours[at] >= 0) & (self._scores[at] >= least)
            if listed.any():
                own = self._scores[at][listed]
                scores[self._neighbours[at][listed]] = np.nanmax(scores) + 1.0 + (own - own.min())
        return scores

    def remove(self, items: np.ndarray) -> None:
        """What others went to from them is kept."""
        forget(self._order, items)
        gone = np.isin(self._neighbours, items)
        self._neighbours[gone], self._scores[gone] = NOBODY, -np.inf

    def save(self) -> State:
        own: State = {"neighbours": self._neighbours, "scores": self._scores, "last_item": self._last_item}
        return {name: array.copy() for name, array in own.items()} | {"now_ms": np.array([self._now_ms])} | save_order(self._order)

    def load(self, state: State) -> None:
        self._neighbours, self._scores, self._last_item = (state[name].copy() for name in ("neighbours", "scores", "last_item"))
        self._now_ms, self._order = int(state["now_ms"][0]), load_order(state)
