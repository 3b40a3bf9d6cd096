"""What every learner in `learners/` must keep: see `core.stage.Learner` and CONTRIBUTING.md."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from polars.testing import assert_frame_equal

import learners
from core.ids import SEGMENT_ROWS
from core.snapshot import Snapshot
from core.stage import Learner, Silent
from learners.labels import LabelLearner, LogisticConfig
from learners.supa import SupaConfig, SupaLearner
from learners.tokenizer import TokenizerConfig, TokenizerLearner
from tests.learner_contract import (
    BEHAVIOUR,
    ITEMS,
    LABELS,
    NUMBERS,
    USERS,
    Factory,
    Key,
    Log,
    Run,
    Tables,
    Told,
    apply,
    bytes_in,
    endless_rows,
    event,
    is_learner,
    learners_of,
    log_of,
    mixed_rows,
    remove,
    rows_of,
)
from tests.snapshots import save

SEED, OTHER_SEED = 3, 4
CAPACITY = 2048  # the least that a table of ids can have
LATE_MS = 10_000_000  # an event from before the log
LEAVING, UNSEEN = ITEMS[1:5], ["i61", "i62", "i63", "i64"]  # pairs of one direction
RELATIONS = (("engage", ("click", "like")), ("buy", ("purchase",)))
LOG = log_of([*mixed_rows(1598), remove(ITEMS[1]), remove(ITEMS[2])])  # the tokenizer lets go of its first codebook at row 1536
TOLD_AT = (700, 1590, 1600)
PUBLISHED = {"loss": "sigmoid", "interaction": True, "propagation": "logit", "short_vector": True}
PASSES = {"passes": 4, "batch_edges": 70, "validation_edges": 30, "validate_every": 2}


def supa(seed: int, **settings: Any) -> SupaLearner:
    """`settings`: besides the small ones. First vectors, which are drawn by id, are short beside what is learned: see `check_removals`."""
    config = SupaConfig(
        seed=seed, dimensions=16, relations=RELATIONS, max_users=CAPACITY, max_items=CAPACITY, ring_size=4, walks=2, walk_length=3,
        negatives=6, initial_scale=0.05,
    )  # fmt: skip
    return SupaLearner(replace(config, **settings))


def tokenizer(seed: int) -> TokenizerLearner:
    config = TokenizerConfig(
        seed=seed, behaviour_dimensions=BEHAVIOUR, content_dimensions=8, capacity=CAPACITY, levels=2, words=6, min_items=24,
        refresh_seconds=60, active_seconds=600, slice_items=6, slice_seconds=30, kept_codebooks=1,
    )  # fmt: skip
    return TokenizerLearner(config)


def labels(seed: int) -> LabelLearner:
    return LabelLearner(LogisticConfig(seed=seed, labels=LABELS, buckets=64, numerics=NUMBERS))


# The class, and what sets this instance apart from another of it: a small one with the seed.
FACTORIES: dict[str, Factory] = {
    "SupaLearner": supa,
    "SupaLearner with short vectors": lambda seed: supa(seed, short_vector=True),
    "SupaLearner with events that undo": lambda seed: supa(seed, undo_types=("hate",)),
    "SupaLearner with every loss as published": lambda seed: supa(seed, **PUBLISHED),
    "SupaLearner served as published": lambda seed: supa(seed, serving="published"),
    "SupaLearner with passes": lambda seed: supa(seed, short_vector=True, **PASSES),
    "SupaLearner with a memory-aware score": lambda seed: supa(seed, memory_every=2),
    "SupaLearner that forgets": lambda seed: supa(seed, forget_half_life_seconds=600.0),
    "TokenizerLearner": tokenizer,
    "LabelLearner": labels,
}

# (class or instance, check) -> why it does not hold for it.
OPT_OUTS = {
    ("SupaLearner with passes", "changes"): "what is learned on trial at a row of the log is taken back there",
    ("TokenizerLearner", "scores"): "tokens are for others to read, the tokenizer itself prefers nothing",
    ("LabelLearner", "scores"): "it knows impressions, by hashes of their ids; a pair alone has no features",
    ("LabelLearner", "removals"): "ids share its buckets, so that no item has a row that could go",
}


# ---- checks


def assert_same(one: Run, other: Run) -> None:
    assert one.learner.digest() == other.learner.digest()
    assert one.scores() == other.scores()
    assert_same_tables(one.learner.touched(), other.learner.touched())


def assert_same_tables(told: Tables, others: Tables) -> None:
    assert told.keys() == others.keys()
    for name, frame in told.items():
        assert_frame_equal(frame, others[name], check_exact=True)


def check_cuts(make: Factory) -> None:
    """One call with n rows equals n calls with one, any others, and some with none."""
    random, n = np.random.default_rng(0), LOG.rows.height
    whole, expected = cut_at([], make)
    around = [0, SEGMENT_ROWS - 1, SEGMENT_ROWS, SEGMENT_ROWS, SEGMENT_ROWS + 1]
    for stops in (range(n), around, *(random.integers(0, n, count).tolist() for count in (1, 4, 30))):
        cut, told = cut_at(stops, make)
        assert cut.columns() == whole.columns()
        for at, tables in expected.items():
            assert_same_tables(told[at], tables)
        assert cut.learner.digest() == whole.learner.digest()
        assert cut.scores() == whole.scores()


def cut_at(stops: Iterable[int], make: Factory) -> tuple[Run, dict[int, Tables]]:
    """All of the log in pieces that end there, and what is told at the rows `TOLD_AT`."""
    run, told = Run(make(SEED), LOG), dict[int, Tables]()
    for stop in sorted([*stops, *TOLD_AT]):
        run.learn(stop)
        if stop in TOLD_AT and stop not in told:
            told[stop] = run.learner.touched()
    return run, told


def check_seeds(make: Factory) -> None:
    """The seed says all that is random, and is used."""
    one, again, other = (Run(make(seed), LOG).learn() for seed in (SEED, SEED, OTHER_SEED))
    assert one.learner.digest() == again.learner.digest() != other.learner.digest()
    assert make(SEED).digest() != one.learner.digest(), "it learned nothing"


def check_inputs(make: Factory) -> None:
    """Parts share the rows, and what was read out of them."""
    log = log_of(mixed_rows(600))
    before = log.contents()
    run = Run(make(SEED), log).learn()
    assert log.contents() == before
    for name in log.rows.columns:
        assert run.opened.texts(name) == log.rows[name].to_list(), name


def check_unseen(make: Factory) -> None:
    """Of ids that never were nothing is known, and asking changes nothing."""
    for run in (Run(make(SEED), LOG), Run(make(SEED), LOG).learn()):
        run.learner.touched()
        before = run.learner.digest()
        for user in (USERS[0], "u999"):
            for items in ([], ["i999"], ["i999", *ITEMS, "i999", ITEMS[0]]):
                check_unseen_among(run, user, items)
        assert run.learner.digest() == before
        assert not rows_of(run.learner.touched())


def check_unseen_among(run: Run, user: str, items: list[str]) -> None:
    asked, unseen = list(items), np.array([user == "u999" or item == "i999" or not run.ordinal for item in items], dtype=np.bool_)
    scores = run.learner.score(user, asked)
    assert scores.dtype == np.float32 and scores.shape == (len(items),)
    assert np.isnan(scores[unseen]).all()
    assert asked == items


def check_scores(make: Factory) -> None:
    """What is known has a score, the same one whatever else is asked for."""
    run = Run(make(SEED), log_of([event(USERS[n % 7], ITEMS[n % 5]) for n in range(100)])).learn()
    scores = run.learner.score(USERS[0], ITEMS[:5])
    assert np.isfinite(scores).all() and np.unique(scores).size > 1
    assert scores.tobytes() == b"".join(run.learner.score(USERS[0], [item]).tobytes() for item in ITEMS[:5])


def check_snapshots(make: Factory) -> None:
    """Restored in the middle, whether rows wait to be told or not, it goes on as if it had not stopped."""
    for first, second in ((0, 0), (100, 301), (256, 512), (700, 700), (640, 1290), (1400, 1540)):
        whole, run = Run(make(SEED), LOG), Run(make(SEED), LOG)
        for each in (whole, run):
            each.learn(first).learner.touch_next(9)
            each.learner.touched()
        with TemporaryDirectory() as name:
            back = restarted(run, second, make, Path(name))
        assert run.learn().learner.digest() == whole.learn().learner.digest(), "a snapshot changed the state"
        assert_same(back.learn(), whole)
        assert back.learner.touch_next(9) == whole.learner.touch_next(9), "a round does not go on where it was"
        assert_same(back, whole)


def restarted(run: Run, at: int, make: Factory, directory: Path) -> Run:
    """What comes back of a snapshot at row `at`, after one before it. It reaches the disk while the learner goes on."""
    save(run.learner, directory / "1")
    (directory / "2").mkdir()
    into = Snapshot(directory / "2", directory / "1")
    run.learn(at).learner.snapshot(into)
    back = Run(make(SEED), run.log)
    back.ordinal, expected = run.ordinal, run.learner.digest()
    run.learn(min(at + 50, run.log.rows.height))
    into.flush()
    back.learner.restore(directory / "2")
    assert back.learner.digest() == expected
    return back


def check_touched(make: Factory) -> None:
    """After each batch it tells the rows that a cache must change, and once."""
    for batch, end in ((1, 400), (8, LOG.rows.height)):  # segments end where batches do
        run, twin, held, count = Run(make(SEED), LOG), Run(make(SEED), LOG), dict[Key, Told](), 0
        for stop in range(batch, end + 1, batch):
            told = rows_of(run.learn(stop).learner.touched())
            assert not rows_of(run.learner.touched()), "told twice"
            after = twin.learn(stop).served()
            check_told(told, held, after)
            check_versions([row.version for _, row in told], stop - batch, stop)
            held, count = after, count + len(told)
        assert bool(count) == run.learner.publishes
        assert run.learner.digest() == twin.learner.digest(), "telling changed the state"


def check_told(told: list[tuple[Key, Told]], before: dict[Key, Told], after: dict[Key, Told]) -> None:
    """Against all that was served before and after."""
    changed, gone = ({key: row for key, row in told if row.removed == removed} for removed in (False, True))
    assert len(changed) + len(gone) == len(told), "a row is told twice at once"
    assert changed == {key: row for key, row in after.items() if before.get(key) != row}
    assert before.keys() - after.keys() <= gone.keys() and not gone.keys() & after.keys()


def check_changes(make: Factory) -> None:
    """After each row of the log it tells no row that is as it was told; after more, one may have changed and changed back."""
    run, held = Run(make(SEED), LOG), dict[Key, Told]()
    for stop in range(1, 401):
        told = rows_of(run.learn(stop).learner.touched())
        for key, row in told:
            assert not row.removed or key in held, "a row goes that was not served"
            assert row.removed or key not in held or row.own != held[key].own, "what is served is the same"
        apply(told, held)


def check_versions(versions: list[int], start: int, stop: int) -> None:
    """Of rows [start, stop); where a segment ends with them, what is maintained may have the ordinal that comes next."""
    assert all(start <= version < stop + (stop % SEGMENT_ROWS == 0) for version in versions)


def check_removals(make: Factory) -> None:
    """Of a removed item nothing is left: it comes back like one that never was, not like itself.

    The last is removed first: where the row freed last is used first, each comes back to its own, with what may have been left there.
    """
    history = [*mixed_rows(596, seed=5), *(event(USERS[0], item) for item in LEAVING)]
    removals, nothing = [remove(item) for item in reversed(LEAVING)], [event(USERS[0], ITEMS[9], "impression") for _ in LEAVING]
    removed, fresh, kept = (
        Run(make(SEED), log_of([*history, *rows, *(event(USERS[0], item, late_ms=LATE_MS) for item in back)]))
        for rows, back in ((removals, LEAVING), (removals, UNSEEN), (nothing, LEAVING))
    )
    check_gone(removed)
    back, new, as_before = (rows_served(run.learn(), ids) for run, ids in ((removed, LEAVING), (fresh, UNSEEN), (kept, LEAVING)))
    assert all(row.version >= 604 and row.event_ms <= removed.log.rows["ts_ms"][-1] for row in back), "it knows of events before it went"
    assert distance(back, new) < 0.5 * distance(back, as_before), "it comes back as it was"
    scores = [run.learner.score(USERS[0], LEAVING) for run in (removed, kept)]
    assert np.isnan(scores).all() or (scores[0] != scores[1]).all()


def check_gone(run: Run) -> None:
    """Learn up to the removals, rows 600 to 603, and see that they are told and heeded."""
    rows_served(run.learn(600), LEAVING)
    gone = sorted((table, id_, row) for (table, id_), row in rows_of(run.learn(604).learner.touched()) if id_ in LEAVING)
    expected = [(table, id_, 603 - k, True) for table in sorted({row[0] for row in gone}) for k, id_ in enumerate(LEAVING)]
    assert gone and [(table, id_, row.version, row.removed) for table, id_, row in gone] == expected
    assert all(value is None for _, _, row in gone for value in row.own)
    assert not {id_ for _, id_ in run.served()} & set(LEAVING)
    assert np.isnan(run.learner.score(USERS[0], LEAVING)).all()


def rows_served(run: Run, ids: list[str]) -> list[Told]:
    """The rows of each, which must have one in every table that has one of it."""
    rows = run.served()
    tables = sorted({table for table, id_ in rows if id_ in ids})
    assert tables and all((table, id_) in rows for table in tables for id_ in ids), "nothing is served of an item that was met"
    return [rows[table, id_] for table in tables for id_ in ids]


def distance(rows: list[Told], others: list[Told]) -> float:
    """Euclidean, over all numbers served; bytes are no numbers to take the distance of."""
    ours, theirs = (
        np.concatenate([np.ravel(np.array(value, float)) for row in some for value in row.own if not isinstance(value, bytes)])
        for some in (rows, others)
    )
    return float(np.linalg.norm(ours - theirs))


def check_bounds(make: Factory) -> None:
    """Ids without end: tables make room and tell it, and nothing else keeps the ids."""
    filled, end = 10 * SEGMENT_ROWS, 24 * SEGMENT_ROWS
    run, held, sizes = Run(make(SEED), log_of(endless_rows(end))), dict[Key, Told](), list[int]()
    for stop in range(SEGMENT_ROWS, end + 1, SEGMENT_ROWS):
        apply(rows_of(run.learn(stop).learner.touched()), held)
        assert all(len(table) < table.capacity <= CAPACITY for table in run.learner.tables.values())
        if stop in (filled, end):
            sizes.append(snapshot_bytes(run))
    assert all(table.evicted > 0 for table in run.learner.tables.values())
    assert sizes[1] - sizes[0] < 4 * (end - filled), "a snapshot grows by bytes for each new id"
    assert run.served() == held


def snapshot_bytes(run: Run) -> int:
    with TemporaryDirectory() as name:
        save(run.learner, Path(name))
        return bytes_in(Path(name))


def check_rounds(make: Factory) -> None:
    """`touch_next` tells what a cache holds that heard everything: each row once a round, as it is."""
    run, held = Run(make(SEED), LOG), dict[Key, Told]()
    for stop in range(100, LOG.rows.height + 1, 100):
        apply(rows_of(run.learn(stop).learner.touched()), held)
    before = run.learner.digest()
    for rows in (7, 10_000, 1):
        told = run.round(rows)
        assert Counter(key for key, _ in told) == Counter(held.keys())
        assert dict(told) == held
    assert run.learner.digest() == before


CHECKS = {
    "cuts": check_cuts,
    "seeds": check_seeds,
    "inputs": check_inputs,
    "unseen": check_unseen,
    "scores": check_scores,
    "snapshots": check_snapshots,
    "touched": check_touched,
    "changes": check_changes,
    "removals": check_removals,
    "bounds": check_bounds,
    "rounds": check_rounds,
}


# ---- tests


def class_of(instance: str) -> str:
    return instance.split()[0]


@pytest.mark.parametrize(
    ("instance", "check"),
    [(name, check) for name in FACTORIES for check in CHECKS if not {(name, check), (class_of(name), check)} & OPT_OUTS.keys()],
)
def test_a_learner_keeps_the_contract(instance: str, check: str) -> None:
    CHECKS[check](FACTORIES[instance])


def test_every_learner_is_held_to_the_contract() -> None:
    """Both ways: what is found has a factory, and what has a factory is found."""
    found, made = learners_of(learners), {class_of(name) for name in FACTORIES}
    where = "FACTORIES in tests/contract/test_learners.py"
    assert len(set(found)) == len(found), "two learners have one name"
    assert set(found) <= made, f"add a small instance of {sorted(set(found) - made)} to {where}"
    assert made <= set(found), f"learners/ has no {sorted(made - set(found))}: take them out of {where}"


@pytest.mark.parametrize("instance", FACTORIES)
def test_a_factory_makes_an_instance_of_its_class(instance: str) -> None:
    made: Learner = FACTORIES[instance](SEED)
    assert (type(made).__name__, type(made.name), type(made.publishes)) == (class_of(instance), str, bool)


@pytest.mark.parametrize("opt_out", OPT_OUTS, ids=" ".join)
def test_an_opt_out_is_needed(opt_out: tuple[str, str]) -> None:
    name, check = opt_out
    assert name in FACTORIES and OPT_OUTS[opt_out]
    with pytest.raises(AssertionError):
        CHECKS[check](FACTORIES[name])


def test_what_counts_as_a_learner() -> None:
    class Ours(Silent):
        """Its name comes with the instance."""

        learn_many = snapshot = restore = digest = SupaLearner.learn_many

    assert is_learner(Ours, __name__)
    assert is_learner(SupaLearner, "learners.supa.learner")
    assert not is_learner(SupaLearner, "learners.supa"), "it is only imported there"
    assert not is_learner(Silent, "core.stage"), "it learns nothing yet"
    assert not is_learner(Learner, "core.stage"), "it is the protocol"
    assert not is_learner(supa(SEED), "learners.supa.learner"), "it is no class"
    assert not is_learner(Log, Log.__module__)
