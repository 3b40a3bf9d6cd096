"""InsLearn: every edge is learned on arrival; on top of that, further passes over a batch of edges, as far as they help the next ones.

Source: "Instant Representation Learning for Recommendation over Large Dynamic Graphs", ICDE 2023, the section on InsLearn. Changed on
purpose: it validates on the edges *after* the batch, before those are learned; and it returns to the best rows by undoing touched ones.

1. The first `batch_edges` are learned as they come, and kept.
2. So are the next `validation_edges`, but what they change is kept as it was.
3. That is undone. The batch is passed over again, up to `passes` times; every `validate_every` passes the validation edges are scored,
   and where they are no better for `patience` times in a row, all since the best is undone.
4. The validation edges are learned again. They are the first of the next batch.

All of it happens at places of the log that the number of edges fixes, whatever the batches were.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from core.errors import SettingsError
from core.snapshot import Snapshot
from learners.supa import kernel, undo
from learners.supa.config import SupaConfig
from learners.supa.hogwild import Hogwild
from learners.supa.kernel import Run, part_of
from learners.supa.memory import Memory
from learners.supa.passes import Pending, relearn_many, validate
from learners.supa.prequential import judge_run, learn_remembering
from learners.supa.sampling import slot_count
from learners.supa.table import Table

_FILE = "inslearn.msgpack"
RIVALS = 1000  # nodes, drawn anew for each batch, among which the true end of a validation edge is ranked
NO_AGES = np.zeros((0, 2), np.int64)


def no_pending(edges: int) -> Pending:
    """Room for so many."""
    ends, generation = (np.zeros((edges, 2), np.int32) for _ in range(2))
    relation, ts_ms, ordinal = (np.zeros(edges, np.int64) for _ in range(3))
    return Pending(ends, generation, relation, ts_ms, ordinal, np.zeros((edges, 2), np.int64))


@dataclass
class InsLearn:
    """Learns runs of edges into a table.

    State: the batch and validation edges so far, the rows that the latter changed as they were.
    """

    config: SupaConfig
    table: Table
    memory: Memory
    loss: np.ndarray  # float64 [2], as in `kernel.Scratch`. No state: after a restart it begins anew
    held: int = 0  # edges in `pending`
    pending: Pending = field(init=False)

    def __post_init__(self) -> None:
        self.rule = self.config.rule()
        self._rows_per_edge = 2 * slot_count(self.rule.sample)
        self._hogwild = Hogwild(self.config.threads) if self.config.threads > 1 else None
        rows = self.table.alive.size
        self.undo = undo.new_undo(self.table, rows if self.config.passes else 0)
        self.pending = no_pending(self.config.batch_edges + self.config.validation_edges if self.config.passes else 0)

    def learn(self, run: Run) -> int:
        """Learn the edges of a run in order; returns the updates refused."""
        if self._hogwild:
            scratches = [self._scratch(0) for _ in range(self.config.threads)]
            return self._hogwild.learn(self.table, run, self.rule, scratches)
        if not self.config.passes:
            return self._learn(run, 0)
        refused = start = 0
        edges = np.flatnonzero(run.relation >= 0)
        while edges.size:  # up to the edge that completes the batch, or its validation
            take = min(edges.size, self._until_next())
            refused += self._learn_part(run, start, int(edges[take - 1]) + 1)
            start, edges = int(edges[take - 1]) + 1, edges[take:]
        return refused + self._learn_part(run, start, run.relation.size)

    def _learn(self, run: Run, undone: int) -> int:
        """One kernel call; `undone`: edges whose changes are kept track of."""
        scratch = self._scratch(undone)
        if self.memory.every:
            return learn_remembering(self.table, run, self.rule, scratch, self.memory)
        return kernel.learn_run(self.table, run, self.rule, scratch)

    def judge(self, run: Run, first: int, candidates: int) -> tuple[np.ndarray, int]:
        """The rank of the second end of every edge before it is learned, and the updates refused; see `judge_run`.

        Raises:
            SettingsError: with `passes`, an edge changes more than what it says; or there is no score to judge by.
        """
        if self.config.passes:
            raise SettingsError("`passes` must be 0 where edges are judged one by one")
        if not self.memory.every:
            raise SettingsError("`memory_every` must be above 0 where edges are judged, it is 0")
        ranks = np.zeros(run.relation.size)
        return ranks, judge_run(self.table, run, self.rule, self._scratch(0), self.memory, first, candidates, ranks)

    def _until_next(self) -> int:
        """Edges to the end of the batch, or of its validation."""
        batch = self.config.batch_edges
        return batch - self.held if self.held < batch else batch + self.config.validation_edges - self.held

    def _scratch(self, edges: int, again: bool = False) -> kernel.Scratch:
        """Room to learn so many edges; what is learned `again` is no part of the loss."""
        if self.undo.epoch[0]:
            self.undo = undo.with_room(self.undo, min(edges * self._rows_per_edge, int(self.table.extent.sum()) + 2 * edges))
        return kernel.new_scratch(self.rule, self.config.dimensions, np.zeros(2) if again else self.loss, self.undo)

    def _learn_part(self, run: Run, start: int, stop: int) -> int:
        """Rows [start, stop), which reach the end of a batch or a validation at most."""
        part = part_of(run, start, stop)._replace(ages_ms=np.zeros((stop - start, 2), np.int64))
        refused = self._learn(part, stop - start)
        self._keep(part, np.flatnonzero(part.relation >= 0))
        if self.held == self.config.batch_edges and not self.undo.epoch[0]:
            undo.begin(self.undo, self.table)
        if self.held == self.pending.relation.size:
            refused += self._pass_again()
        return refused

    def _keep(self, run: Run, edges: np.ndarray) -> None:
        """Put edges of a run, [n] places in it, among the pending ones."""
        to, of = slice(self.held, self.held + edges.size), self.pending
        of.ends[to], of.relation[to], of.ts_ms[to] = run.ends[edges], run.relation[edges], run.ts_ms[edges]
        of.ordinal[to], of.ages_ms[to] = run.first_ordinal + edges, run.ages_ms[edges]
        of.generation[to] = self.table.neighbours.generation[run.ends[edges]]
        self.held += edges.size

    def _pass_again(self) -> int:
        """Steps 3 and 4; returns the updates refused."""
        batch, whole, of = self.config.batch_edges, self.pending.relation.size, self.pending
        last, now_ms = int(of.ordinal[-1]), int(of.ts_ms.max())
        undo.roll_back(self.undo, self.table, last, now_ms)
        best, refused, failures = self._validate(), 0, 0
        undo.begin(self.undo, self.table)
        for number in range(1, self.config.passes + 1):
            refused += relearn_many(self.table, of, 0, batch, self.rule, self._scratch(batch, again=True), last, now_ms)
            if number % self.config.validate_every == 0 or number == self.config.passes:
                score = self._validate()
                failures = 0 if score > best else failures + 1
                if score > best:
                    best = score
                    undo.begin(self.undo, self.table)
                elif failures == self.config.patience:
                    break
        undo.roll_back(self.undo, self.table, last, now_ms)
        refused += relearn_many(self.table, of, batch, whole, self.rule, self._scratch(0, again=True), last, now_ms)
        for array in of:
            array[: whole - batch] = array[batch:].copy()
        self.held = whole - batch
        return refused

    def _validate(self) -> float:
        """MRR of the validation edges, both ends asked, among the same rivals for all."""
        return validate(self.table, self.pending, self.config.batch_edges, self.rule, RIVALS)

    def snapshot(self, into: Snapshot) -> None:
        if self.config.passes:
            into.write(_FILE, msgspec.msgpack.encode(self._state()))

    def _state(self) -> dict[str, Any]:
        copies, of = int(self.undo.copies[0]), self.undo
        kept = {name: getattr(of, name)[:copies].tobytes() for name in ("row", *undo.COPIED)}
        pending = {name: array[: self.held].tobytes() for name, array in self.pending._asdict().items()}
        alphas = {"alpha": of.alpha.tobytes(), "alpha_sum": of.alpha_sum.tobytes()} if of.epoch[0] else {}
        return {"held": self.held, "undoing": bool(of.epoch[0]), "copies": copies, "pending": pending, "kept": kept, **alphas}

    def restore(self, directory: Path) -> None:
        if not self.config.passes:
            return
        state = msgspec.msgpack.decode((directory / _FILE).read_bytes())
        self.held = state["held"]
        for name, array in self.pending._asdict().items():
            array[: self.held] = np.frombuffer(state["pending"][name], array.dtype).reshape(self.held, *array.shape[1:])
        if state["undoing"]:
            self._restore_undo(state, state["copies"])

    def _restore_undo(self, state: dict[str, Any], copies: int) -> None:
        undo.begin(self.undo, self.table)
        self.undo = undo.with_room(self.undo, copies)
        for name in ("row", *undo.COPIED):
            array = getattr(self.undo, name)
            array[:copies] = np.frombuffer(state["kept"][name], array.dtype).reshape(copies, *array.shape[1:])
        held = self.undo.row[:copies]
        self.undo.kept[held[held >= 0]], self.undo.copies[0] = self.undo.epoch[0], copies
        self.undo.alpha[:], self.undo.alpha_sum[:] = (np.frombuffer(state[name]) for name in ("alpha", "alpha_sum"))

    def digested(self) -> bytes:
        """What makes two states the same."""
        return msgspec.msgpack.encode(self._state()) if self.config.passes else b""
