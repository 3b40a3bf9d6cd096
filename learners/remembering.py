"""The memory-aware score over one version of the cache: what a question touches is gathered, and scored as the learner does.

Budget: what is gathered follows the neighbours that a node remembers, not the number of users or items.
"""

import threading
from functools import cached_property
from typing import NamedTuple

import numpy as np

from learners.supa.excerpt import ASKING, Excerpt, Part, met, record_of, record_type, weights_of
from learners.supa.pairs import FEATURES
from learners.supa.reach import STEPS
from learners.supa.table import LANES
from learners.tables import WIDE_COLUMN, Space

LEAST_ROOM = 4_096  # nodes of a type in an excerpt
_thread = threading.local()  # `room`: an excerpt for one question after the other


class Found(NamedTuple):
    """Nodes that this version of the cache has."""

    rows: np.ndarray  # int64 [n]
    records: np.ndarray  # [n], see `learners.supa.excerpt.record_type`


class Remembering:
    """A user of whom the cache holds a vector and a memory."""

    def __init__(self, users: Space, items: Space, weights: np.ndarray, asked_ms: int, row: int) -> None:
        """`weights`: float64 [2, features + 1]; `row`: of the user."""
        self._users, self._items, self._weights, self._asked_ms = users, items, weights, asked_ms
        self._vector = np.frombuffer(users["user_vectors"].cell(row, "vector"), dtype="<f4")
        self._own = _records(users, "user_memory", np.array([row]))  # [1]

    @cached_property
    def _met(self) -> Found:
        """The items that the user remembers, met last first."""
        nodes, generations = met(self._own)
        found, at = _find(self._items, "item_memory", nodes, generations)
        order = np.lexsort((-at, -self._own["ts_ms"][0][at]))  # of those met at once the later entry, as `by_last_contact` has it
        return Found(found.rows[order], found.records[order])

    @cached_property
    def _companions(self) -> Found:
        """The other users that these items remember, of those items that ways go on from."""
        found, _ = _find(self._users, "user_memory", *_distinct(*met(self._met.records[:STEPS])))
        others = found.records["node"] != self._own["node"]
        return Found(found.rows[others], found.records[others])

    def near(self) -> np.ndarray:
        """int64 [n]: items that the user remembers, and those within three steps."""
        reached, _ = _find(self._items, "item_memory", *_distinct(*met(self._companions.records)))
        return np.union1d(self._met.rows, reached.rows)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """float64 [n]: of items int64 [n], at the time of the newest event; NaN where there is no vector of it.

        Where its memory has not come yet, as after a late start, it is one that nobody met.
        """
        vectors = self._items["item_vectors"]
        known = vectors.column("present")[rows]
        out = np.full(rows.size, np.nan)
        if vectors.width != self._vector.size or not known.any():
            return out
        others = np.setdiff1d(rows[known], self._met.rows)
        items = Found(
            np.concatenate([self._met.rows, others]),
            np.concatenate([self._met.records, _records(self._items, "item_memory", others)]),
        )
        scores = self._scored(items)
        order = np.argsort(items.rows)
        out[known] = scores[order][np.searchsorted(items.rows[order], rows[known])]
        return out

    def _scored(self, items: Found) -> np.ndarray:
        """float64 [n]: of items, of which those met come first."""
        vectors = self._items["item_vectors"]
        users = Part(np.concatenate([self._own, self._companions.records]), self._vector[np.newaxis], np.zeros(1, np.float32))
        told = Part(items.records, vectors.take(WIDE_COLUMN, items.rows), vectors.column("bias")[items.rows])
        relations = self._weights.shape[1] - 1 - len(FEATURES)
        room = _room(self._vector.size // 2, self._own.dtype["row"].shape[0], relations, max(users.records.size, items.rows.size))
        return room.scores(users, told, self._met.rows.size, self._weights, self._asked_ms)


def remembering(users: Space, items: Space, dense: Space, row: int) -> Remembering | None:
    """What is remembered of the user in a row, None where it is not known, or not enough is there yet to score by memory."""
    table, at = dense["memory_weights"], dense.row(ASKING)
    if row < 0 or at < 0 or not (table.has(at) and users["user_memory"].has(row) and users["user_vectors"].has(row)):
        return None
    if users["user_memory"].width != items["item_memory"].width:  # of items nothing has come yet
        return None
    if items["item_vectors"].width % (2 * LANES):  # no vectors of a learner that remembers
        return None
    return Remembering(users, items, weights_of(table.cell(at, "weights")), int(table.cell(at, "asked_ms")), row)


def _records(space: Space, name: str, rows: np.ndarray) -> np.ndarray:
    """[n] of the table's record type: of rows int64 [n]."""
    raw = space[name].take(WIDE_COLUMN, rows)
    return raw.view(record_of(raw.shape[1]))[:, 0]


def _distinct(nodes: np.ndarray, generations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of them, int32 [n] both."""
    pairs = np.unique((nodes.astype(np.int64) << 32) | generations)
    return (pairs >> 32).astype(np.int32), pairs.astype(np.int32)


def _find(space: Space, name: str, nodes: np.ndarray, generations: np.ndarray) -> tuple[Found, np.ndarray]:
    """The nodes that are there and were not freed since, in order, and which of those asked for they are, int64 [n]."""
    rows = space.places[nodes].astype(np.int64)
    at = np.flatnonzero((rows >= 0) & (rows < space.allocated))
    records = _records(space, name, rows[at])
    same = (records["node"] == nodes[at]) & (records["generation"] == generations[at])
    return Found(rows[at[same]], records[same]), at[same]


def _room(dimensions: int, ring: int, relations: int, nodes: int) -> Excerpt:
    """This thread's room for an excerpt of so many nodes of a type."""
    room = getattr(_thread, "room", None)
    shape = (dimensions, ring, relations)
    if room is None or room[0] != shape or room[1] < nodes:
        capacity = max(LEAST_ROOM, 1 << (nodes - 1).bit_length())
        room = _thread.room = (shape, capacity, Excerpt(*shape, capacity))
    excerpt: Excerpt = room[2]
    return excerpt


def warm_up() -> None:
    """Compile what a first question would else wait for."""
    ring = relations = 1
    part = Part(np.zeros(1, record_type(ring)), np.zeros((1, 2 * LANES), np.float32), np.zeros(1, np.float32))
    Excerpt(LANES, ring, relations, 1).scores(part, part, 1, np.zeros((2, len(FEATURES) + relations + 1)), 0)
