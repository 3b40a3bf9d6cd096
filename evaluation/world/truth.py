"""Judges lists by the truth of the world: how much worse than the best one each is, and how soon a change of taste shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.contender import State, grown
from core.errors import SettingsError
from core.hashing import partition_of
from evaluation.world.world import NO_ITEM, World

LEVELS = (0.5, 0.8)  # shares of what a change took
LEAST_FALL = 0.05  # of a list's share of the best: with less, there is nothing to regain
BUCKETS = 10_000  # resolution of the share of users
HOUR_MS = 3_600_000
_USER = np.dtype(
    [
        ("list_ms", np.int64),  # of the last list, 0 before the first one
        ("share", np.float64),  # of the best, which it had
        ("change", np.int64),  # number of the change that is looked at, -1
    ]
)
_CHANGE = np.dtype(
    [
        ("change_ms", np.int64),
        ("floor", np.float64),  # share of the best that the last list before has, once tastes have changed
        ("aim", np.float64),  # share that it had
        ("lists", np.int64),  # since then
        ("seconds", np.float64, (len(LEVELS),)),  # NaN: not yet
        ("lists_until", np.float64, (len(LEVELS),)),
    ]
)


class TruthJudge:
    """Tell it every list of a world's users; it looks at those of a sample of the users, by a hash of their ids. Bots are left out.

    A list's gain is the mean utility of its first `k` items (`world.World`); items that the user has seen, that stand twice, that are not
    live, and places left empty count 0. Regret is the gain of the best list of live, unseen items less that. After an abrupt change of
    a user's taste, the gain as a share of the best falls from `aim` (the last list before) to `floor` (the same list, by the new taste);
    half is regained with the first list that has `floor + 0.5 (aim - floor)`.

    Cost of a list that is looked at: a look at every slot of the world, about 6 ns each. State: k + 3 numbers a user in the sample,
    eight a change.
    """

    def __init__(self, world: World, k: int = 20, users_share: float = 0.1) -> None:
        """`users_share`: of the users whose lists are looked at."""
        if not 0 < users_share <= 1:
            raise SettingsError(f"`users_share` must be above 0 and at most 1, got {users_share}")
        self._world, self._k, self._share = world, k, users_share
        self._rows: dict[int, int] = {}  # user -> row
        self._users, self._lists = np.zeros(0, dtype=_USER), np.zeros((0, k), dtype=np.int64)
        self._changes, self._found = np.zeros(0, dtype=_CHANGE), 0
        self._sums = np.zeros(4)  # lists, gain, best gain, relative regret
        self._hours = np.zeros((0, 3))  # since the world began: lists, gain, best gain

    def judges(self, user_id: str) -> bool:
        """Whether lists of this user are looked at."""
        user = self._world.user_number(user_id)
        return user < self._world.config.users and partition_of(user_id, BUCKETS) < self._share * BUCKETS

    def judge(self, ts_ms: int, user_id: str, item_ids: Sequence[str], seen: Sequence[str] = ()) -> None:
        """A list, best first, for a user at that event time, who had `seen` those items. Times of a user must not fall.

        Raises:
            SettingsError: an id is none of this world, or the time is before it began.
        """
        if ts_ms < self._world.config.start_ms:
            raise SettingsError(f"a list of {ts_ms} is older than the world, whose `start_ms` is {self._world.config.start_ms}")
        if not self.judges(user_id):
            return
        user, seen_items = self._world.user_number(user_id), self._world.item_numbers(seen)
        listed = np.full(self._k, NO_ITEM, dtype=np.int64)
        told = self._world.item_numbers(list(dict.fromkeys(item_ids[: self._k])))
        kept = told[~np.isin(told, seen_items)]
        listed[: kept.size] = kept
        ideal = self._world.best(ts_ms, user, self._k, seen_items)
        gain, best = self._gain(ts_ms, user, listed), self._gain(ts_ms, user, ideal)
        self._count(ts_ms, gain, best)
        row = self._row(user)
        self._follow(row, ts_ms, user, gain, best)
        self._users[row]["list_ms"], self._users[row]["share"], self._lists[row] = ts_ms, _share(gain, best), listed

    def _gain(self, ts_ms: int, user: int, items: np.ndarray) -> float:
        """Mean utility; summed from the lowest, so that the order of a list changes nothing."""
        return float(np.sort(self._world.utilities(ts_ms, user, items)).sum()) / self._k

    def _count(self, ts_ms: int, gain: float, best: float) -> None:
        self._sums += (1.0, gain, best, 1.0 - _share(gain, best))
        hour = (ts_ms - self._world.config.start_ms) // HOUR_MS
        self._hours = grown(self._hours, hour + 1)
        self._hours[hour] += (1.0, gain, best)

    def _row(self, user: int) -> int:
        row = self._rows.setdefault(user, len(self._rows))
        self._users, self._lists = grown(self._users, row + 1), grown(self._lists, row + 1)
        return row

    def _follow(self, row: int, ts_ms: int, user: int, gain: float, best: float) -> None:
        """Look for a change since the user's last list, and for what is regained of the last one."""
        own, since_ms = self._users[row], self._world.changed_ms(ts_ms, user)
        if own["list_ms"] and since_ms > own["list_ms"]:
            floor = _share(self._gain(ts_ms, user, self._lists[row]), best)
            own["change"] = self._open(since_ms, floor, own["share"]) if own["share"] - floor >= LEAST_FALL else -1
        if not own["list_ms"]:
            own["change"] = -1
        elif own["change"] >= 0:
            change = self._changes[own["change"]]
            change["lists"] += 1
            reached = _share(gain, best) >= change["floor"] + np.array(LEVELS) * (change["aim"] - change["floor"])
            first = reached & np.isnan(change["seconds"])
            change["seconds"][first], change["lists_until"][first] = (ts_ms - change["change_ms"]) / 1_000.0, change["lists"]

    def _open(self, change_ms: int, floor: float, aim: float) -> int:
        """The number of a new change."""
        self._changes = grown(self._changes, self._found + 1)
        never = (np.nan,) * len(LEVELS)
        self._changes[self._found] = (change_ms, floor, aim, 0, never, never)
        self._found += 1
        return self._found - 1

    def result(self) -> dict[str, Any]:
        """What was found, for JSON: numbers, null where there is nothing to tell.

        `regained` has for each level the quantiles of event time and of the user's own lists from the change on; what is not regained
        by the user's next change or the end counts as longer than any, and in `never`.
        """
        lists, gain, best, relative = self._sums.tolist()
        n = max(lists, 1.0)
        changes = self._changes[: self._found]
        fall = float((changes["aim"] - changes["floor"]).mean()) if self._found else None
        regained = {f"{level:g}": _regained(changes, k) for k, level in enumerate(LEVELS)}
        return {
            "k": self._k,
            "users": len(self._rows),
            "lists": int(lists),
            "gain": gain / n if lists else None,
            "best": best / n if lists else None,
            "regret": (best - gain) / n if lists else None,
            "relative_regret": relative / n if lists else None,
            "by_hour": self._by_hour(),
            "changes": {"n": self._found, "fall": fall, "regained": regained},
        }

    def _by_hour(self) -> dict[str, list[Any]]:
        hours = np.flatnonzero(self._hours[:, 0])
        n, gain, best = self._hours[hours].T
        ts_ms = self._world.config.start_ms + hours * HOUR_MS
        return {"ts_ms": ts_ms.tolist(), "n": n.astype(int).tolist(), "gain": (gain / n).tolist(), "best": (best / n).tolist()}

    def save(self) -> State:
        """All that `load` needs to go on, in a judge of the same world and settings."""
        order = np.array(list(self._rows), dtype=np.int64)
        rows = len(self._rows)
        return {
            "rows": order,
            "users": self._users[:rows].view(np.uint8).copy(),
            "lists": self._lists[:rows].copy(),
            "changes": self._changes[: self._found].view(np.uint8).copy(),
            "sums": self._sums.copy(),
            "hours": self._hours.copy(),
        }

    def load(self, state: State) -> None:
        """Take up what `save` told, before any list."""
        self._rows = {user: row for row, user in enumerate(state["rows"].tolist())}
        self._users, self._lists = state["users"].copy().view(_USER), state["lists"].copy()
        self._changes = state["changes"].copy().view(_CHANGE)
        self._found, self._sums, self._hours = self._changes.size, state["sums"].copy(), state["hours"].copy()


def _share(gain: float, best: float) -> float:
    """Of the best; 1 where nothing is to be had."""
    return gain / best if best > 0 else 1.0


def _regained(changes: np.ndarray, level: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, column in (("seconds", "seconds"), ("lists", "lists_until")):
        until = np.nan_to_num(changes[column][:, level], nan=np.inf)
        told[name] = {f"p{100 * q:.0f}": _quantile(until, q) for q in (0.5, 0.9)}
    told["never"] = float(np.isnan(changes["seconds"][:, level]).mean()) if changes.size else None
    return told


def _quantile(values: np.ndarray, q: float) -> float | None:
    if not values.size:
        return None
    found = float(np.quantile(values, q, method="inverted_cdf"))
    return found if np.isfinite(found) else None
