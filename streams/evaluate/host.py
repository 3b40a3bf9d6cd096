"""Test, then train, over a log: each event is judged by what was learned of the ones before it.

    log -> examples -> groups of at most `staleness` of event time -> [lists, ranks, labels of the group] -> learn the group

A group's lists come from the state as of its first event, so no answer is older than `staleness_seconds`. Groups are cut by the event
times of the log alone, so results do not depend on the batches in which it is read. Baselines answer as of the event before.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from core.contender import SEEN_ITEMS, Contender, LabelModel
from core.driver import StageDriver
from core.errors import SettingsError
from core.frames import stack
from core.position import Record, Upstream
from core.schemas import EVENT, decode, encode
from core.snapshot import Snapshot
from core.stage import Examples
from evaluation.judgements import Judgements
from evaluation.slices import Slicer
from learners.baselines.registry import label_baselines, list_baselines
from learners.recommend import CacheConfig
from learners.supa.calibrated import Calibrated
from streams import pipeline
from streams.evaluate.candidates import Candidates
from streams.evaluate.labels import LabelJudge, Labels
from streams.evaluate.lists import LEARNED, SERVED, Board, Rivals, judge_served
from streams.evaluate.numbers import Events, Runs
from streams.evaluate.saved import GrowingFrame, from_npz, to_npz
from streams.evaluate.served import ServedLists
from streams.evaluate.truth import Witness
from streams.prequential import K, sampled
from streams.producing import Message
from streams.replay import LOCAL, ToExamples
from streams.settings import Settings

GROUP_ROWS = 4_096  # of one group at most
TOUCHED_ROWS = 1 << 20  # at a time, after a restore
MS = 1_000
NO_LABELS = Labels("impression", ())
_STATE, _TAIL = "evaluation.json", "tail.arrow"


@dataclass(frozen=True)
class Options:
    """What is judged and against what."""

    judge: tuple[str, ...] = ("click",)  # event types whose item is looked for
    labels: Labels = NO_LABELS
    staleness_seconds: float = 1.0  # event time; of the state that answers, at most
    sample: float = 0.01  # share of the judged events whose full rank is computed, by a hash of the position
    baselines: tuple[str, ...] = ("popular-30m",)
    served: bool = True  # whether Freshet's own lists are judged, or baselines alone
    world: Path | None = None  # directory of a simulated log, whose truth the lists are judged by


class Evaluation:
    """One evaluation. Feed it a log in order, then `finish`. State: everything; see `snapshot`."""

    def __init__(
        self, s: Settings, options: Options, work_dir: Path, rivals: Sequence[Contender] = (), models: Sequence[LabelModel] = ()
    ) -> None:
        """`s`: with one partition of `batches`; `work_dir` is its own; `rivals`, `models`: beside the baselines."""
        self.options, self.staleness_max_ms = options, 0
        self.front = ToExamples(s, work_dir, with_context=True)
        stage = pipeline.learner_stage(s, 1)
        self._stage, self._driver = stage, StageDriver(stage, Upstream(s.examples_topic, 0, LOCAL))
        self._runs, self._slicer = Runs(pipeline.user_config(s, 0), options.judge), Slicer()
        self._candidates = Candidates(self._runs.items)
        self._served = ServedLists(stage, CacheConfig(popularity_weight=s.popularity_weight), self._runs.items)
        self._witness = Witness(options.world, self._served, self._runs.items, K) if options.world and options.served else None
        self._rivals = Rivals([*list_baselines(options.baselines), *rivals], self._runs.items)
        own = [Calibrated(LEARNED)] if options.served else []
        self._labels = LabelJudge(options.labels, [*own, *label_baselines(options.baselines), *models])
        self._thread = ThreadPoolExecutor(1, "rivals")
        self._tail: list[pl.DataFrame] = []  # rows of the group that is still open
        self._found = {name: GrowingFrame(name) for name in ("lists", "ranks", "labels")}

    @property
    def events(self) -> int:
        """Accepted so far, but for those of the group that is still open."""
        return self._runs.events

    def items(self, messages: Iterable[Message]) -> None:
        """The catalogue, before any event."""
        for records in self.front.items(messages, 2_000):
            self._take(records)
        self._advance(final=True)

    def feed(self, messages: Iterable[Message], batch: int = 4_000) -> None:
        """The next events of the log."""
        for records in self.front.events(messages, batch):
            self._take(records)
            self._advance(final=False)

    def finish(self) -> Judgements:
        """Judge what is left; everything found.

        Raises:
            SettingsError: there was no event.
        """
        self._advance(final=True)
        if not self.events:
            raise SettingsError(f"nothing to judge: the log gave no event ({self.front.counts['dead_letters']} dead letters)")
        found = {name: frame.whole() for name, frame in self._found.items()}
        return Judgements(found["lists"], found["ranks"], self._labels.uncensored(found["labels"]).sort("position", "label"))

    def close(self) -> None:
        """Release files and the thread."""
        self._thread.shutdown()
        self.front.close()
        self._stage.close()

    @property
    def counts(self) -> dict[str, int]:
        """Events and entries read, dead letters, and what became of the events; duplicates are not judged."""
        return {**self.front.counts, **self.front.outcomes}

    @property
    def outcomes(self) -> dict[str, dict[str, int]]:
        """How the joins of labels ended; see `LabelJudge`."""
        return self._labels.outcomes

    @property
    def truth(self) -> dict[str, Any] | None:
        """What a simulated world says of the lists; see `Witness`."""
        return self._witness.result() if self._witness else None

    def _take(self, records: Sequence[Record]) -> None:
        for record in records:
            rows = self._driver.positions.admit(record)
            if rows is not None and rows.height:
                self._tail.append(rows)

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
        """Groups [cuts[i], cuts[i + 1]) of rows: lists, ranks and scores first, then learning."""
        events = Events(examples)
        run = self._runs.run(events)
        slices = self._slicer.slice(run)
        drawn = [bool(judged) and sampled(at, self.options.sample) for judged, at in zip(run.judged, run.position.tolist(), strict=True)]
        chosen = np.array(drawn, dtype=np.bool_)
        board = Board(run, slices, chosen, self._candidates.live(events, run, chosen))
        scores: list[float | None] = [None] * len(run)
        if self.options.served:
            board.enter(LEARNED, SERVED)
        for rival in self._rivals.contenders:
            board.enter(rival.name)
        rivals = self._thread.submit(self._rivals.judge, events, board)  # they share nothing that either changes
        if self.options.served:
            self._learn_groups(examples, cuts, events, board, scores)
        rivals.result()
        lists, ranks = board.frames()
        labels = self._labels.take(events, run, slices, scores)
        for name, frame in zip(self._found, (lists, ranks, labels), strict=True):
            self._found[name].add(frame)

    def _learn_groups(self, examples: Examples, cuts: list[int], events: Events, board: Board, scores: list[float | None]) -> None:
        impressions = [bool(self.options.labels.labels) and type_ == self.options.labels.impression for type_ in events.types]
        run, of_group = board.run, np.searchsorted(events.rows, cuts)
        for (start, stop), (first, last) in zip(pairwise(cuts), pairwise(of_group.tolist()), strict=True):
            if run.judged[first:last].any() or any(impressions[first:last]):
                self._served.refresh()
                judge_served(self._served, range(first, last), events, board, self._witness)
                for i in range(first, last):
                    if impressions[i]:
                        scores[i] = self._served.score(events.user_ids[i], int(run.item[i]))
                self.staleness_max_ms = max(self.staleness_max_ms, int(run.ts_ms[first:last].max() - run.ts_ms[first]))
            self._stage.learn(examples.part(start, stop))
            self._served.learned(int(examples.clock_ms[stop - 1]))

    def snapshot(self, into: Snapshot) -> None:
        """Everything, so that what follows is what would have followed."""
        plain, seen = self._runs.save()
        self.front.snapshot(into.within("front"))
        self._driver.snapshot(into.within("learner"))
        self._rivals.snapshot(into.within("rivals"))
        self._labels.snapshot(into.within("labels"))
        if self._witness:
            self._witness.snapshot(into.within("truth"))
        into.write(_STATE, msgspec.json.encode({**plain, "staleness_max_ms": self.staleness_max_ms}))
        into.write("seen.npz", to_npz(seen))
        into.write("slices.npz", to_npz(self._slicer.save()))
        into.write("candidates.npz", to_npz(self._candidates.save()))
        if self._tail:
            into.write(_TAIL, encode(stack(self._tail)))
        found = into.within("found")
        for growing in self._found.values():
            growing.snapshot(found)

    def restore(self, directory: Path) -> None:
        """Take up a snapshot, before any message."""
        plain = msgspec.json.decode((directory / _STATE).read_bytes())
        self.staleness_max_ms = plain["staleness_max_ms"]
        self._runs.load(plain, from_npz(directory / "seen.npz"))
        self._slicer.load(from_npz(directory / "slices.npz"))
        self._candidates.load(from_npz(directory / "candidates.npz"))
        self.front.restore(directory / "front")
        self._driver.restore(directory / "learner")
        self._rivals.restore(directory / "rivals")
        self._labels.restore(directory / "labels")
        if self._witness:
            self._witness.restore(directory / "truth")
        for growing in self._found.values():
            growing.restore(directory / "found")
        if (tail := directory / _TAIL).exists():
            self._tail = [decode(tail.read_bytes())]
        while not self._stage.touch_next(TOUCHED_ROWS):  # lists are made of what was touched
            pass
        self._served.restored(self._stage.clock.ms)


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
