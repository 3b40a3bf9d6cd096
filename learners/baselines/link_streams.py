"""Items ranked on a stream of edges without learning: by popularity, recency, or memory of a user's own items, and mixtures.

Two keys make every one of them: what the user had (memory), and among items that are equal there, what all did (crowd).
"""

from collections.abc import Callable

import numpy as np

from core.compiled import compiled
from core.contender import grown
from learners.baselines.edgebank import END, remember

NO_MEMORY, SEEN, NEWEST = 0, 1, 2  # memory: nothing; the user's own items first, as equals; newest first
EQUAL, COUNTED, LATEST = 0, 1, 2  # crowd: all alike; by decayed count of edges; by time of the last edge
HOUR_MS = 3_600_000.0
DAY_MS = 24 * HOUR_MS
FOR_EVER = float("inf")


@compiled
def rank_by_two(memory: np.ndarray, crowd: np.ndarray, item: int) -> float:
    """Rank of an item by memory, then by crowd (both float64 [items]), 1 is first; equals in both share their mean rank."""
    above, equal = 0, 0
    for other in range(memory.shape[0]):
        if memory[other] == memory[item]:
            above += crowd[other] > crowd[item]
            equal += crowd[other] == crowd[item]
        else:
            above += memory[other] > memory[item]
    return 1.0 + above + (equal - 1) / 2.0


@compiled
def recall(head: np.ndarray, after: np.ndarray, entry_item: np.ndarray, u: int, by: int, memory: np.ndarray) -> None:
    """Set memory (float64 [items]) of the user's items: above 0, if `by` is NEWEST the higher the newer; 0 if it is NO_MEMORY."""
    at, newest = head[u], float(memory.shape[0])
    while at != END:
        memory[entry_item[at]] = 0.0 if by == NO_MEMORY else 1.0 if by == SEEN else newest
        newest -= 1.0
        at = after[at]


@compiled
def count_in(crowd: np.ndarray, item: int, ts_ms: int, by: int, half_life_ms: float) -> None:
    """One more edge: log2(2^score + 2^(t / h)), forward decay (Cormode et al., ICDE 2009), or its time."""
    if by == COUNTED:
        now, held = ts_ms / half_life_ms, crowd[item]
        top = max(now, held)
        crowd[item] = top + np.log2(2.0 ** (now - top) + 2.0 ** (held - top))
    elif by == LATEST:
        crowd[item] = ts_ms


@compiled
def judge_links(
    u: np.ndarray,
    i: np.ndarray,
    ts_ms: np.ndarray,
    judged: np.ndarray,
    by_memory: int,
    by_crowd: int,
    half_life_ms: float,
    head: np.ndarray,
    after: np.ndarray,
    entry_item: np.ndarray,
    used: int,
    memory: np.ndarray,
    crowd: np.ndarray,
    out: np.ndarray,
) -> int:
    """Row by row: the rank, then the edge is learned; returns the entries in use.

    Args:
        u, i, ts_ms, judged: int64, int64, int64, bool [n].
        head, after, entry_item: int32, the users' lists, see `learners.baselines.edgebank`. Updated, as `crowd` and `out`.
        memory: float64 [items], room; 0 before and after.
        crowd: float64 [items].
        out: float64 [n], filled where judged.
    """
    for k in range(u.shape[0]):
        if judged[k]:
            recall(head, after, entry_item, u[k], by_memory, memory)
            out[k] = rank_by_two(memory, crowd, i[k])
            recall(head, after, entry_item, u[k], NO_MEMORY, memory)
        if by_memory != NO_MEMORY:
            used = remember(head, after, entry_item, used, u[k], i[k])
        count_in(crowd, i[k], ts_ms[k], by_crowd, half_life_ms)
    return used


class LinkStream:
    """State: a number an item; with a memory, an entry a pair (8 bytes), linked from its user, newest first. A judged edge costs a look at
    every item, a learned one the user's items at most."""

    def __init__(self, name: str, users: int, items: int, memory: int, crowd: int, half_life_ms: float = FOR_EVER) -> None:
        self.name, self._by_memory, self._by_crowd, self._half_life_ms = name, memory, crowd, half_life_ms
        self._head, self._used = np.full(users, END, dtype=np.int32), 0
        self._after, self._item = (np.empty(0, dtype=np.int32) for _ in range(2))
        self._memory = np.zeros(items)
        self._crowd = np.zeros(items) if crowd == EQUAL else np.full(items, -np.inf)

    def judge(self, u: np.ndarray, i: np.ndarray, ts_ms: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """float64 [n]: see `evaluation.links.temporal.TemporalModel`."""
        if self._by_memory != NO_MEMORY:
            self._after, self._item = grown(self._after, self._used + u.size), grown(self._item, self._used + u.size)
        out = np.zeros(u.size)
        self._used = judge_links(
            u, i, ts_ms, judged, self._by_memory, self._by_crowd, self._half_life_ms,
            self._head, self._after, self._item, self._used, self._memory, self._crowd, out,
        )  # fmt: skip
        return out


KINDS: dict[str, tuple[int, int, float]] = {  # name -> memory, crowd, half-life
    "popular": (NO_MEMORY, COUNTED, FOR_EVER),
    "popular-1h": (NO_MEMORY, COUNTED, HOUR_MS),
    "popular-1d": (NO_MEMORY, COUNTED, DAY_MS),
    "popular-7d": (NO_MEMORY, COUNTED, 7 * DAY_MS),
    "recent": (NO_MEMORY, LATEST, FOR_EVER),
    "edgebank": (SEEN, EQUAL, FOR_EVER),
    "edgebank-popular-1d": (SEEN, COUNTED, DAY_MS),
    "last-contact-popular-1d": (NEWEST, COUNTED, DAY_MS),
}


def stream_baselines(users: int, items: int) -> dict[str, Callable[[], LinkStream]]:
    """Each of them by name, to be made anew: a model learns one stream once."""

    def maker(name: str) -> Callable[[], LinkStream]:
        memory, crowd, half_life_ms = KINDS[name]
        return lambda: LinkStream(name, users, items, memory, crowd, half_life_ms)

    return {name: maker(name) for name in KINDS}
