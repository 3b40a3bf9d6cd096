"""Test, then train, over a log: each event is judged by what was learned of the ones before it.

    log -> examples -> groups of at most `staleness` of event time -> [lists, ranks, labels of the group] -> learn the group

A group's lists come from the state as of its first event, so no answer is older than `staleness_seconds`. Groups are cut by the event
times of the log alone, so results do not depend on the batches in which it is read. Baselines answer as of the event before.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from core.contender import SEEN_ITEMS, Contender, Run
from core.frames import stack
from core.position import Positions, Record, Upstream
from core.schemas import EVENT
from core.stage import Examples
from evaluation.lists import mean_rank
from evaluation.seen import SeenItems
from evaluation.slices import SLICES, Slicer
from evaluation.summary import Judgements
from features.config import POPULARITY_TYPES
from features.counters import effective_ms
from learners.baselines.registry import list_baselines
from learners.recommend import CacheConfig
from streams import pipeline
from streams.evaluate.served import ServedLists
from streams.evaluation import sampled
from streams.producing import Message
from streams.replay import LOCAL, ToExamples
from streams.settings import Settings

K = 20
GROUP_ROWS = 4_096  # of one group at most
MS = 1_000


@dataclass(frozen=True)
class Options:
    """What is judged and against what."""

    judge: tuple[str, ...] = ("click",)  # event types whose item is looked for
    staleness_seconds: float = 1.0  # event time; of the state that answers, at most
    sample: float = 0.01  # share of the judged events whose full rank is computed, by a hash of the position
    baselines: tuple[str, ...] = ("popular-30m",)
    served: bool = True  # whether Freshet's own lists are judged, or baselines alone


class Numbers:
    """Ids -> numbers in the order of their first event."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._of: dict[str, int] = {}

    def take(self, ids: Sequence[str]) -> np.ndarray:
        """int32 [n]."""
        return np.array([self._of[id_] if id_ in self._of else self._new(id_) for id_ in ids], dtype=np.int32)

    def _new(self, id_: str) -> int:
        self._of[id_] = len(self.ids)
        self.ids.append(id_)
        return len(self.ids) - 1


class Evaluation:
    """One evaluation. Feed it a log in order, then `finish`."""

    def __init__(self, s: Settings, options: Options, work_dir: Path) -> None:
        """`s`: with one partition of `batches`; `work_dir` is its own."""
        self.options, self.front, self.events, self.staleness_max_ms = options, ToExamples(s, work_dir), 0, 0
        self._stage = pipeline.learner_stage(s, 1)
        self._positions = Positions(Upstream(s.examples_topic, 0, LOCAL))
        self.served = ServedLists(self._stage, CacheConfig(popularity_weight=s.popularity_weight))
        self._rivals = list_baselines(options.baselines)
        self._users, self._items = Numbers(), Numbers()
        self._user_config = pipeline.user_config(s, 0)
        self._seen, self._slicer = SeenItems(s.user_ttl_seconds * MS), Slicer()
        self._tail: list[pl.DataFrame] = []  # accepted rows of the group that is still open, and of its batch
        self._now_ms = 0
        self._lists: list[pl.DataFrame] = []
        self._ranks: list[pl.DataFrame] = []

    def items(self, messages: Iterable[Message]) -> None:
        """The catalogue, before any event."""
        for records in self.front.items(messages, 2_000):
            self._take(records)

    def feed(self, messages: Iterable[Message], batch: int = 4_000, progress: Callable[[int], None] = lambda events: None) -> None:
        """The next events of the log."""
        for records in self.front.events(messages, batch):
            before = self.events
            self._take(records)
            progress(self.events - before)

    def _take(self, records: Sequence[Record]) -> None:
        rows = [rows for record in records if (rows := self._positions.admit(record)) is not None and rows.height]
        columns = self._tail[0].columns if self._tail else None
        for frame in rows:
            if columns is not None and frame.columns != columns:  # the catalogue has no user columns
                self._advance(final=True)
            self._tail.append(frame)
            columns = frame.columns
        self._advance(final=False)

    def finish(self) -> Judgements:
        """Judge what is left; everything found."""
        self._advance(final=True)
        self.front.close()
        base = {"position": pl.Int64, "ts_ms": pl.Int64, "user": pl.Int32, "item": pl.Int32, **dict.fromkeys(SLICES, pl.Boolean)}
        empty = pl.DataFrame(schema=base)
        labels = empty.with_columns(label=pl.lit("", pl.String), y=pl.lit(0, pl.UInt8), revealed_ms=pl.lit(0, pl.Int64))
        return Judgements(pl.concat(self._lists) if self._lists else empty, pl.concat(self._ranks) if self._ranks else empty, labels)

    def _advance(self, final: bool) -> None:
        """Judge and learn the groups that are complete, or all of them."""
        if not self._tail:
            return
        rows = stack(self._tail)
        starts = group_starts(rows["ts_ms"].to_numpy(), rows["kind"].to_numpy() == EVENT, self.options.staleness_seconds * MS)
        end = rows.height if final else int(starts[-1])
        self._tail = [rows[end:]] if end < rows.height else []
        if end:
            self._judge(self._stage.open(rows[:end]), [*starts[starts < end].tolist(), end])

    def _judge(self, examples: Examples, cuts: list[int]) -> None:
        """Groups [cuts[i], cuts[i + 1]) of rows: lists and ranks first, then learning."""
        events = np.flatnonzero(
            (examples.numbers("kind") == EVENT) & np.array([id_ is not None for id_ in examples.texts("item_id")], dtype=np.bool_)
        )
        run, users, items = self._run(examples, events)
        slices = self._slicer.slice(run)
        drawn = [bool(judged) and sampled(at, self.options.sample) for judged, at in zip(run.judged, run.position.tolist(), strict=True)]
        chosen = np.array(drawn, dtype=np.bool_)
        columns, full = {}, {"candidates": np.zeros(len(run), dtype=np.int32)}
        if self.options.served:
            columns["served"] = np.zeros(len(run), dtype=np.int32)
            full["supa"] = np.zeros(len(run), dtype=np.float32)
        self._learn_groups(examples, cuts, events, run, (users, items), chosen, columns, full)
        for rival in self._rivals:
            columns[rival.name], full[rival.name] = self._rival(rival, run, chosen, full["candidates"])
        self._keep(run, slices, chosen, columns, full)

    def _learn_groups(
        self,
        examples: Examples,
        cuts: list[int],
        events: np.ndarray,
        run: Run,
        names: tuple[list[str], list[str]],
        chosen: np.ndarray,
        columns: dict[str, np.ndarray],
        full: dict[str, np.ndarray],
    ) -> None:
        of_group = np.searchsorted(events, cuts)
        for (start, stop), (first, last) in zip(pairwise(cuts), pairwise(of_group.tolist()), strict=True):
            if self.options.served and run.judged[first:last].any():
                self.served.refresh()
                self._judge_group(range(first, last), run, names, chosen, columns["served"], full)
                self.staleness_max_ms = max(self.staleness_max_ms, int(run.ts_ms[first:last].max() - run.ts_ms[first]))
            if self.options.served:
                self._stage.learn(examples.part(start, stop))
                self.served.learned()

    def _judge_group(
        self, group: range, run: Run, names: tuple[list[str], list[str]], chosen: np.ndarray, ranks: np.ndarray, full: dict[str, np.ndarray]
    ) -> None:
        users, items = names
        for i in group:
            if run.judged[i]:
                seen = [self._items.ids[number] for number in run.seen[i].tolist() if number >= 0]
                listed, row = self.served.list_of(users[i], seen, K), self.served.number(items[i])
                ranks[i] = listed.index(row) + 1 if row in listed else 0
            if chosen[i]:
                full["supa"][i], full["candidates"][i] = self.served.full_rank(users[i], items[i])

    def _run(self, examples: Examples, events: np.ndarray) -> tuple[Run, list[str], list[str]]:
        """The events of these rows as numbers, with what each user had before; and their ids."""
        at = events.tolist()
        users, items, types = ([column[i] for i in at] for column in map(examples.texts, ("user_id", "item_id", "type")))
        ts_ms, clock_ms = examples.numbers("ts_ms")[events], examples.numbers("clock_ms")[events]
        user, item = self._users.take(users), self._items.take(items)
        engaged, judged, kept = (
            np.array([type_ in names for type_ in types], dtype=np.bool_)
            for names in (POPULARITY_TYPES, self.options.judge, self._user_config.history_types)
        )
        told = np.where(clock_ms == 0, ts_ms, clock_ms)
        now_ms = np.maximum.accumulate(np.maximum(told, self._now_ms)) if told.size else told
        self._now_ms = int(now_ms[-1]) if now_ms.size else self._now_ms
        own_ms = effective_ms(ts_ms, clock_ms, self._user_config.future_seconds * MS)
        seen = self._seen.before(user, item, own_ms, now_ms, kept, len(self._users.ids))
        position = np.arange(self.events, self.events + events.size, dtype=np.int64)
        self.events += events.size
        return Run(position, ts_ms, user, item, engaged, judged, seen, len(self._users.ids), len(self._items.ids)), users, items

    def _rival(self, rival: Contender, run: Run, chosen: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ranks in a baseline's lists, and full ranks where chosen."""
        ranks, full, start = np.zeros(len(run), dtype=np.int32), np.full(len(run), np.nan, dtype=np.float32), 0
        for at in [*np.flatnonzero(chosen).tolist(), len(run)]:
            ranks[start:at] = rival.judge(run.part(start, at), K)
            start = at
            if at < len(run) and (scores := rival.scores(int(run.user[at]), run.items)) is not None:
                among = ~np.isnan(scores)
                full[at] = mean_rank(scores, among, int(run.item[at]))
                candidates[at] = candidates[at] or int(among.sum())
        return ranks, full

    def _keep(self, run: Run, slices: np.ndarray, chosen: np.ndarray, columns: dict[str, np.ndarray], full: dict[str, np.ndarray]) -> None:
        base = {"position": run.position, "ts_ms": run.ts_ms, "user": run.user, "item": run.item}
        base |= dict(zip(SLICES, slices, strict=True))
        self._lists.append(pl.DataFrame({name: column[run.judged] for name, column in {**base, **columns}.items()}))
        self._ranks.append(pl.DataFrame({name: column[chosen] for name, column in {**base, **full}.items()}))


def group_starts(ts_ms: np.ndarray, event: np.ndarray, staleness_ms: float) -> np.ndarray:
    """int64: first rows of the groups. A group ends before the event that is `staleness_ms` or more after its first one.

    Args:
        ts_ms: int64 [n].
        event: bool [n]; other rows start no group, but for the first.
    """
    starts, first_ms = [0], None
    for at, (ms, is_event) in enumerate(zip(ts_ms.tolist(), event.tolist(), strict=True)):
        if not is_event:
            continue
        if first_ms is None:
            first_ms = ms
        elif ms - first_ms >= staleness_ms or at - starts[-1] >= GROUP_ROWS:
            starts.append(at)
            first_ms = ms
    return np.array(starts, dtype=np.int64)


assert CacheConfig().seen_items == SEEN_ITEMS, "lists leave out what an evaluation says was seen"
