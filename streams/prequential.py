"""Prequential quality of served lists: each sampled click is looked for in the list that was served just before it.

The same for a running server and for the replay host. Ranks count from 1; an item outside the list is a miss.
"""

from collections.abc import Callable, Sequence

from core.hashing import partition_of

K = 20  # items of a list that is judged
BUCKETS = 10_000  # resolution of the sample's share
Recommend = Callable[[str, Sequence[str] | None], list[str]]  # (user, links or all) -> item ids, best first


def sampled(position: int, share: float) -> bool:
    """Whether the event at this position of the log is judged: by a hash, so that every run judges the same ones."""
    return partition_of(str(position), BUCKETS) < share * BUCKETS


def reciprocal_rank(items: Sequence[str], wanted: str) -> float:
    """1 / rank; 0 where it is not listed."""
    return 1 / (items.index(wanted) + 1) if wanted in items else 0.0


class ListScores:
    """HR@20 and MRR@20 of one kind of list."""

    def __init__(self) -> None:
        self.judged = self.hits = 0
        self._reciprocal = 0.0

    def add(self, items: Sequence[str], clicked: str) -> None:
        self.judged += 1
        found = reciprocal_rank(items, clicked)
        self.hits += found > 0
        self._reciprocal += found

    @property
    def hit_rate(self) -> float:
        return self.hits / self.judged if self.judged else 0.0

    @property
    def mrr(self) -> float:
        return self._reciprocal / self.judged if self.judged else 0.0


class Prequential:
    """The served list beside `popular now`, on the same clicks."""

    def __init__(self, recommend: Recommend, share: float) -> None:
        self._recommend, self.share = recommend, share
        self.served, self.popular = ListScores(), ListScores()

    def judge(self, position: int, type_: str, user_id: str, item_id: str) -> None:
        """Called before the event is learned."""
        if type_ == "click" and sampled(position, self.share):
            self.served.add(self._recommend(user_id, None), item_id)
            self.popular.add(self._recommend(user_id, ["popular"]), item_id)
