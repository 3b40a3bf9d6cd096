"""SUPA as a part of the learner stage: users, items and the edges between them, in log order."""

import hashlib
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.hashing import fingerprints
from core.ids import RowTable
from core.schemas import DELTA_BASE, EVENT
from core.snapshot import Snapshot, check_identity
from core.stage import Examples
from learners.supa.admission import Sightings
from learners.supa.config import SupaConfig
from learners.supa.excerpt import ASKING
from learners.supa.graph import SupaGraph
from learners.supa.memory import UNTAUGHT
from learners.supa.nodes import Nodes

NO_EDGE, UNDO = -1, -2  # instead of a relation


class SupaLearner:
    """Learns a vector pair (h, c) per user and item from every edge, in log order.

    In: `examples`; events of the configured types are edges, those of `undo_types` take a pair's edges out again, a removed catalogue
    item loses its row, all else changes nothing.
    Out: `columns["item_vector"]`, float32 [n, 2 d]: the item's vector right after each row, zeros where it has no row.
    State: the graph, users and items (`Nodes`), sightings of ids without a row, updates refused, the newest event time. Nothing depends
    on how the log was cut into batches.

    Publications are part of the snapshot but not of the digest: the host publishes before a snapshot, and where it does not, the
    rows pending then are pending again after a restore.

    Attributes:
        updates: edges learned since the process started.
        waiting: edges not learned since then because an end was not seen often enough yet (`admit_after`).
    """

    name = "supa"
    publishes = True

    def __init__(self, config: SupaConfig) -> None:
        self.config, capacities = config, (config.max_users, config.max_items)
        self.graph = SupaGraph(config, capacities)
        self.users = Nodes(self.graph, 0, config.max_users, biased=False)
        self.items = Nodes(self.graph, 1, config.max_items, biased=True)
        self._sightings = Sightings() if config.admit_after > 1 else None
        self.updates = self.waiting = 0
        self._newest_ms = 0
        self._time_version = self._weights_told = UNTAUGHT
        self._items_next = False  # whose rows are published once more
        self._relation_of = dict.fromkeys(config.undo_types, UNDO) | config.relation_of()

    def learn_many(self, examples: Examples) -> None:
        """Learn row by row, in order. Adds `item_vector`."""
        n, start = len(examples), 0
        relation = self._relations(examples)
        vectors = np.zeros((n, 2 * self.config.dimensions), np.float32)
        cuts = sorted({*examples.removals(), *np.flatnonzero(relation == UNDO).tolist()})
        for stop in [*cuts, n]:
            self._learn_run(examples.part(start, stop), relation[start:stop], vectors[start:stop])
            if stop < n:
                self._take_out(examples, stop, vectors[stop : stop + 1])
            start = stop + 1
        examples.columns["item_vector"] = vectors

    def _relations(self, examples: Examples) -> np.ndarray:
        """int64 [n]: the relation of each edge, NO_EDGE or UNDO where the row is none."""
        code_of, texts = self._relation_of.get, examples.texts
        columns = zip(examples.numbers("kind").tolist(), texts("type"), texts("user_id"), texts("item_id"), strict=True)
        codes = (code_of(type_, NO_EDGE) if kind == EVENT and user and item else NO_EDGE for kind, type_, user, item in columns)
        return np.fromiter(codes, np.int64, len(examples))

    def _take_out(self, examples: Examples, at: int, vector: np.ndarray) -> None:
        """Row `at` removes an item, or the edges of a pair."""
        item = examples.texts("item_id")[at]
        if examples.numbers("kind")[at] != EVENT:
            self.items.remove(item, examples.first_ordinal + at)
            return
        ends = self.users.lookup([examples.texts("user_id")[at]]), self.items.lookup([item])
        if ends[0][0] >= 0 and ends[1][0] >= 0:
            self.graph.remove_edge(int(ends[0][0]), int(ends[1][0]), examples.first_ordinal + at)
        self._learn_run(examples.part(at, at + 1), np.full(1, NO_EDGE), vector)

    def _learn_run(self, examples: Examples, relation: np.ndarray, vectors: np.ndarray) -> None:
        """One kernel call for n rows without a removal among them."""
        edge = self._admitted(examples, relation) if self._sightings else relation >= 0
        self.updates += int(np.count_nonzero(edge))
        self._note_time(examples)
        users, items = examples.texts("user_id"), examples.texts("item_id")
        ends = np.full((len(examples), 2), -1, np.int32)
        ends[edge, 0] = self.users.admit(list(compress(users, edge)))
        ends[edge, 1] = self.items.admit(list(compress(items, edge)))
        ends[~edge, 1] = self.items.lookup(compress(items, ~edge))
        self.graph.learn(ends, np.where(edge, relation, NO_EDGE), examples.numbers("ts_ms"), examples.first_ordinal, vectors)

    def _note_time(self, examples: Examples) -> None:
        """The newest event time, and the example that it comes with."""
        ts_ms = examples.numbers("ts_ms")
        newest_ms = np.maximum.accumulate(np.concatenate([[self._newest_ms], ts_ms]))
        self._newest_ms = int(newest_ms[-1])
        rises = np.flatnonzero(ts_ms > newest_ms[:-1])
        if rises.size:
            self._time_version = examples.first_ordinal + int(rises[-1])

    def _admitted(self, examples: Examples, relation: np.ndarray) -> np.ndarray:
        """bool [n]: edges both of whose ends have a row, or get one now, having been seen `admit_after` times."""
        edge = relation >= 0
        users, items = examples.texts("user_id"), examples.texts("item_id")
        unknown = (self.users.lookup(compress(users, edge)) < 0) | (self.items.lookup(compress(items, edge)) < 0)
        known: tuple[set[str], set[str]] = (set(), set())  # ids that get a row in this run
        for at in np.flatnonzero(edge)[unknown].tolist():
            seen = self._seen(0, users[at], known[0]), self._seen(1, items[at], known[1])
            edge[at] = all(seen)
            if edge[at]:
                known[0].add(users[at])
                known[1].add(items[at])
        self.waiting += int(np.count_nonzero(relation >= 0) - np.count_nonzero(edge))
        return edge

    def _seen(self, side: int, id_: str, known: set[str]) -> bool:
        """Whether an id has a row or is to have one; counts a sighting where not."""
        nodes = (self.users, self.items)[side]
        if id_ in known or nodes.ids.lookup([id_])[0] >= 0:
            return True
        assert self._sightings is not None
        return self._sightings.see(fingerprints([id_])[0] ^ np.uint64(side)) >= self.config.admit_after

    @property
    def loss(self) -> float:
        """See `SupaGraph.loss`."""
        return self.graph.loss

    @property
    def newest_ms(self) -> int:
        """The newest event time: what the memory-aware score is asked at."""
        return self._newest_ms

    @property
    def nonfinite_updates(self) -> int:
        """Updates refused because a number was not finite."""
        return self.graph.nonfinite_updates

    @property
    def tables(self) -> dict[str, RowTable]:
        """The ids with rows: "users" and "items"."""
        return {"users": self.users.ids, "items": self.items.ids}

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Free the rows whose last use and edges count least, until the next segment fits."""
        for nodes in (self.users, self.items):
            nodes.evict(ordinal - 1)

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float32 [len(item_ids)]; NaN where the user or the item is not known.

        User vector . item vector + item bias; with `memory_every`, where users ask, the memory-aware score as of the newest event.
        """
        user_row, item_rows = int(self.users.lookup([user_id])[0]), self.items.lookup(item_ids)
        if user_row < 0:
            return np.full(len(item_ids), np.nan, np.float32)
        if self.config.memory_every and self.config.asks()[self.users.type]:
            return self.graph.memory_scores(user_row, item_rows, self._newest_ms).astype(np.float32)
        return self.graph.scores(user_row, item_rows)

    def touched(self) -> dict[str, pl.DataFrame]:
        """`user_vectors` (vector) and `item_vectors` (vector, bias): rows whose served values changed.

        With a memory-aware score for users also what it is made of: `user_memory` and `item_memory` (memory, see
        `learners.supa.excerpt.record_type`), and one row of `memory_weights` (weights; asked_ms, the time that it is asked for).
        """
        return {**self.users.publish("user"), **self.items.publish("item"), **self._publish_weights()}

    def _publish_weights(self) -> dict[str, pl.DataFrame]:
        version = max(self._time_version, int(self.graph.memory.taught[0]))
        if not self.config.remembers or version == self._weights_told:
            return {}
        self._weights_told = version
        schema = pl.Schema({**DELTA_BASE, "weights": pl.Binary(), "asked_ms": pl.Int64()})
        weights = self.graph.memory.weights[self.users.type].tobytes()
        row = (ASKING, version, self._newest_ms, False, weights, self._newest_ms)
        return {"memory_weights": pl.DataFrame([row], schema=schema, orient="row")}

    def touch_next(self, rows: int) -> bool:
        """A round of the users, then one of the items."""
        nodes = self.items if self._items_next else self.users
        if not nodes.touch_next(rows):
            return False
        self._items_next = not self._items_next
        if not self._items_next:
            self._weights_told = UNTAUGHT
        return not self._items_next

    @property
    def _identity(self) -> dict[str, int]:
        """Users' rows lie before items' rows, and neighbours are remembered by row, so room for more users moves the items."""
        return {**self.config.identity, "max_users": int(self.graph.first[1])}

    def snapshot(self, into: Snapshot) -> None:
        of = {"items_next": self._items_next, "newest_ms": self._newest_ms, "admission": self.config.admit_after > 1}
        weights = {"time_version": self._time_version, "taught": int(self.graph.memory.taught[0]), "weights_told": self._weights_told}
        into.write("supa.json", msgspec.json.encode({"identity": self._identity, **of, **weights}))
        self.graph.snapshot(into)
        self.users.snapshot(into.within("users"))
        self.items.snapshot(into.within("items"))
        if self._sightings:
            self._sightings.snapshot(into)

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made with other sizes.
        """
        state = msgspec.json.decode((directory / "supa.json").read_bytes())
        check_identity(state["identity"], self._identity)
        self._items_next = state["items_next"]
        self.graph.restore(directory)
        self.users.restore(directory / "users")
        self.items.restore(directory / "items")
        self._time_version, self._weights_told = (state.get(name, UNTAUGHT) for name in ("time_version", "weights_told"))
        self.graph.memory.taught[0] = state.get("taught", UNTAUGHT)
        self._newest_ms = state["newest_ms"]  # after the rows, which say better what a checkpoint of before lacks
        if self._sightings and state["admission"]:
            self._sightings.restore(directory)

    def digest(self) -> str:
        state = hashlib.sha256(f"{self.users.digest()} {self.items.digest()} {self.graph.digest()} {self._newest_ms}".encode())
        state.update(self._sightings.digested() if self._sightings else b"")
        return state.hexdigest()
