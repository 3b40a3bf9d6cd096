"""What each user had before each event: the items that a list leaves out, in numbers, for a whole run at once."""

import numpy as np

from core.compiled import compiled
from core.contender import SEEN_ITEMS, State, grown

NONE = -1


@compiled
def fill_seen(
    user: np.ndarray,
    item: np.ndarray,
    ts_ms: np.ndarray,
    now_ms: np.ndarray,
    remembered: np.ndarray,
    ttl_ms: int,
    items: np.ndarray,
    times_ms: np.ndarray,
    held: np.ndarray,
    shown: np.ndarray,
    used_ms: np.ndarray,
    out: np.ndarray,
) -> None:
    """Row by row: tell what lists leave out, forget the user if expired, put the item at its place in time.

    Args:
        user, item: int32 [n].
        ts_ms, now_ms: int64 [n]; the second never falls.
        remembered: bool [n], rows whose item is kept.
        ttl_ms: a user unused for that long is forgotten.
        items, times_ms: int32, int64 [users, SEEN_ITEMS], newest first. Updated, as the next three.
        held: int32 [users], entries in use.
        shown: int32 [users], entries that lists leave out.
        used_ms: int64 [users].
        out: int32 [n, SEEN_ITEMS]. Filled; NONE where there are fewer.
    """
    room = out.shape[1]
    for i in range(user.shape[0]):
        u = user[i]
        out[i, : shown[u]] = items[u, : shown[u]]
        out[i, shown[u] :] = NONE
        if now_ms[i] - used_ms[u] >= ttl_ms:
            held[u] = 0
        used_ms[u] = now_ms[i]
        if not remembered[i]:
            continue
        at, same = 0, NONE
        while at < held[u] and times_ms[u, at] > ts_ms[i]:
            at += 1
        for k in range(held[u]):
            if items[u, k] == item[i]:
                same = k
        if at == room or 0 <= same < at:
            continue
        last = same if same >= 0 else min(held[u], room - 1)
        for k in range(last, at, -1):
            items[u, k], times_ms[u, k] = items[u, k - 1], times_ms[u, k - 1]
        items[u, at], times_ms[u, at] = item[i], ts_ms[i]
        if same < 0:
            held[u] = min(held[u] + 1, room)
        shown[u] = held[u]


class SeenItems:
    """The last distinct items of each user that a serving cache knows, by the rule of the feature stage (`features.history.remember`).

    The stage forgets an expired user without a word, so a cache leaves the old items out until it hears of a new one.
    State: SEEN_ITEMS numbers and times a user, 376 bytes.
    """

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._items = np.empty((0, SEEN_ITEMS), dtype=np.int32)
        self._times_ms = np.empty((0, SEEN_ITEMS), dtype=np.int64)
        self._held, self._shown = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32)
        self._used_ms = np.empty(0, dtype=np.int64)

    def before(
        self, user: np.ndarray, item: np.ndarray, ts_ms: np.ndarray, now_ms: np.ndarray, remembered: np.ndarray, users: int
    ) -> np.ndarray:
        """int32 [n, SEEN_ITEMS]: the items that lists leave out before each row, newest first; then the rows are remembered."""
        self._grow(users)
        out = np.empty((user.size, SEEN_ITEMS), dtype=np.int32)
        fill_seen(
            user, item, ts_ms, now_ms, remembered, self._ttl_ms, self._items, self._times_ms, self._held, self._shown, self._used_ms, out
        )  # fmt: skip
        return out

    def _grow(self, users: int) -> None:
        self._items, self._times_ms = grown(self._items, users), grown(self._times_ms, users)
        self._held, self._shown = grown(self._held, users), grown(self._shown, users)
        self._used_ms = grown(self._used_ms, users)

    def save(self) -> State:
        counts = {"held": self._held, "shown": self._shown}
        return {"items": self._items, "times_ms": self._times_ms, **counts, "used_ms": self._used_ms}

    def load(self, state: State) -> None:
        self._items, self._times_ms = state["items"].copy(), state["times_ms"].copy()
        self._held, self._shown, self._used_ms = state["held"].copy(), state["shown"].copy(), state["used_ms"].copy()
