"""A dynamic graph that learns: typed rows, edges in, vectors and scores out. Knows no ids."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from core.errors import SettingsError
from core.rows import CHUNK_BITS, CHUNK_ROWS, side_by_side
from core.snapshot import Snapshot
from learners.supa import kernel
from learners.supa.config import SupaConfig
from learners.supa.history import HALF_LIVES_MS, History, no_history
from learners.supa.inslearn import NO_AGES, InsLearn
from learners.supa.memory import near_rows, new_memory, score_rows
from learners.supa.neighbours import Neighbours, forget
from learners.supa.table import SERVED, Table, products, served_vectors
from learners.supa.undo import drop

_FILE = "graph.json"


def fields(config: SupaConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The arrays of the table with a row per node, as `core.rows.Rows` takes them."""
    d, relations, ring = config.dimensions, len(config.relations), config.ring_size
    vectors = {"long": (d,), "context": (relations, d), "short": (d if config.short_vector else 0,)}
    rest = {"bias": (relations,), "bias_sum": (relations,), "context_sum": (relations,), "long_sum": (), "short_sum": ()}
    heat = ("<f8", (len(HALF_LIVES_MS),))
    whole = dict.fromkeys(("first_ms", "partners", "met_version"), ("<i8", ()))
    history = {"heat": heat, "new_heat": heat, **whole} if config.memory_every else {}
    return {
        **{name: ("<f4", shape) for name, shape in vectors.items()},
        **dict.fromkeys(("faded_ms", "last_ms", "version", "event_ms"), ("<i8", ())),
        **{name: ("<f4", shape) for name, shape in rest.items()},
        **dict.fromkeys(("edges", "generation"), ("<i4", ())),
        "held": ("<i2", ()),
        "alive": ("?", ()),  # to here a line beside the vectors: all that is asked of most rows
        "ts_ms": ("<i8", (ring,)),
        **dict.fromkeys(("row", "neighbour_generation"), ("<i4", (ring,))),
        "meetings": ("<u2", (ring,)),
        "relation": ("u1", (ring,)),
        **history,
    }


class SupaGraph:
    """All rows of all node types, and the edges that they learn from.

    Attributes:
        first: int64 [T + 1], where the rows of each type begin, and the end.
        table: `Table`; views of it may be given to torch, nothing is copied.
        met: bool [rows], what the row remembers changed since the last publication; of no row where that is not published.
        nonfinite_updates: refused because a number was not finite.
    """

    def __init__(self, config: SupaConfig, capacities: Sequence[int]) -> None:
        """`capacities`: rows of each type. Untouched memory is never paged in."""
        self.config, self._published = config, config.serving == "published"
        self.capacities = tuple(capacities)
        whole = [-(-capacity // CHUNK_ROWS) * CHUNK_ROWS for capacity in capacities]
        self.first = np.concatenate([[0], np.cumsum(whole)]).astype(np.int64)
        rows, types = int(self.first[-1]), len(capacities)
        self.arrays = side_by_side(rows, fields(config))
        self.arrays_of_type = [
            {name: array[start:stop] for name, array in self.arrays.items()}
            for start, stop in zip(self.first, self.first[1:], strict=False)
        ]
        neighbours = Neighbours(**{name: self.arrays[name] for name in Neighbours._fields})
        own = {name: self.arrays[name] for name in Table._fields if name in self.arrays}
        marks = {"touched": np.zeros(rows, np.bool_), "dirty": np.zeros(rows // CHUNK_ROWS, np.bool_)}
        of_types = {"first": self.first[:-1], "extent": np.zeros(types, np.int64)}
        alphas = {"alpha": np.zeros(types), "alpha_sum": np.zeros(types)}
        type_ = np.repeat(np.arange(types, dtype=np.uint8), whole)
        self.table = Table(neighbours=neighbours, type=type_, **own, **marks, **of_types, **alphas)
        self.nonfinite_updates = 0
        self._loss = np.zeros(2)
        history = History(**({name: self.arrays[name] for name in History._fields} if config.memory_every else no_history()))
        self.memory = new_memory(
            history, rows, config.asks(), config.memory_question == "later", config.ring_size, len(config.relations), config.memory_every
        )
        self.met = np.zeros(rows if config.remembers else 0, np.bool_)
        self._inslearn = InsLearn(config, self.table, self.memory, self._loss)

    def initialise(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """First vectors of rows int32 [n] that are new; keys uint64 [n, 2], fingerprints of their ids."""
        kernel.initialise(self.table, rows, keys, np.uint64(self.config.seed), self.config.initial_scale)

    def learn(self, ends: np.ndarray, relation: np.ndarray, ts_ms: np.ndarray, first_ordinal: int, after: np.ndarray | None = None) -> None:
        """Learn n rows of a log in order; see `kernel.Run` for the arguments."""
        room = np.zeros((0, 2 * self.config.dimensions), np.float32) if after is None else after
        self._note_met(ends[relation >= 0], first_ordinal + np.flatnonzero(relation >= 0)[:, np.newaxis])
        self.nonfinite_updates += self._inslearn.learn(kernel.Run(ends, relation, ts_ms, first_ordinal, NO_AGES, room))

    def judge(self, ends: np.ndarray, ts_ms: np.ndarray, first_ordinal: int, type_: int) -> np.ndarray:
        """float64 [n]: by the memory-aware score, the rank of the second end of each edge among all nodes of a type, then learn it.

        Nodes without an edge yet share the last ranks. Edges are of the served relation.
        """
        room = np.zeros((0, 2 * self.config.dimensions), np.float32)
        run = kernel.Run(ends, np.full(len(ends), SERVED, np.int64), ts_ms, first_ordinal, NO_AGES, room)
        first, stop = self.first[type_], self.first[type_] + self.capacities[type_]
        self._note_met(ends, first_ordinal + np.arange(len(ends))[:, np.newaxis])
        ranks, refused = self._inslearn.judge(run, int(first), int(stop - first))
        self.nonfinite_updates += refused
        return ranks

    def _note_met(self, rows: np.ndarray, ordinals: np.ndarray) -> None:
        """Say that what rows int [n, 2] remember changes at examples int64 [n, 1], the later ones last."""
        if self.met.size:
            self.met[rows], self.arrays["met_version"][rows] = True, ordinals

    def remove_edge(self, one: int, other: int, ordinal: int) -> None:
        """Take what two rows remember of each other out, at an example; what was learned of it stays."""
        for row, met in ((one, other), (other, one)):
            if forget(self.table.neighbours, row, met):
                self.table.dirty[row >> CHUNK_BITS] = True
                self._note_met(np.array([[row]]), np.array([[ordinal]]))

    def free(self, row: int) -> None:
        """A node is gone: nothing of its row is left but the generation, by which its neighbours' entries of it are void."""
        drop(self._inslearn.undo, row)
        generation = self.arrays["generation"][row] + 1
        for array in self.arrays.values():
            array[row] = 0
        self.arrays["generation"][row] = generation
        self.table.touched[row], self.table.dirty[row >> CHUNK_BITS] = False, True
        if self.met.size:
            self.met[row] = False

    @property
    def loss(self) -> float:
        """Moving average, over the last few thousand edges, of what an end lost on the node that it met; NaN before the first."""
        average, weight = self._loss.tolist()
        return average / weight if weight else float("nan")

    def vectors(self, rows: np.ndarray, mirrored: bool, relation: int = SERVED) -> np.ndarray:
        """float32 [n, 2 d] of rows [n]: the product of one with a mirrored one, plus the bias of that, is the score."""
        of = self.table
        return served_vectors(of.long[rows], of.short[rows], of.context[rows], relation, self._published, mirrored)

    def biases(self, rows: np.ndarray, relation: int = SERVED) -> np.ndarray:
        """float32 [n]: of the mirrored one."""
        biases: np.ndarray = self.table.bias[rows, relation]
        return biases

    def scores(self, row: int, rows: np.ndarray, relation: int = SERVED) -> np.ndarray:
        """float32 [n]: of `row` with rows int [n]; NaN where there is none. No BLAS: its sums depend on n."""
        known = rows >= 0
        out, whole = np.full(rows.size, np.nan, np.float32), rows[known].astype(np.int64)
        own = self.vectors(np.array([row]), False, relation)[0]
        out[known] = products(own, self.vectors(whole, True, relation)) + self.biases(whole, relation)
        return out

    def memory_scores(self, row: int, rows: np.ndarray, ts_ms: int, remembered_first: bool = False) -> np.ndarray:
        """float64 [n]: the memory-aware score of `row` with rows int [n] at a time, see `learners.supa.memory.score_rows`."""
        if not self.memory.every:
            raise SettingsError("there is no memory-aware score with `memory_every` 0")
        known = (rows >= 0) & self.table.alive[rows]
        out, scores = np.full(rows.size, np.nan), np.empty(int(np.count_nonzero(known)))
        score_rows(self.table, self.memory, row, rows[known].astype(np.int32), ts_ms, remembered_first, scores)
        out[known] = scores
        return out

    def near(self, row: int) -> np.ndarray:
        """int32 [n]: the rows that `row` remembers, and those within three steps of it."""
        return near_rows(self.table, self.memory, row)

    def snapshot(self, into: Snapshot) -> None:
        """What no row holds."""
        state = {
            "nonfinite_updates": self.nonfinite_updates,
            "alpha": self.table.alpha.tolist(),
            "alpha_sum": self.table.alpha_sum.tolist(),
            "weights": self.memory.weights.tolist(),
            "sums": self.memory.sums.tolist(),
        }
        into.write(_FILE, msgspec.json.encode(state))
        self._inslearn.snapshot(into)

    def restore(self, directory: Path) -> None:
        state = msgspec.json.decode((directory / _FILE).read_bytes())
        self.nonfinite_updates = state["nonfinite_updates"]
        self.table.alpha[:], self.table.alpha_sum[:] = state["alpha"], state["alpha_sum"]
        self.memory.weights[:], self.memory.sums[:] = state["weights"], state["sums"]
        self._inslearn.restore(directory)

    def digest(self) -> str:
        """Of what no row holds."""
        passes = hashlib.sha256(self._inslearn.digested() + self.memory.weights.tobytes() + self.memory.sums.tobytes()).hexdigest()
        return f"{self.nonfinite_updates} {self.table.alpha.tolist()} {self.table.alpha_sum.tolist()} {passes}"
