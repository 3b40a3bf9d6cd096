"""Ids that get a row only after some sightings: the filter against exact counts, and the learner against a log read with a dict."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from supa_logs import EDGES, SMALL, Row, examples, feed, mixed, run

from core.composite import CompositeStage
from core.schemas import ITEM
from learners.supa import SupaLearner, admission
from learners.supa.admission import Sightings
from tests.snapshots import save

AFTER_3 = replace(SMALL, admit_after=3)
LOG = mixed(900, seed=4, users=90, items=120)


# ---- the filter


def ids(count: int, seed: int = 0) -> np.ndarray:
    """uint64 [count, 2], fingerprints."""
    return np.random.default_rng(seed).integers(0, 2**64, (count, 2), np.uint64)


def test_of_few_ids_the_counts_are_exact() -> None:
    filter_, counts, few = Sightings(), Counter[int](), ids(500)
    for at in np.random.default_rng(1).integers(0, 500, 6000).tolist():
        counts[at] += 1
        assert filter_.see(few[at]) == counts[at]


def test_of_many_ids_no_count_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 ids in 256 cells: some counts are too high, and fewer than where every sighting raised both cells."""
    monkeypatch.setattr(admission, "CELLS", 256)
    filter_, counts, many = Sightings(), Counter[int](), ids(300)
    exact = 0
    for at in np.random.default_rng(1).integers(0, 300, 255).tolist():
        counts[at] += 1
        seen = filter_.see(many[at])
        assert seen >= counts[at]
        exact += seen == counts[at]
    assert 120 < exact < 255


def test_one_sighting_raises_the_lower_cell_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "CELLS", 8)
    filter_ = Sightings()
    one, other = np.array([1, 2], np.uint64), np.array([2, 3], np.uint64)
    assert [filter_.see(one), filter_.see(one), filter_.see(other), filter_.see(other)] == [1, 2, 1, 2]
    assert filter_.see(np.array([2, 2], np.uint64)) == 3, "cells shared by both"
    assert filter_.see(np.array([5, 5], np.uint64)) == 1, "one cell twice counts once"


def test_counts_halve_so_that_ids_that_come_once_never_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "CELLS", 64)
    filter_, one = Sightings(), np.array([7, 9], np.uint64)
    seen = [filter_.see(one) for _ in range(64)]
    assert seen == [*range(1, 64), 32], "63 of them halved, and this one"
    for stranger in ids(6400, seed=2):
        last = filter_.see(stranger)
    assert last < 8, "a hundred strangers a cell"


def test_a_count_stays_at_what_a_byte_holds() -> None:
    filter_, one = Sightings(), ids(1)[0]
    seen = [filter_.see(one) for _ in range(300)]
    assert seen[:256] == list(range(1, 257)) and set(seen[256:]) == {256}


def test_a_restored_filter_goes_on_with_the_same_counts(tmp_path: Path) -> None:
    one, other, few = Sightings(), Sightings(), ids(50)
    other.see(ids(1, seed=9)[0])
    for at in range(400):
        one.see(few[at * at % 50])
    save(one, tmp_path)
    other.restore(tmp_path)
    assert other.digested() == one.digested()
    assert [other.see(id_) for id_ in few] == [one.see(id_) for id_ in few]
    assert other.digested() == one.digested() != Sightings().digested()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10_000


# ---- the learner


class Exact:
    """Who has a row after each row of a log, and whose edge is learned."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, Counter[tuple[str, str]]()
        self.users, self.items = set[str](), set[str]()
        self.learned = self.waiting = 0

    def edge(self, user: str, item: str) -> None:
        if self._passes(self.users, "user", user) & self._passes(self.items, "item", item):
            self.users.add(user)
            self.items.add(item)
            self.learned += 1
        else:
            self.waiting += 1

    def _passes(self, known: set[str], kind: str, id_: str) -> bool:
        if id_ in known:
            return True
        self.seen[kind, id_] += 1
        return self.seen[kind, id_] >= self.after

    def read(self, rows: pl.DataFrame) -> None:
        for kind, type_, user, item, entry in rows.select("kind", "type", "user_id", "item_id", "item").iter_rows():
            if type_ in EDGES:
                self.edge(user, item)
            elif kind == ITEM and entry is None:
                self.items.discard(item)


def known(learner: SupaLearner) -> tuple[set[str], set[str]]:
    return {id_ for id_ in learner.users.ids.ids if id_}, {id_ for id_ in learner.items.ids.ids if id_}


@pytest.mark.parametrize("after", [2, 3, 5])
def test_an_edge_is_learned_once_both_ends_were_seen_so_often(after: int) -> None:
    learner, exact = SupaLearner(replace(SMALL, admit_after=after)), Exact(after)
    stage = CompositeStage([learner], 1)
    for start in range(0, LOG.height, 30):
        feed(stage, LOG[start : start + 30])
        exact.read(LOG[start : start + 30])
        assert known(learner) == (exact.users, exact.items)
        assert (learner.updates, learner.waiting) == (exact.learned, exact.waiting)
    assert exact.learned > 20 < exact.waiting


@pytest.mark.parametrize("cuts", [range(1, 900), range(0, 900, 7), (450,)])
def test_any_cut_of_the_log_gives_the_same_bytes(cuts: Sequence[int]) -> None:
    whole, cut = run(LOG, config=AFTER_3), run(LOG, cuts, AFTER_3)
    assert cut.digest() == whole.digest()
    assert cut.waiting == whole.waiting
    assert np.concatenate(cut.tape).tobytes() == np.concatenate(whole.tape).tobytes()


def test_the_first_sightings_are_not_in_the_graph() -> None:
    """What is learned is the third meeting alone, and it counts as one edge."""
    learner = run(examples([("click", "u", "a")] * 4), config=AFTER_3)
    assert (learner.updates, learner.waiting) == (2, 2)
    of = learner.graph.table.neighbours
    assert of.meetings[0, 0] == 2 and learner.graph.table.edges[0] == 2
    assert [bool(vectors.any()) for vectors in learner.tape[0]] == [False, False, True, True]


def test_a_known_user_waits_for_the_item_alone() -> None:
    rows: list[Row] = [("click", "u", "a")] * 3 + [("click", "u", "b")] * 2
    assert known(run(examples(rows), config=AFTER_3)) == ({"u"}, {"a"})
    assert known(run(examples([*rows, ("like", "u", "b")]), config=AFTER_3)) == ({"u"}, {"a", "b"})
    assert known(run(examples([*rows, ("hate", "u", "b")]), config=AFTER_3)) == ({"u"}, {"a"}), "no edge is no sighting"


def test_a_user_and_an_item_of_one_name_are_counted_apart() -> None:
    rows: list[Row] = [("click", "u", "a"), ("click", "u", "a"), ("click", "same", "a"), ("click", "u", "same")]
    assert known(run(examples(rows), config=replace(SMALL, admit_after=2))) == ({"u"}, {"a"})
    assert known(run(examples([*rows, ("click", "same", "a")]), config=replace(SMALL, admit_after=2))) == ({"u", "same"}, {"a"})


def test_a_snapshot_has_the_sightings(tmp_path: Path) -> None:
    whole, stage = run(LOG, config=AFTER_3), CompositeStage([SupaLearner(AFTER_3)], 1)
    feed(stage, LOG[:200])
    save(stage, tmp_path)
    resumed = CompositeStage([learner := SupaLearner(AFTER_3)], 1)
    resumed.restore(tmp_path)
    assert resumed.digest() == stage.digest()
    feed(resumed, LOG[200:])
    assert learner.digest() == whole.digest()


def test_sightings_are_part_of_the_digest() -> None:
    before = examples([("click", "u", "a")])
    assert run(before, config=AFTER_3).digest() != run(before[:0], config=AFTER_3).digest()
    assert run(before, config=AFTER_3).digest() != run(examples([("click", "v", "a")]), config=AFTER_3).digest()


@pytest.mark.parametrize(("was", "now"), [(1, 3), (3, 1)])
def test_admission_may_be_changed_without_a_rebuild(tmp_path: Path, was: int, now: int) -> None:
    stage = CompositeStage([SupaLearner(replace(SMALL, admit_after=was))], 1)
    feed(stage, LOG[:300])
    save(stage, tmp_path)
    resumed = CompositeStage([learner := SupaLearner(replace(SMALL, admit_after=now))], 1)
    resumed.restore(tmp_path)
    feed(resumed, LOG[300:])
    assert learner.updates > 0 and bool(learner.waiting) == (now > 1)


def test_ids_that_come_once_for_ever_get_no_row_and_fill_no_snapshot(tmp_path: Path) -> None:
    learner = SupaLearner(replace(SMALL, admit_after=2))
    stage, sizes = CompositeStage([learner], 1), list[int]()
    for name, count in (("few", 0), ("many", 4000)):
        feed(stage, examples(("click", f"u{n}", f"i{n}") for n in range(count, count + 4000)))
        save(stage, tmp_path / name)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / name).rglob("*") if path.is_file()))
    assert learner.waiting == 8000 and known(learner) == (set(), set())
    assert sizes[1] < 6 * 8000 * 4 + 10_000, "five bytes a cell, up to 5 MiB for 2^20 of them"
    assert learner.graph.table.edges.sum() == 0 and len(learner.touched()["user_vectors"]) == 0
