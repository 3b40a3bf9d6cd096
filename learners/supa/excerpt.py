"""What is published of a graph's memory, and the part of a graph that a question touches, made of it again.

Who scores by memory without the graph holds a published record per node. For a question it puts those of the nodes within three steps of
who asks into a small graph of its own, where the learner's own function gives the learner's own score, to the bit.
"""

from typing import NamedTuple

import numpy as np

from core.errors import FreshetError
from learners.supa.config import SupaConfig
from learners.supa.graph import SupaGraph
from learners.supa.history import HALF_LIVES_MS
from learners.supa.neighbours import ENTRY_BYTES
from learners.supa.pairs import FEATURES
from learners.supa.table import SERVED

USER, ITEM = 0, 1  # node types of a stream
ASKING = "user"  # id of the weights of those who ask
ABSENT = -1  # instead of a row: an entry's neighbour that is not in the excerpt
_HEAT = (len(HALF_LIVES_MS),)
_OWN = (
    ("generation", "<i4"), ("held", "<i2"), ("edges", "<i4"), ("partners", "<i8"), ("last_ms", "<i8"), ("first_ms", "<i8"),
    ("heat", "<f8", _HEAT), ("new_heat", "<f8", _HEAT),
)  # fmt: skip
_ENTRY = (("ts_ms", "<i8"), ("row", "<i4"), ("neighbour_generation", "<i4"), ("meetings", "<u2"), ("relation", "u1"))


def record_type(ring: int) -> np.dtype[np.void]:
    """What is published of a node's memory, with so many neighbours at most: arrays of the graph, by name.

    `node` is 1 + the node's row in the learner, and names it together with the generation; a record of zeros is nobody's.
    """
    return np.dtype([("node", "<i4"), *_OWN, *((name, dtype, (ring,)) for name, dtype in _ENTRY)])


def record_of(size_bytes: int) -> np.dtype[np.void]:
    """The type of records of that size.

    Raises:
        FreshetError: none has it.
    """
    ring, rest = divmod(size_bytes - record_type(0).itemsize, ENTRY_BYTES)
    if ring < 1 or rest:
        raise FreshetError(f"no record of a node's memory has {size_bytes} bytes")
    return record_type(ring)


def _names(records: np.ndarray) -> tuple[str, ...]:
    """The arrays of a graph that records have something of."""
    return tuple(name for name in records.dtype.names or () if name != "node")


def records_of(graph: SupaGraph, rows: np.ndarray) -> np.ndarray:
    """[n] of `record_type`: of rows int64 [n] of a graph that keeps a memory."""
    out = np.empty(rows.size, record_type(graph.config.ring_size))
    out["node"] = rows + 1
    for name in _names(out):
        out[name] = graph.arrays[name][rows]
    return out


def weights_of(raw: bytes) -> np.ndarray:
    """float64 [2, features + 1]: published weights.

    Raises:
        FreshetError: another version's score has other features.
    """
    relations, rest = divmod(len(raw) // 8 - 2 * (len(FEATURES) + 1), 2)
    if len(raw) % 8 or rest or relations < 1:
        raise FreshetError(f"weights of {len(raw)} bytes are another version's: serve by the version that learns")
    return np.frombuffer(raw, "<f8").reshape(2, -1)


def met(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and generations, int32 [k] each: the neighbours that the records remember, record by record."""
    used = np.arange(records.dtype["row"].shape[0]) < records["held"][:, np.newaxis]
    return records["row"][used] + 1, records["neighbour_generation"][used]


class Part(NamedTuple):
    """Nodes of one type that a question touches, n of them; of the first m the vectors are needed."""

    records: np.ndarray  # [n]
    vectors: np.ndarray  # float32 [m, 2 d], as served: of items mirrored
    biases: np.ndarray  # float32 [m]


class Excerpt:
    """Room for one question after the other: a graph of who asks, the users whose neighbours matter, and items."""

    def __init__(self, dimensions: int, ring: int, relations: int, capacity: int) -> None:
        """`capacity`: users, and items."""
        names = tuple((str(number), ()) for number in range(relations))
        config = SupaConfig(dimensions=dimensions, ring_size=ring, relations=names, memory_every=1)
        self._graph, self._last_relation = SupaGraph(config, (capacity, capacity)), relations - 1
        self._first = self._graph.first.tolist()

    def scores(self, users: Part, items: Part, walked: int, weights: np.ndarray, ts_ms: int) -> np.ndarray:
        """float64 [items]: the score of the first user with every item at a time.

        Args:
            walked: of the items, the first so many are those that the user met; of the others it only matters whether they remember it.
            weights: float64 [2, features + 1], of users who ask.
        """
        self._graph.memory.weights[USER] = weights
        self._put(USER, users, _rows_of(users.records["row"], items.records, self._first[ITEM]))
        of_items = np.full(items.records["row"].shape, ABSENT)
        of_items[:walked] = _rows_of(items.records["row"][:walked], users.records, self._first[USER])
        of_items[walked:][items.records["row"][walked:] + 1 == users.records["node"][0]] = self._first[USER]
        self._put(ITEM, items, of_items)
        return self._graph.memory_scores(self._first[USER], self._first[ITEM] + np.arange(items.records.size), ts_ms)

    def _put(self, type_: int, part: Part, neighbours: np.ndarray) -> None:
        """A type's nodes in its first rows; `neighbours`: the row of each one's, int64 [n, ring]."""
        arrays, d = self._graph.arrays_of_type[type_], part.vectors.shape[1] // 2
        n, m = part.records.size, part.biases.size
        for name in _names(part.records):
            arrays[name][:n] = part.records[name]
        arrays["row"][:n] = neighbours
        np.minimum(part.records["relation"], self._last_relation, out=arrays["relation"][:n])  # the kernel checks no bounds
        arrays["neighbour_generation"][:n][neighbours == ABSENT] = ABSENT  # no generation of any row
        arrays["alive"][:n] = True
        long, context = (part.vectors[:, d:], part.vectors[:, :d]) if type_ == ITEM else (part.vectors[:, :d], part.vectors[:, d:])
        arrays["long"][:m], arrays["context"][:m, SERVED], arrays["bias"][:m, SERVED] = long, context, part.biases


def _rows_of(neighbours: np.ndarray, records: np.ndarray, first: int) -> np.ndarray:
    """int64, as many: the row of each neighbour in an excerpt whose records begin at row `first`; ABSENT where it has none."""
    order = np.argsort(records["node"])
    nodes = records["node"][order]
    at = np.minimum(np.searchsorted(nodes, neighbours + 1), nodes.size - 1)
    return np.where(nodes[at] == neighbours + 1, first + order[at], ABSENT)
