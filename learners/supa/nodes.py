"""The nodes of one type: ids outside, rows of the graph inside, and what is to be published of them."""

from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from core.frames import from_columns
from core.hashing import fingerprints
from core.ids import IdMap
from core.rounds import Rounds
from core.rows import CHUNK_BITS, Rows
from core.schemas import DELTA_BASE
from core.snapshot import Snapshot
from learners.supa.excerpt import records_of
from learners.supa.graph import SupaGraph

Own = tuple[pl.DataType, Any]  # type and values of a column


class Nodes:
    """The nodes of one type: ids, rows, and what is to be published of them.

    State: the id map; the graph's rows of this type; the rows changed and ids removed that are not yet published.
    """

    def __init__(self, graph: SupaGraph, type_: int, capacity: int, biased: bool) -> None:
        """`biased`: a bias is published beside the vector, which is the mirrored one."""
        self.graph, self.type, self.biased = graph, type_, biased
        self.ids = IdMap(capacity)
        self.first, stop = int(graph.first[type_]), int(graph.first[type_ + 1])
        self.rows = Rows.over(graph.arrays_of_type[type_], graph.table.dirty[self.first >> CHUNK_BITS : stop >> CHUNK_BITS])
        self.touched, self.met = graph.table.touched[self.first : stop], graph.met[self.first : stop]
        self.removed: dict[str, tuple[int, int]] = {}  # id -> version, event_ms
        self.rounds = Rounds()

    def admit(self, ids: list[str]) -> np.ndarray:
        """int32 [n]: the graph's row for each id, its first vectors drawn where it is new."""
        rows = self.ids.admit(ids)
        unborn = np.flatnonzero(~self.rows["alive"][rows])
        if unborn.size:
            fresh, first = np.unique(rows[unborn], return_index=True)
            self.graph.initialise(fresh + self.first, fingerprints(ids[at] for at in unborn[first]))
        return rows + np.int32(self.first)

    def lookup(self, ids: Iterable[str]) -> np.ndarray:
        """int32 [n]: the graph's row of each id, -1 where it has none. Changes nothing."""
        rows = self.ids.lookup(ids)
        return np.where(rows < 0, rows, rows + np.int32(self.first))

    def remove(self, id_: str, version: int) -> None:
        """Free the row of `id_` if it has one."""
        row = self.ids.remove(id_)
        if row >= 0:
            self._clear(id_, row, version)

    def evict(self, version: int) -> None:
        """Make room for the next segment: the rows go whose last use, and whose edges, count least."""
        for id_, row in self.ids.evict(self._credit if self.graph.config.stay_per_doubling else None):
            self._clear(id_, row, version)

    def _credit(self) -> np.ndarray:
        """int64 [size]: uses by which a row of so many edges stays longer."""
        worth = self.graph.config.stay_per_doubling * self.ids.capacity
        credit: np.ndarray = (worth * np.log2(1.0 + self.rows["edges"][: self.ids.size])).astype(np.int64)
        return credit

    def _clear(self, id_: str, row: int, version: int) -> None:
        self.removed[id_] = (version, int(self.rows["event_ms"][row]))
        self.graph.free(self.first + row)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n, 2 d]: of users, mirrored of items, so that their product and the item's bias are the score."""
        return self.graph.vectors(rows.astype(np.int64) + self.first, self.biased)

    def biases(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n]: what is added to the product."""
        return self.graph.biases(rows.astype(np.int64) + self.first)

    def touch_next(self, rows: int) -> bool:
        """See `Learner.touch_next`."""
        span, ended = self.rounds.take(rows, self.ids.size)
        for marks in (self.touched, self.met):
            marks[span] |= self.rows["alive"][span][: marks.size]
        return ended

    def take_touched(self) -> np.ndarray:
        """int64: rows whose vectors changed since the last call."""
        return self._take(self.touched)

    def take_met(self) -> np.ndarray:
        """int64: rows whose memory changed since the last call."""
        return self._take(self.met)

    def _take(self, marks: np.ndarray) -> np.ndarray:
        """int64: the rows marked, which are so no longer."""
        rows = np.flatnonzero(marks[: self.ids.size])
        marks[rows] = False
        return rows

    def take_removed(self) -> list[tuple[str, int, int]]:
        """(id, version, event time) of the ids removed since the last call and not back since."""
        if not self.removed:
            return []
        gone = [(id_, version, event_ms) for id_, (version, event_ms) in self.removed.items()]
        self.removed.clear()
        back = self.ids.lookup([row[0] for row in gone]) >= 0
        return list(compress(gone, ~back))

    def publish(self, kind: str) -> dict[str, pl.DataFrame]:
        """`{kind}_vectors`, with a memory-aware score `{kind}_memory`: rows changed and ids removed since the last call, of which the
        values are null."""
        gone, rows = self.take_removed(), self.take_touched()
        vector = pl.Array(pl.Float32, 2 * self.graph.config.dimensions)
        bias = {"bias": (pl.Float32(), self.biases(rows))} if self.biased else {}
        behind = self.rows["version"][rows], self.rows["event_ms"][rows]
        tables = {f"{kind}_vectors": self._told(rows, behind, gone, {"vector": (vector, self.vectors(rows)), **bias})}
        if self.graph.config.remembers:
            rows = self.take_met()
            records = records_of(self.graph, rows + self.first)
            memory = records.view(np.uint8).reshape(rows.size, records.itemsize)
            behind = self.rows["met_version"][rows], self.rows["last_ms"][rows]
            tables[f"{kind}_memory"] = self._told(rows, behind, gone, {"memory": (pl.Array(pl.UInt8, records.itemsize), memory)})
        return tables

    def _told(
        self, rows: np.ndarray, behind: tuple[np.ndarray, np.ndarray], gone: list[tuple[str, int, int]], own: dict[str, Own]
    ) -> pl.DataFrame:
        """A table of rows that are there, with the version and newest event behind each, and of ids that are not."""
        ids, removed = [self.ids.ids[row] for row in rows], np.zeros(rows.size, np.bool_)
        base = {"id": ids, "version": behind[0], "event_ms": behind[1], "removed": removed}
        schema = pl.Schema({**DELTA_BASE, **{name: dtype for name, (dtype, _) in own.items()}})
        changed = from_columns(schema, {**base, **{name: values for name, (_, values) in own.items()}})
        if not gone:
            return changed
        left = pl.DataFrame([(*row, True) for row in gone], schema=DELTA_BASE, orient="row")
        return pl.concat([changed, left.with_columns(pl.lit(None, dtype).alias(name) for name, (dtype, _) in own.items())])

    def snapshot(self, into: Snapshot) -> None:
        self.ids.snapshot(into)
        self.rows.snapshot(into, self.ids.size)
        touched, met = np.flatnonzero(self.touched).tolist(), np.flatnonzero(self.met).tolist()
        state = {"extent": self._extent, "touched": touched, "met": met, "removed": self.removed, "next_row": self.rounds.next_row}
        into.write("nodes.json", msgspec.json.encode(state))

    def restore(self, directory: Path) -> None:
        self.ids.restore(directory)
        self.rows.restore(directory)
        state = msgspec.json.decode((directory / "nodes.json").read_bytes())
        self.graph.table.extent[self.type], self.touched[state["touched"]] = state["extent"], True
        self.met[state.get("met", [])] = True
        self.removed = {id_: tuple(entry) for id_, entry in state["removed"].items()}
        self.rounds.next_row = state["next_row"]

    def digest(self) -> str:
        return f"{self.ids.digest()} {self.rows.digest(np.arange(self.ids.size))} {self._extent}"

    @property
    def _extent(self) -> int:
        return int(self.graph.table.extent[self.type])
