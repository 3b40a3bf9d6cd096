"""SUPA as a part of the learner stage: ids outside, rows and one kernel call inside."""

import hashlib
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.frames import from_columns
from core.hashing import fingerprints
from core.ids import IdMap, RowTable
from core.rounds import Rounds
from core.rows import Rows
from core.schemas import DELTA_BASE, EVENT
from core.snapshot import Snapshot, check_identity
from core.stage import Examples
from learners.supa import kernel
from learners.supa.config import SupaConfig
from learners.supa.kernel import SERVED, Table
from learners.supa.neighbours import Rings


def _fields(config: SupaConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The arrays of one table, as `core.rows.Rows` takes them."""
    d, relations, ring = config.dimensions, len(config.relations), config.ring_size
    vectors = {"long": (d,), "short": (d if config.short_vector else 0,), "context": (relations, d), "bias": (relations,)}
    sums = {"long_sum": (), "short_sum": (), "context_sum": (relations,), "bias_sum": (relations,)}
    return {
        **{name: ("<f4", shape) for name, shape in {**vectors, **sums}.items()},
        **dict.fromkeys(("last_ms", "version", "event_ms", "written"), ("<i8", ())),
        **dict.fromkeys(("row", "neighbour_generation"), ("<i4", (ring,))),
        "alive": ("?", ()),
        "relation": ("u1", (ring,)),
        "ts_ms": ("<i8", (ring,)),
        "generation": ("<i4", ()),
    }


class Nodes:
    """The nodes of one type: ids, rows, and what is to be published of them.

    State: the id map; every array of the rows; the touched rows and removed ids not yet published.
    """

    def __init__(self, side: int, capacity: int, config: SupaConfig) -> None:
        self.side, self.config = side, config
        self.ids = IdMap(capacity)
        self.rows = Rows(capacity, _fields(config))
        arrays = self.rows.arrays
        rings = Rings(**{name: arrays[name] for name in Rings._fields})
        own = {name: arrays[name] for name in Table._fields if name in arrays}
        marks = {"extent": np.zeros(1, np.int64), "touched": np.zeros(capacity, np.bool_), "dirty": self.rows.dirty}
        self.table = Table(rings=rings, **own, **marks)
        self.removed: dict[str, tuple[int, int]] = {}  # id -> version, event_ms
        self.rounds = Rounds()

    def admit(self, ids: list[str]) -> np.ndarray:
        """int32 [n]: a row for each id, its first vectors drawn where it is new."""
        rows = self.ids.admit(ids)
        unborn = np.flatnonzero(~self.table.alive[rows])
        if unborn.size:
            fresh, first = np.unique(rows[unborn], return_index=True)
            keys = fingerprints(ids[at] for at in unborn[first])
            kernel.initialise(self.table, fresh, keys, np.uint64(self.config.seed), self.side, self.config.initial_scale)
        return rows

    def remove(self, id_: str, version: int) -> None:
        """Free the row of `id_` if it has one."""
        row = self.ids.remove(id_)
        if row >= 0:
            self._clear(id_, row, version)

    def evict(self, version: int) -> None:
        """Make room for the next segment."""
        for id_, row in self.ids.evict():
            self._clear(id_, row, version)

    def _clear(self, id_: str, row: int, version: int) -> None:
        """Zero a freed row; its new generation makes the rings that still point to it skip it."""
        self.removed[id_] = (version, int(self.table.event_ms[row]))
        generation = self.rows["generation"][row] + 1
        for array in self.rows.arrays.values():
            array[row] = 0
        self.rows["generation"][row] = generation
        self.table.touched[row] = False
        self.rows.mark(np.array([row]))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n, 2 d]: [h, c] of users, [c, h] of items, so that their product is the score."""
        of = self.table
        return kernel.served_vectors(of.long, of.short, of.context, rows.astype(np.int64, copy=False), self.side)

    def biases(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n]: what is added to the product."""
        biases: np.ndarray = self.table.bias[rows, SERVED]
        return biases

    def touch_next(self, rows: int) -> bool:
        """See `Learner.touch_next`."""
        span, ended = self.rounds.take(rows, self.ids.size)
        self.table.touched[span] |= self.table.alive[span]
        return ended

    def schema(self) -> pl.Schema:
        """Of what `publish` returns."""
        vector = pl.Array(pl.Float32, 2 * self.config.dimensions)
        bias = {"bias": pl.Float32()} if self.side == kernel.ITEM else {}
        return pl.Schema({**DELTA_BASE, "vector": vector, **bias})

    def take_touched(self) -> np.ndarray:
        """int64: rows changed since the last call."""
        rows = np.flatnonzero(self.table.touched[: self.ids.size])
        self.table.touched[rows] = False
        return rows

    def take_removed(self) -> list[tuple[str, int, int]]:
        """(id, version, event time) of the ids removed since the last call and not back since."""
        if not self.removed:
            return []
        gone = [(id_, version, event_ms) for id_, (version, event_ms) in self.removed.items()]
        self.removed.clear()
        back = self.ids.lookup([row[0] for row in gone]) >= 0
        return list(compress(gone, ~back))

    def publish(self) -> pl.DataFrame:
        """Rows changed and ids removed since the last call; of a removed id the vector is null."""
        rows = self.take_touched()
        columns = {
            "id": [self.ids.ids[row] for row in rows],
            "version": self.table.version[rows],
            "event_ms": self.table.event_ms[rows],
            "removed": np.zeros(rows.size, np.bool_),
            "vector": self.vectors(rows),
            "bias": self.biases(rows),
        }
        changed = from_columns(self.schema(), columns)
        return pl.concat([changed, self._removals()]) if self.removed else changed

    def _removals(self) -> pl.DataFrame:
        gone = [(*row, True) for row in self.take_removed()]
        base = pl.DataFrame(gone, schema=DELTA_BASE, orient="row")
        return base.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in self.schema().items() if name not in DELTA_BASE)

    def snapshot(self, into: Snapshot) -> None:
        self.ids.snapshot(into)
        self.rows.snapshot(into, self.ids.size)
        touched = np.flatnonzero(self.table.touched).tolist()
        state = {"extent": int(self.table.extent[0]), "touched": touched, "removed": self.removed, "next_row": self.rounds.next_row}
        into.write("nodes.json", msgspec.json.encode(state))

    def restore(self, directory: Path) -> None:
        self.ids.restore(directory)
        self.rows.restore(directory)
        state = msgspec.json.decode((directory / "nodes.json").read_bytes())
        self.table.extent[0], self.table.touched[state["touched"]] = state["extent"], True
        self.removed = {id_: tuple(entry) for id_, entry in state["removed"].items()}
        self.rounds.next_row = state["next_row"]

    def digest(self) -> str:
        return f"{self.ids.digest()} {self.rows.digest(np.arange(self.ids.size))} {int(self.table.extent[0])}"


class SupaLearner:
    """Learns a vector pair (h, c) per user and item from every edge, in log order.

    In: `examples`; events of the configured types are edges, a removed catalogue item loses its row, all else changes nothing.
    Out: `columns["item_vector"]`, float32 [n, 2 d]: the item's [c, h] right after each row, zeros where it has no row.
    State: users and items (`Nodes`), updates refused. Nothing depends on how the log was cut into batches.

    Publications are part of the snapshot but not of the digest: the host publishes before a snapshot, and where it does not, the
    rows pending then are pending again after a restore.

    Attributes:
        updates: edges learned since the process started.
        nonfinite_updates: updates refused because a number was not finite.
    """

    name = "supa"
    publishes = True

    def __init__(self, config: SupaConfig) -> None:
        self.config = config
        self.users = Nodes(kernel.USER, config.max_users, config)
        self.items = Nodes(kernel.ITEM, config.max_items, config)
        self.updates = self.nonfinite_updates = 0
        self._loss = np.zeros(2)  # see `kernel.Scratch`; no state: after a restart it begins anew
        self._items_next = False  # whose rows are published once more
        self._rule, self._relation_of = config.rule(), config.relation_of()

    def learn_many(self, examples: Examples) -> None:
        """Learn row by row, in order. Adds `item_vector`."""
        n, start = len(examples), 0
        relation = self._relations(examples)
        vectors = np.zeros((n, 2 * self.config.dimensions), np.float32)
        for stop in [*examples.removals(), n]:
            self._learn_run(examples.part(start, stop), relation[start:stop], vectors[start:stop])
            if stop < n:
                self.items.remove(examples.texts("item_id")[stop], examples.first_ordinal + stop)
            start = stop + 1
        examples.columns["item_vector"] = vectors

    def _relations(self, examples: Examples) -> np.ndarray:
        """int64 [n]: the relation of each edge, -1 where the row is none."""
        code_of, texts = self._relation_of.get, examples.texts
        columns = zip(examples.numbers("kind").tolist(), texts("type"), texts("user_id"), texts("item_id"), strict=True)
        codes = (code_of(type_, -1) if kind == EVENT and user and item else -1 for kind, type_, user, item in columns)
        return np.fromiter(codes, np.int64, len(examples))

    def _learn_run(self, examples: Examples, relation: np.ndarray, vectors: np.ndarray) -> None:
        """One kernel call for n rows without a removal among them."""
        n, edge = len(examples), relation >= 0
        self.updates += int(np.count_nonzero(edge))
        users, items = examples.texts("user_id"), examples.texts("item_id")
        user_row, item_row = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
        user_row[edge] = self.users.admit(list(compress(users, edge)))
        item_row[edge] = self.items.admit(list(compress(items, edge)))
        item_row[~edge] = self.items.ids.lookup(compress(items, ~edge))
        tables, ts_ms = (self.users.table, self.items.table), examples.numbers("ts_ms")
        first = examples.first_ordinal
        self.nonfinite_updates += kernel.learn_run(tables, relation, user_row, item_row, ts_ms, first, self._rule, vectors, self._loss)

    @property
    def loss(self) -> float:
        """Moving average, over the last few thousand edges, of what an end lost on the node that it met; NaN before the first."""
        average, weight = self._loss.tolist()
        return average / weight if weight else float("nan")

    @property
    def tables(self) -> dict[str, RowTable]:
        """The ids with rows: "users" and "items"."""
        return {"users": self.users.ids, "items": self.items.ids}

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Free the rows longest without an edge, until the next segment fits."""
        for nodes in (self.users, self.items):
            nodes.evict(ordinal - 1)

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """float32 [len(item_ids)]: user vector . item vector + item bias; NaN where the user or the item is not known."""
        out = np.full(len(item_ids), np.nan, np.float32)
        user_row = int(self.users.ids.lookup([user_id])[0])
        if user_row >= 0:
            kernel.score_items(self.users.table, self.items.table, user_row, self.items.ids.lookup(item_ids), out)
        return out

    def touched(self) -> dict[str, pl.DataFrame]:
        """`user_vectors` (vector [h, c]) and `item_vectors` (vector [c, h], bias): rows whose served values changed."""
        return {"user_vectors": self.users.publish(), "item_vectors": self.items.publish()}

    def touch_next(self, rows: int) -> bool:
        """A round of the users, then one of the items."""
        nodes = self.items if self._items_next else self.users
        if not nodes.touch_next(rows):
            return False
        self._items_next = not self._items_next
        return not self._items_next

    def snapshot(self, into: Snapshot) -> None:
        state = {"identity": self.config.identity, "nonfinite_updates": self.nonfinite_updates, "items_next": self._items_next}
        into.write("supa.json", msgspec.json.encode(state))
        self.users.snapshot(into.within("users"))
        self.items.snapshot(into.within("items"))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made with other sizes.
        """
        state = msgspec.json.decode((directory / "supa.json").read_bytes())
        check_identity(state["identity"], self.config.identity)
        self.nonfinite_updates, self._items_next = state["nonfinite_updates"], state["items_next"]
        self.users.restore(directory / "users")
        self.items.restore(directory / "items")

    def digest(self) -> str:
        text = f"{self.nonfinite_updates} {self.users.digest()} {self.items.digest()}"
        return hashlib.sha256(text.encode()).hexdigest()
