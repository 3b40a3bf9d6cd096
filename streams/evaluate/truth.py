"""Lists of a simulated world, judged by what its users truly want: Freshet's, and what is popular in the same state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.snapshot import Snapshot
from evaluation.world import TruthJudge, World
from streams.evaluate.numbers import Numbers
from streams.evaluate.saved import from_npz, to_npz
from streams.evaluate.served import ServedLists

POPULAR = ("popular",)  # links of the list beside
ITEMS_LOOKED_AT = 20_000  # of a world, times the share of its users: bounds the cost of a list to a fraction of a millisecond


class Witness:
    """Sees the lists that are judged. State: that of its two judges."""

    def __init__(self, world: Path, served: ServedLists, items: Numbers, k: int) -> None:
        """`world`: the directory of a simulated log."""
        self._served, self._items, self._k = served, items, k
        truth = World.open(world)
        share = min(1.0, ITEMS_LOOKED_AT / truth.config.items)
        self._judges = {name: TruthJudge(truth, k, share) for name in ("served", "popular")}

    def see(self, ts_ms: int, user_id: str, listed: Sequence[int], seen: np.ndarray) -> None:
        """The list (numbers of items) of a user who has `seen` those."""
        if not self._judges["served"].judges(user_id):
            return
        seen_ids = self._ids([number for number in seen.tolist() if number >= 0])
        popular = self._served.list_of(user_id, seen, self._k, POPULAR)
        for name, rows in (("served", listed), ("popular", popular)):
            self._judges[name].judge(ts_ms, user_id, self._ids(rows), seen_ids)

    def _ids(self, numbers: Sequence[int]) -> list[str]:
        return [self._items.ids[number] for number in numbers]

    def result(self) -> dict[str, Any]:
        """Of both; see `TruthJudge.result`."""
        return {name: judge.result() for name, judge in self._judges.items()}

    def snapshot(self, into: Snapshot) -> None:
        for name, judge in self._judges.items():
            into.write(f"{name}.npz", to_npz(judge.save()))

    def restore(self, directory: Path) -> None:
        for name, judge in self._judges.items():
            judge.load(from_npz(directory / f"{name}.npz"))
