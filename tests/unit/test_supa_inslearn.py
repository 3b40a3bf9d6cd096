"""InsLearn against a slow twin that copies the whole table where the other undoes rows, and that ranks every validation edge naively."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from supa_logs import SMALL, assert_same_tables, examples, feed, mixed, run
from supa_reference import BUSY, START_MS, Contact, World, bits_of, stream, times

from core.composite import CompositeStage
from learners.supa import SupaConfig, SupaLearner, inslearn, kernel
from learners.supa.kernel import NEVER_MS
from learners.supa.passes import Pending, relearn_many, validate
from learners.supa.sampling import Edge
from learners.supa.undo import COPIED
from tests.snapshots import save

PASSES: dict[str, Any] = {"passes": 5, "batch_edges": 40, "validation_edges": 12, "validate_every": 2}
PATIENT: dict[str, Any] = {"passes": 10, "validate_every": 1, "patience": 2, "rate": 0.005}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    PATIENT,
    {"passes": 3, "validate_every": 10, "short_vector": True, "loss": "sigmoid", "interaction": True, "propagation": "logit", "rate": 0.05},
    {"passes": 4, "validate_every": 1, "patience": 3, "forget_half_life_seconds": 86_400.0 * 200, "serving": "published", "rate": 0.03},
)
RIVALS_STREAM = 0x53500020
Parameters = dict[str, np.ndarray]


def passing(**changes: Any) -> SupaConfig:
    return replace(BUSY, **{**PASSES, **changes})


# ---- the twin


class Twin:
    """Learns edge by edge into a table without passes, and makes them itself.

    Attributes:
        kept, undone: validations that found the table better, and not.
        resumed: those that found it better after as many failures in all as may come in a row.
    """

    def __init__(self, config: SupaConfig) -> None:
        self.config, self.world = config, World(replace(config, passes=0))
        self.pending: list[tuple[Edge, tuple[int, int]]] = []  # and generations of the ends
        self.stored: Parameters = {}
        self.kept = self.undone = self.resumed = 0

    def learn(self, contact: Contact) -> None:
        table, rows = self.world.table, self.world.rows(contact)
        born = [row for row in rows if not table.alive[row]]
        passed = [0 if row in born else contact[3] - int(table.last_ms[row]) for row in rows]
        edge = self.world.edge(contact, (passed[0], passed[1]), contact[3] - 1)
        for row in born if self.stored else []:
            self._store(row, contact[3])
        self.world.learn(contact)
        generation = table.neighbours.generation
        self.pending.append((edge, (int(generation[rows[0]]), int(generation[rows[1]]))))
        if len(self.pending) == self.config.batch_edges:
            self.stored = self.copied()
        if len(self.pending) == self.config.batch_edges + self.config.validation_edges:
            self._pass_again()

    def remove(self, id_: str) -> int:
        row = self.world.remove(id_)
        for name in COPIED if self.stored else ():
            self.stored[name][row] = 0
        return row

    def _store(self, row: int, ts_ms: int) -> None:
        """One that comes on trial stays, as it came."""
        for name in COPIED:
            self.stored[name][row] = getattr(self.world.table, name)[row]
        self.stored["faded_ms"][row] = ts_ms

    def copied(self) -> Parameters:
        return {name: getattr(self.world.table, name).copy() for name in (*COPIED, "alpha", "alpha_sum")}

    def _put_back(self, parameters: Parameters) -> None:
        for name, array in parameters.items():
            getattr(self.world.table, name)[:] = array

    def _pass_again(self) -> None:
        config, batch = self.config, self.pending[: self.config.batch_edges]
        self._put_back(self.stored)
        best, parameters, failures, undone = self.mrr(), self.copied(), 0, self.undone
        for number in range(1, config.passes + 1):
            self._relearn(batch)
            if number % config.validate_every and number < config.passes:
                continue
            score = self.mrr()
            failures = 0 if score > best else failures + 1
            self.kept, self.undone = self.kept + (score > best), self.undone + (score <= best)
            if score > best:
                best, parameters, self.resumed = score, self.copied(), self.resumed + (self.undone - undone >= config.patience)
            elif failures == config.patience:
                break
        self._put_back(parameters)
        self._relearn(self.pending[config.batch_edges :])
        self.pending, self.stored = self.pending[config.batch_edges :], {}

    def _there(self, generations: tuple[int, int], edge: Edge) -> bool:
        held = self.world.table.neighbours.generation
        return (int(held[edge.ends[0]]), int(held[edge.ends[1]])) == generations

    def _relearn(self, edges: Sequence[tuple[Edge, tuple[int, int]]]) -> None:
        for edge, generations in edges:
            if self._there(generations, edge):
                assert kernel.relearn(self.world.table, edge, self.world.rule, self.world.scratch()) == 0

    def mrr(self) -> float:
        """Of the validation edges, either end asked among a thousand draws of all nodes."""
        edges, table = self.pending[self.config.batch_edges :], self.world.table
        nodes = [first + k for first, extent in zip(table.first, table.extent, strict=True) for k in range(extent)]
        rivals = [nodes[bits * len(nodes) >> 32] for bits in bits_of(self.config, RIVALS_STREAM, edges[0][0].ordinal, 1000)]
        ranks = list[float]()
        for edge, generations in edges:
            if self._there(generations, edge):
                ends = [int(row) for row in edge.ends]
                ranks += [self._rank(*ends, edge.relation, rivals), self._rank(*ends[::-1], edge.relation, rivals)]
        return float(np.mean([1 / rank for rank in ranks])) if ranks else 0.0

    def _rank(self, row: int, true: int, relation: int, rivals: list[int]) -> float:
        graph, asked = self.world.graph, np.array([true, *(rival for rival in rivals if rival != true and self.world.table.alive[rival])])
        own, others = graph.vectors(np.array([row]), False, relation), graph.vectors(asked, True, relation)
        scores = others @ own[0] + graph.biases(asked, relation)
        return float(1 + (scores[1:] > scores[0]).sum() + (scores[1:] == scores[0]).sum() / 2)


def same(world: World, twin: World) -> None:
    """All rows, to the byte."""
    ours, theirs = world.table, twin.table
    for name in (*COPIED, "alpha", "alpha_sum", "last_ms", "edges", "alive", "extent"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    for name, array in ours.neighbours._asdict().items():
        assert np.array_equal(array, getattr(theirs.neighbours, name)), name


# ---- tests


@pytest.mark.parametrize("changes", KINDS)
def test_the_rows_are_those_of_the_twin_whatever_the_calls(changes: dict[str, Any]) -> None:
    config, contacts = passing(**changes), stream(230, seed=5)
    twin, worlds = Twin(config), {cut: World(config) for cut in (1, 7, 40, 52, 230)}
    for start in range(0, len(contacts), 10):
        for contact in contacts[start : start + 10]:
            twin.learn(contact)
        worlds[1].learn(*contacts[start : start + 1])
        for contact in contacts[start + 1 : start + 10]:
            worlds[1].learn(contact)
        same(worlds[1], twin.world)
    assert twin.kept > 0 < twin.undone and (twin.resumed > 0 or changes is not PATIENT), "some passes help and some do not"
    for cut, world in worlds.items():
        for start in range(0, len(contacts) if cut > 1 else 0, cut):
            world.learn(*contacts[start : start + cut])
        same(world, twin.world)


@pytest.mark.parametrize("at", [20, 45, 51, 53, 85])
def test_nodes_removed_while_their_edges_wait(at: int) -> None:
    """In a batch, on trial and after; their rows go to others at once."""
    config, contacts = passing(rate=0.02, validate_every=1), stream(200, seed=5, users=6, items=9)
    twin, world = Twin(config), World(config)
    for ordinal, (user, item, relation, ts_ms) in enumerate(contacts):
        leaves = ordinal in (at, at + 2, at + 5)
        if leaves:
            gone = contacts[ordinal - 1][ordinal % 2]
            assert world.remove(gone) == twin.remove(gone)
        contact = (user, f"i{ordinal}" if leaves else item, relation, ts_ms)
        twin.learn(contact)
        world.learn(contact)
        same(world, twin.world)


def test_without_passes_it_only_learns() -> None:
    one, other = World(passing(passes=0)), World(BUSY)
    for world in (one, other):
        world.learn(*stream(120))
    same(one, other)


def test_rows_that_are_no_edge_change_no_batch() -> None:
    """They stand between edges, and before and after the places where passes begin."""
    config, contacts = passing(), stream(120, seed=5)
    plain, between = World(config), World(config)
    plain.learn(*contacts)
    twice = [contact for contact in contacts for _ in range(2)]
    ends, relation, ts_ms = np.array([between.rows(contact) for contact in twice], np.int32), np.array([c[2] for c in twice]), times(twice)
    relation[::2] = -1
    between.graph.learn(ends, relation, ts_ms, 0)
    assert np.array_equal(between.table.edges, plain.table.edges) and between.graph._inslearn.held == plain.graph._inslearn.held
    again, told = World(config), np.zeros((240, 2 * config.dimensions), np.float32)
    assert np.array_equal(np.array([again.rows(contact) for contact in twice]), ends)
    for k in range(240):
        at = slice(k, k + 1)
        again.graph.learn(ends[at], relation[at], ts_ms[at], k, told[at])
    same(again, between)
    assert told[1::2].any(axis=1).all(), "what is asked of each row is told, whatever passes come after it"


@pytest.fixture
def pending() -> Callable[[World, Sequence[Contact]], Pending]:
    """Edges learned in one call, as they wait."""

    def learned(world: World, contacts: Sequence[Contact]) -> Pending:
        run = world.run(*contacts)
        world.learn_run(run, world.scratch())
        generation = world.table.neighbours.generation[run.ends]
        ordinal = run.first_ordinal + np.arange(len(contacts))
        return Pending(run.ends, generation, run.relation, np.array(run.ts_ms), ordinal, run.ages_ms)

    return learned


def test_edges_are_learned_again_as_of_their_time(pending: Callable[[World, Sequence[Contact]], Pending]) -> None:
    """Their ordinals, ages and times; of the edges since, a walk sees none."""
    one, other = World(BUSY), World(BUSY)
    waiting = [pending(world, stream(150)) for world in (one, other)]
    assert relearn_many(one.table, waiting[0], 20, 60, one.rule, one.scratch(), 150, START_MS) == 0
    for k in range(20, 60):
        of = waiting[1]
        ends = (of.ends[k, 0], of.ends[k, 1])
        edge = Edge(
            ends, int(of.relation[k]), int(of.ts_ms[k]), int(of.ordinal[k]), tuple(of.ages_ms[k].tolist()), int(of.ts_ms[k]) - 1, (0, 0)
        )
        assert kernel.relearn(other.table, edge, other.rule, other.scratch()) == 0
    same(one, other)
    assert one.table.edges.sum() == 300, "they are not remembered twice"


@pytest.mark.parametrize("rivals", [1000, 7, 0])
def test_the_score_of_a_validation_is_the_naive_one(pending: Callable[[World, Sequence[Contact]], Pending], rivals: int) -> None:
    twin = Twin(passing(batch_edges=100))
    of = pending(twin.world, stream(150))
    edges = [Edge(tuple(of.ends[k].tolist()), int(of.relation[k]), 0, k, (0, 0), NEVER_MS, (k, 0)) for k in range(150)]
    twin.pending = [(edge, (0, 0)) for edge in edges]
    ours = validate(twin.world.table, of, 100, twin.world.rule, rivals)
    assert ours == 1.0 if rivals == 0 else 0.0 < ours < 1.0
    if rivals == inslearn.RIVALS:
        assert ours == pytest.approx(twin.mrr(), rel=1e-9)
        twin.world.table.alive[:] = False
        assert validate(twin.world.table, of, 100, twin.world.rule, rivals) == 1.0, "the dead are no rivals"


def test_ties_stand_at_their_mean_rank(pending: Callable[[World, Sequence[Contact]], Pending]) -> None:
    world = World(BUSY)
    of = pending(world, stream(150))
    for array in (world.table.long, world.table.context, world.table.bias):
        array[:] = 0
    expected = np.mean([2 / (2 + count) for count in tied(world, of, 149)])
    assert validate(world.table, of, 149, world.rule, 10) == pytest.approx(expected)


def tied(world: World, of: Pending, at: int) -> list[int]:
    """Of ten draws, those that are another than the true end, for both."""
    nodes = [first + k for first, extent in zip(world.table.first, world.table.extent, strict=True) for k in range(extent)]
    drawn = [nodes[bits * len(nodes) >> 32] for bits in bits_of(world.config, RIVALS_STREAM, at, 10)]
    return [sum(row != true for row in drawn) for true in of.ends[at, ::-1].tolist()]


# ---- in a stage

LOG = mixed(420)
CONFIG = replace(SMALL, passes=4, batch_edges=30, validation_edges=9, validate_every=1, patience=2, rate=0.03, short_vector=True)


@pytest.mark.parametrize("cuts", [range(1, 420), range(0, 420, 13), (200,)])
def test_a_stage_gives_the_same_bytes_whatever_the_cuts(cuts: Sequence[int]) -> None:
    whole, cut = run(LOG, config=CONFIG), run(LOG, cuts, CONFIG)
    assert cut.digest() == whole.digest()
    assert np.concatenate(cut.tape).tobytes() == np.concatenate(whole.tape).tobytes()
    assert_same_tables(cut.touched(), whole.touched())
    assert whole.digest() != run(LOG, config=replace(CONFIG, passes=3)).digest()


def test_a_restored_learner_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    """At every place of a batch, of its trial, and where either ends; removals of items are among the rows."""
    whole = CompositeStage([SupaLearner(CONFIG)], 1)
    digests = dict.fromkeys((0, *range(31, 120, 4), *range(300, 420, 17)), "")
    for at in range(LOG.height):
        if at in digests:
            save(whole, tmp_path / f"{at}")
            digests[at] = whole.digest()
        feed(whole, LOG[at : at + 1])
    states = set()
    for at, digest in digests.items():
        resumed = CompositeStage([learner := SupaLearner(CONFIG)], 1)
        resumed.restore(tmp_path / f"{at}")
        assert resumed.digest() == digest
        states.add((learner.graph._inslearn.undo.epoch[0] > 0, learner.graph._inslearn.held > 9))
        feed(resumed, LOG[at:])
        assert resumed.digest() == whole.digest(), at
    assert states == {(False, False), (False, True), (True, True)}, "before a batch is full, and on trial"


def test_a_snapshot_is_no_larger_than_what_waits(tmp_path: Path) -> None:
    """Without passes nothing waits; on trial the rows as they were do."""
    sizes = dict[str, int]()
    for name, config in (("none", replace(CONFIG, passes=0)), ("trial", CONFIG)):
        stage = CompositeStage([SupaLearner(config)], 1)
        feed(stage, examples(("click", f"u{n % 9}", f"i{n % 7}") for n in range(35)))
        save(stage, tmp_path / name)
        sizes[name] = sum(path.stat().st_size for path in (tmp_path / name).rglob("inslearn*"))
    assert sizes["none"] == 0 < sizes["trial"] < 16 * (4 * 8 * 4 + 200) + 35 * 100


def test_edges_wait_as_the_log_had_them() -> None:
    world, contacts = World(passing()), stream(30)
    world.learn(*contacts[:11])
    world.learn(*contacts[11:])
    of, (_, _, _, last_ms) = world.graph._inslearn.pending, contacts[29]
    assert of.ts_ms[:30].tolist() == [contact[3] for contact in contacts] and of.ordinal[:30].tolist() == list(range(30))
    assert of.ends[:30].tolist() == [list(world.rows(contact)) for contact in contacts]
    past = [[other[3] for other in contacts[:29] if other[side] == contacts[29][side]] for side in (0, 1)]
    assert of.ages_ms[29].tolist() == [last_ms - max(times, default=last_ms) for times in past]


def test_what_is_learned_again_is_no_part_of_the_loss() -> None:
    """It would look better with every pass, and weigh more than the edges that came."""
    plain, again = World.grown(replace(BUSY, passes=0), stream(400)), World.grown(passing(), stream(400))
    assert again.graph._loss[1] == plain.graph._loss[1] > 0
    assert again.graph.loss != plain.graph.loss
