"""What the server would answer, asked for between any two events: the learner stage's state behind the server's own chain of links."""

import numpy as np

from core.composite import CompositeStage
from evaluation.lists import mean_rank
from features.item_stage import NONE_MS, ItemFeatures
from learners.live import LiveState
from learners.recommend import Asker, CacheConfig, fill
from learners.search import dots
from learners.supa.learner import SupaLearner
from learners.tables import MAX_MS, MIN_MS
from learners.tokenizer.learner import TokenizerLearner


class ServedLists:
    """Lists of the learner stage as of now. `refresh` moves what was touched since the last one; nothing is published."""

    def __init__(self, stage: CompositeStage, config: CacheConfig) -> None:
        self._stage, self._config, self.state = stage, config, LiveState()
        self._items = next(part for part in stage.parts if isinstance(part, ItemFeatures))
        self._supa = next(part for part in stage.parts if isinstance(part, SupaLearner))
        self._tokenizer = next((part for part in stage.parts if isinstance(part, TokenizerLearner)), None)
        self._number: dict[str, int] = {}
        self._stale = True

    def learned(self) -> None:
        """The stage has gone on."""
        self._stale = True

    def refresh(self) -> None:
        """Take over what the parts touched."""
        if self._stale:
            self._take_popularity()
            self._take_vectors()
            if self._tokenizer is not None:
                self._take_tokens(self._tokenizer)
            self.state.changed(self._stage.clock.ms)
            self._stale = False

    def number(self, item_id: str) -> int:
        """Row of an item in the state, -1 where it has none yet."""
        return self._number.get(item_id, -1)

    def _rows(self, ids: list[str]) -> np.ndarray:
        new = [id_ for id_ in dict.fromkeys(ids) if id_ not in self._number]
        if new:
            self._number.update(zip(new, range(len(self._number), len(self._number) + len(new)), strict=True))
            self.state.items.name(new)
        return np.array([self._number[id_] for id_ in ids], dtype=np.int64)

    def _take_popularity(self) -> None:
        live, removed = self._items.take_touched()
        table = self.state.items["item_popularity"]
        if live:
            told, rows = self._items.popularity(live), self._rows(live)
            columns = {
                "event_ms": told["last_ms"],
                "log2_popularity": np.where(np.isnan(told["log2_popularity"]), -np.inf, told["log2_popularity"]),
                "first_ms": told["first_ms"],
                "start_ms": np.where(told["start_ms"] == NONE_MS, MIN_MS, told["start_ms"]),
                "end_ms": np.where(told["end_ms"] == NONE_MS, MAX_MS, told["end_ms"]),
            }
            self.state.items["item_popularity"].put(rows, columns)
        if removed:
            rows = self._rows(list(removed))
            table.drop(rows)

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

    def list_of(self, user_id: str, seen: list[str], k: int) -> list[int]:
        """Rows of the list of `k` for a user whose last items were `seen`, newest first."""
        recent = [row for id_ in seen if (row := self.number(id_)) >= 0]
        return [row for row, _, _ in fill(self.state, self._config, Asker(self._vector(user_id), recent, MIN_MS), k)]

    def _vector(self, user_id: str) -> np.ndarray | None:
        rows = self._supa.users.ids.lookup([user_id])
        if rows[0] < 0:
            return None
        vector = self._supa.users.vectors(rows)[0]
        return vector if np.isfinite(vector).all() else None

    def full_rank(self, user_id: str, item_id: str) -> tuple[float, int]:
        """Rank of the item by learned score among all live items, and how many these are."""
        items, shelf, vector = self.state.items, self.state.items["item_popularity"], self._vector(user_id)
        table = items["item_vectors"]
        live = shelf.column("present") & (shelf.column("start_ms") <= self.state.clock_ms) & (shelf.column("end_ms") > self.state.clock_ms)
        scores = np.full(items.allocated + 1, np.nan)  # the last is an item that nobody has seen
        if vector is not None and table.width == vector.size:
            known = table.column("present")
            products = dots(vector, next(iter(table.chunks()))[1]).astype(np.float64) + table.column("bias")
            scores[:-1] = np.where(known, products, np.nan)
        at = self.number(item_id)
        among = np.append(live, False)
        among[at] = True
        return mean_rank(scores, among, at if at >= 0 else items.allocated), int(among.sum())
