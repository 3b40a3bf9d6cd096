"""Which kind of event each row is: a pair, a user or an item seen before or not, an item of the head or the tail."""

import numpy as np

from core.compiled import compiled
from core.contender import Run, State, grown

SLICES = ("new_pair", "new_user", "new_item", "head")
HOUR_MS = 3_600_000
HEAD_SHARE = 0.5  # of the engaged events so far: the fewest items that make it up are the head
HEAD_ROWS = 4_096  # engaged rows between two looks at where the head ends
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


@compiled
def place(slots: np.ndarray, key: np.uint64) -> int:
    """Where `key` is in a table of open addressing whose size is a power of two, or the empty slot where it goes."""
    mask = np.uint64(slots.shape[0] - 1)
    mixed = key * _MIX
    at = (mixed ^ (mixed >> _SHIFT)) & mask
    while slots[at] != _EMPTY and slots[at] != key:
        at = (at + np.uint64(1)) & mask
    return int(at)


@compiled
def rehash(old: np.ndarray, new: np.ndarray) -> None:
    """Move every key of one table into a larger one."""
    for key in old:
        if key != _EMPTY:
            new[place(new, key)] = key


@compiled
def head_bar(counts: np.ndarray, share: float) -> int:
    """The least count of an item of the head: items with at least this many make up `share` of all, as few as possible."""
    ordered = np.sort(counts)
    wanted, sum_ = share * ordered.sum(), 0.0
    for at in range(ordered.shape[0] - 1, -1, -1):
        sum_ += ordered[at]
        if sum_ >= wanted:
            return max(1, int(ordered[at]))
    return 1


@compiled
def slice_rows(
    user: np.ndarray,
    item: np.ndarray,
    ts_ms: np.ndarray,
    engaged: np.ndarray,
    new_item_ms: int,
    pairs: np.ndarray,
    user_known: np.ndarray,
    first_ms: np.ndarray,
    counts: np.ndarray,
    marks: np.ndarray,
    out: np.ndarray,
) -> None:
    """Row by row: what is true before it, then remember it.

    Args:
        user, item: int32 [n].
        ts_ms: int64 [n].
        engaged: bool [n].
        new_item_ms: an item is new for that long after its first event.
        pairs: uint64, table of user << 32 | item, with room. Updated, as all that follow.
        user_known: bool [users], had an engaged row.
        first_ms: int64 [items], 0 before the first event.
        counts: int64 [items], engaged rows.
        marks: int64 [3]: pairs held, engaged rows, the head's least count.
        out: bool [4, n], in the order of SLICES.
    """
    for i in range(user.shape[0]):
        u, v = user[i], item[i]
        key = (np.uint64(u) << np.uint64(32)) | np.uint64(v)
        at = place(pairs, key)
        out[0, i] = pairs[at] != key
        out[1, i] = not user_known[u]
        out[2, i] = first_ms[v] == 0 or ts_ms[i] - first_ms[v] < new_item_ms
        out[3, i] = counts[v] >= marks[2]
        if first_ms[v] == 0:
            first_ms[v] = ts_ms[i]
        if engaged[i]:
            if pairs[at] != key:
                pairs[at] = key
                marks[0] += 1
            user_known[u] = True
            counts[v] += 1
            marks[1] += 1
            if marks[1] % HEAD_ROWS == 0:
                marks[2] = head_bar(counts, HEAD_SHARE)


class Slicer:
    """Tells of each row of a run, as of before it: new_pair (the user never engaged with the item), new_user (nor with any), new_item
    (its first event is less than `new_item_hours` old, or this is it), head (see `head_bar`, looked at every HEAD_ROWS engaged rows).

    State: every pair so far (16 to 32 bytes each), a flag a user, a time and a count an item.
    """

    def __init__(self, new_item_hours: float = 24.0) -> None:
        self._new_item_ms = int(new_item_hours * HOUR_MS)
        self._pairs = np.full(1 << 10, _EMPTY, dtype=np.uint64)
        self._users, self._first_ms = np.empty(0, dtype=np.bool_), np.empty(0, dtype=np.int64)
        self._counts, self._marks = np.empty(0, dtype=np.int64), np.array([0, 0, 1], dtype=np.int64)

    def slice(self, run: Run) -> np.ndarray:
        """bool [4, n], in the order of SLICES."""
        self._grow(run)
        out = np.empty((len(SLICES), len(run)), dtype=np.bool_)
        slice_rows(
            run.user, run.item, run.ts_ms, run.engaged, self._new_item_ms, self._pairs, self._users, self._first_ms, self._counts,
            self._marks, out,
        )  # fmt: skip
        return out

    def _grow(self, run: Run) -> None:
        while 2 * (int(self._marks[0]) + len(run)) > self._pairs.size:
            larger = np.full(2 * self._pairs.size, _EMPTY, dtype=np.uint64)
            rehash(self._pairs, larger)
            self._pairs = larger
        self._users = grown(self._users, run.users)
        self._first_ms, self._counts = grown(self._first_ms, run.items), grown(self._counts, run.items)

    def save(self) -> State:
        return {"pairs": self._pairs, "users": self._users, "first_ms": self._first_ms, "counts": self._counts, "marks": self._marks}

    def load(self, state: State) -> None:
        self._pairs, self._users, self._first_ms = state["pairs"].copy(), state["users"].copy(), state["first_ms"].copy()
        self._counts, self._marks = state["counts"].copy(), state["marks"].copy()
