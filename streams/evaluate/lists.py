"""Lists and full ranks of a run of events: Freshet's own, group by group as it learns, and those of the baselines."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from core.contender import Contender, Run
from core.ranks import mean_rank
from core.snapshot import Snapshot
from evaluation.slices import SLICES
from streams.evaluate.numbers import Events, Numbers
from streams.evaluate.saved import from_npz, to_npz
from streams.evaluate.served import ServedLists
from streams.evaluate.truth import Witness
from streams.prequential import K

SERVED, LEARNED = "served", "supa"  # contenders: the served list, the full rank by SUPA's score


class Board:
    """The ranks of a run that is being judged. `lists` hold a rank or 0 for each event, `ranks` a full rank for each chosen one."""

    def __init__(self, run: Run, slices: np.ndarray, chosen: np.ndarray, live: Mapping[int, np.ndarray]) -> None:
        """slices: bool [4, n]; chosen: bool [n], judged events whose full rank is wanted; live: of each of them the candidates, as bits."""
        self.run, self.chosen, self._live = run, chosen, live
        self.lists: dict[str, np.ndarray] = {}  # int32 [n]
        self.ranks: dict[str, np.ndarray] = {}  # float32 [n], NaN where the contender does not rank
        self._base = {"position": run.position, "ts_ms": run.ts_ms, "user": run.user, "item": run.item}
        self._base |= dict(zip(SLICES, slices, strict=True))

    def enter(self, name: str, list_name: str | None = None) -> None:
        """Columns for a contender: its lists (by another name, if given) and its full ranks."""
        self.lists[list_name or name] = np.zeros(len(self.run), dtype=np.int32)
        self.ranks[name] = np.full(len(self.run), np.nan, dtype=np.float32)

    def candidates(self, at: int) -> np.ndarray:
        """bool [items] of a chosen event."""
        return np.unpackbits(self._live[at], count=self.run.items).view(np.bool_)

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows of the judged events with a rank by list, and of the chosen ones with a full rank."""
        lists = {**self._base, **self.lists}
        candidates = np.array([self.candidates(at).sum() for at in np.flatnonzero(self.chosen).tolist()], dtype=np.int32)
        base, ranks = ({name: column[self.chosen] for name, column in columns.items()} for columns in (self._base, self.ranks))
        listed = pl.DataFrame({name: column[self.run.judged] for name, column in lists.items()})
        return listed, pl.DataFrame({**base, "candidates": candidates, **ranks})


def judge_served(served: ServedLists, group: range, events: Events, board: Board, witness: Witness | None) -> None:
    """The lists and full ranks of the judged events of a group, all from the state as of now. The witness sees every list."""
    run, lists, ranks = board.run, board.lists[SERVED], board.ranks[LEARNED]
    for i in group:
        if run.judged[i]:
            listed, item = served.list_of(events.user_ids[i], run.seen[i], K), int(run.item[i])
            lists[i] = listed.index(item) + 1 if item in listed else 0
            if witness is not None:
                witness.see(int(run.ts_ms[i]), events.user_ids[i], listed, run.seen[i])
        if board.chosen[i]:
            ranks[i] = mean_rank(served.scores(events.user_ids[i]), board.candidates(i), int(run.item[i]))


class Rivals:
    """Contenders with lists of their own, each judged by what it learned of the events before."""

    def __init__(self, contenders: Iterable[Contender], items: Numbers) -> None:
        self.contenders, self._items = list(contenders), items

    def judge(self, events: Events, board: Board) -> None:
        """Rank and learn the whole run, contender by contender. Their columns of the board are entered already."""
        gone = [(before, item_id) for before, item_id, entry in events.catalogue if entry is None]
        for rival in self.contenders:
            self._judge(rival, board, gone)

    def _judge(self, rival: Contender, board: Board, gone: Sequence[tuple[int, str]]) -> None:
        run, lists, start = board.run, board.lists[rival.name], 0
        stops = sorted({*np.flatnonzero(board.chosen).tolist(), *(before for before, _ in gone), len(run)})
        removals = {before: [self._items[item_id] for at, item_id in gone if at == before] for before, _ in gone}
        for stop in stops:
            if stop > start:
                lists[start:stop] = rival.judge(run.part(start, stop), K)
            start = stop
            if stop in removals:
                rival.remove(np.array(removals[stop], dtype=np.int32))
            if stop < len(run) and board.chosen[stop]:
                self._full_rank(rival, board, stop)

    def _full_rank(self, rival: Contender, board: Board, at: int) -> None:
        scores = rival.scores(int(board.run.user[at]), board.run.items)
        if scores is not None:
            board.ranks[rival.name][at] = mean_rank(scores, board.candidates(at), int(board.run.item[at]))

    def snapshot(self, into: Snapshot) -> None:
        for rival in self.contenders:
            into.write(f"{rival.name}.npz", to_npz(rival.save()))

    def restore(self, directory: Path) -> None:
        for rival in self.contenders:
            rival.load(from_npz(directory / f"{rival.name}.npz"))
