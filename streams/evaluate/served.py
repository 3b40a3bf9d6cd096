"""What the server would answer, asked for between any two events: the learner stage's state behind the server's own chain of links."""

from collections.abc import Sequence

import numpy as np

from core.composite import CompositeStage
from features.item_rows import NONE_MS
from features.item_stage import ItemFeatures
from learners.live import LiveState
from learners.recommend import Asker, CacheConfig, fill
from learners.search import dots
from learners.supa.learner import SupaLearner
from learners.tables import MAX_MS, MIN_MS, WIDE_COLUMN
from learners.tokenizer.learner import TokenizerLearner
from streams.evaluate.numbers import Numbers


class Memory:
    """The memory-aware score of a user, asked of the learner itself; see `learners.recommend.Memory`."""

    def __init__(self, supa: SupaLearner, row: int, numbers: Numbers) -> None:
        self._supa, self._row, self._numbers = supa, row, numbers

    def near(self) -> np.ndarray:
        items, near = self._supa.items, self._supa.graph.near(self._row)
        ids = [items.ids.ids[row] or "" for row in (near[near >= items.first] - items.first).tolist()]
        return np.array([self._numbers[id_] for id_ in ids], dtype=np.int64)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        of_graph = self._supa.items.lookup(self._numbers.ids[row] for row in rows.tolist())
        return self._supa.graph.memory_scores(self._row, of_graph, self._supa.newest_ms)


class ServedLists:
    """Lists of the learner stage as of the last `refresh`, which moves what was touched since the one before. Nothing is published."""

    def __init__(self, stage: CompositeStage, config: CacheConfig, items: Numbers) -> None:
        """`items`: the numbers of all items that the stage has heard of; they are rows of `state`."""
        self._config, self.state, self._numbers = config, LiveState(), items
        self._items = next(part for part in stage.parts if isinstance(part, ItemFeatures))
        self._supa = next(part for part in stage.parts if isinstance(part, SupaLearner))
        self._tokenizer = next((part for part in stage.parts if isinstance(part, TokenizerLearner)), None)
        self._stale, self._clock_ms = True, 0

    def learned(self, clock_ms: int) -> None:
        """The stage has gone on to that time, which is not the clock of rows that were opened and are still to be learned."""
        self._stale, self._clock_ms = True, clock_ms

    def restored(self, clock_ms: int) -> None:
        """The stage was taken up from a snapshot and all its rows were touched: what it evicted before has no row to be told of."""
        self.learned(clock_ms)
        self.refresh()
        ids = self._numbers.ids
        self.state.items["item_popularity"].drop(np.flatnonzero(self._items.ids.lookup(ids) < 0))

    def refresh(self) -> None:
        """Take over what the parts touched."""
        if self._stale:
            if new := self._numbers.ids[self.state.items.allocated :]:
                self.state.items.name(new)
            self._take_popularity()
            self._take_vectors()
            if self._tokenizer is not None:
                self._take_tokens(self._tokenizer)
            self._supa.users.take_removed()  # users and memories are read where they are; taken so that what is to be told does not grow
            for nodes in (self._supa.users, self._supa.items):
                nodes.take_met()
            self.state.changed(self._clock_ms)
            self._stale = False

    def _rows(self, ids: Sequence[str]) -> np.ndarray:
        return np.array([self._numbers[id_] for id_ in ids], dtype=np.int64)

    def _take_popularity(self) -> None:
        live, removed = self._items.take_touched()
        table = self.state.items["item_popularity"]
        if live:
            told = self._items.popularity(live)
            columns = {
                "event_ms": told["last_ms"],
                "log2_popularity": np.where(np.isnan(told["log2_popularity"]), -np.inf, told["log2_popularity"]),
                "first_ms": told["first_ms"],
                "start_ms": np.where(told["start_ms"] == NONE_MS, MIN_MS, told["start_ms"]),
                "end_ms": np.where(told["end_ms"] == NONE_MS, MAX_MS, told["end_ms"]),
            }
            table.put(self._rows(live), columns)
        if removed:
            table.drop(self._rows(list(removed)))

    def _take_vectors(self) -> None:
        nodes = self._supa.items
        rows = nodes.take_touched()
        if rows.size:
            ids = [nodes.ids.ids[row] or "" for row in rows.tolist()]
            self.state.put_vectors(self._rows(ids), nodes.vectors(rows), nodes.biases(rows))
        if gone := nodes.take_removed():
            self.state.items["item_vectors"].drop(self._rows([id_ for id_, _, _ in gone]))

    def _take_tokens(self, tokenizer: TokenizerLearner) -> None:
        if gone := tokenizer.take_removed():
            self.state.items["item_tokens"].drop(self._rows(list(gone)))
        rows = tokenizer.take_touched()
        if rows.size:
            ids, codes = tokenizer.codes_of(rows)
            self.state.items["item_tokens"].put(self._rows(ids), {}, codes.astype(np.int32))

    def list_of(self, user_id: str, seen: np.ndarray, k: int, links: Sequence[str] | None = None) -> list[int]:
        """Numbers of the items in the list of `k` for a user whose last items were `seen` (int32, newest first, then -1); `links` as
        for `recommend`."""
        recent = [number for number in seen.tolist() if number >= 0]
        asker = Asker(self._vector(user_id), recent, MIN_MS, self._memory(user_id))
        return [row for row, _, _ in fill(self.state, self._config, asker, k, links)]

    def _memory(self, user_id: str) -> "Memory | None":
        row = int(self._supa.users.lookup([user_id])[0])
        return Memory(self._supa, row, self._numbers) if row >= 0 and self._supa.config.remembers else None

    def _vector(self, user_id: str) -> np.ndarray | None:
        rows = self._supa.users.ids.lookup([user_id])
        if rows[0] < 0:
            return None
        vector = self._supa.users.vectors(rows)[0]
        return vector if np.isfinite(vector).all() else None

    def score(self, user_id: str, item: int) -> float | None:
        """SUPA's score of a pair, by memory where it has one; None where one of them is unknown."""
        vector, table = self._vector(user_id), self.state.items["item_vectors"]
        if vector is None or item >= self.state.items.allocated or not table.has(item):
            return None
        if memory := self._memory(user_id):
            return float(memory.scores(np.array([item]))[0])
        return float(dots(vector, table.wide(item)[np.newaxis])[0]) + float(table.column("bias")[item])

    def scores(self, user_id: str) -> np.ndarray:
        """float64 [items]: the same of every item for a user, NaN where one of them is unknown."""
        table, vector = self.state.items["item_vectors"], self._vector(user_id)
        scores = np.full(self.state.items.allocated, np.nan)
        if vector is None or table.width != vector.size:
            return scores
        rows = np.flatnonzero(table.column("present"))
        if memory := self._memory(user_id):
            scores[rows] = memory.scores(rows)
        else:
            scores[rows] = (dots(vector, table.column(WIDE_COLUMN)).astype(np.float64) + table.column("bias"))[rows]
        return scores
