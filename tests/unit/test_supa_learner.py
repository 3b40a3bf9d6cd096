"""The SUPA learner inside its stage: the same bytes whatever the cut, snapshots, evictions, publications; and that it learns."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supa_logs import EDGES, SMALL, Row, assert_same_tables, examples, feed, mixed, run

from core.composite import CompositeStage
from core.errors import SettingsError, SnapshotError
from core.schemas import DELTA_BASE, ITEM
from learners.supa import SupaConfig, SupaLearner
from tests.snapshots import save

MIXED = mixed(700)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, MIXED.height), max_size=12))
def test_any_cut_of_the_log_gives_the_same_bytes(cuts: list[int]) -> None:
    whole, cut = run(MIXED), run(MIXED, cuts)
    assert cut.digest() == whole.digest()
    assert np.concatenate(cut.tape).tobytes() == np.concatenate(whole.tape).tobytes()
    assert_same_tables(cut.touched(), whole.touched())


def test_row_by_row_gives_the_same_bytes() -> None:
    whole, single = run(MIXED), run(MIXED, range(1, MIXED.height))
    assert single.digest() == whole.digest()
    assert np.concatenate(single.tape).tobytes() == np.concatenate(whole.tape).tobytes()


def test_digest_tells_histories_apart() -> None:
    digests = {run(MIXED[:n]).digest() for n in range(690, 700)} | {run(MIXED, config=replace(SMALL, seed=4)).digest()}
    edges = MIXED[690:699].filter(pl.col("type").is_in(EDGES) | pl.col("item").is_null() & (pl.col("kind") == ITEM))
    assert len(digests) >= edges.height


@settings(max_examples=15, deadline=None)
@given(st.integers(0, MIXED.height), st.integers(0, MIXED.height), st.booleans())
def test_a_restored_learner_goes_on_with_the_same_bytes(one: int, other: int, publish: bool) -> None:
    first, second = sorted((one, other))
    whole, learner = run(MIXED), SupaLearner(SMALL)
    stage = CompositeStage([learner], 1)
    with TemporaryDirectory() as name:
        earlier, later = Path(name, "1"), Path(name, "2")
        earlier.mkdir()
        later.mkdir()
        feed(stage, MIXED[:first])
        save(stage, earlier)
        if publish:
            learner.touched()
        feed(stage, MIXED[first:second])
        save(stage, later, earlier)
        back = SupaLearner(SMALL)
        resumed = CompositeStage([back], 1)
        resumed.restore(later)
        assert resumed.digest() == stage.digest()
    feed(resumed, MIXED[second:])
    feed(stage, MIXED[second:])
    assert back.digest() == learner.digest() == whole.digest()
    assert_same_tables(back.touched(), learner.touched())


def test_chunks_changed_by_negatives_alone_are_in_the_next_snapshot(tmp_path: Path) -> None:
    """6,000 users fill two chunks; afterwards only the first ten act."""
    config = SupaConfig(dimensions=8, max_users=8192, max_items=2048, negatives=6)
    many = examples(("click", f"u{n}", f"i{n % 50}") for n in range(6000))
    stage = CompositeStage([SupaLearner(config)], 1)
    for name, rows in (("1", many), ("2", examples(("click", f"u{n % 10}", f"i{n % 50}") for n in range(200)))):
        feed(stage, rows)
        (tmp_path / name).mkdir()
        save(stage, tmp_path / name, tmp_path / "1" if name == "2" else None)
    resumed = CompositeStage([SupaLearner(config)], 1)
    resumed.restore(tmp_path / "2")
    assert resumed.digest() == stage.digest()


def served(learner: SupaLearner) -> dict[tuple[str, str], bytes]:
    """(table, id) -> the bytes that a cache would hold, of every living node."""
    out = {}
    for name, nodes in (("user_vectors", learner.users), ("item_vectors", learner.items)):
        for row, id_ in enumerate(nodes.ids.ids):
            if id_ is not None:
                bias = nodes.biases(np.array([row])).tobytes() if name == "item_vectors" else b""
                out[name, id_] = nodes.vectors(np.array([row])).tobytes() + bias
    return out


def delta_bytes(row: dict[str, object]) -> bytes:
    return np.array(row["vector"], np.float32).tobytes() + (np.float32(row["bias"]).tobytes() if "bias" in row else b"")


def test_touched_rows_are_those_whose_bytes_changed() -> None:
    learner, log = SupaLearner(SMALL), mixed(700, seed=2, users=20, items=12)
    stage, before = CompositeStage([learner], 1), dict[tuple[str, str], bytes]()
    seen_removed = 0
    for start in range(0, log.height, 10):
        feed(stage, log[start : start + 10])
        rows = [(table, row) for table, frame in learner.touched().items() for row in frame.to_dicts()]
        after = served(learner)
        changed = {key: value for key, value in after.items() if before.get(key) != value}
        assert {(table, row["id"]): delta_bytes(row) for table, row in rows if not row["removed"]} == changed
        gone = {(table, row["id"]) for table, row in rows if row["removed"]}
        assert before.keys() - after.keys() <= gone and not gone & after.keys()
        assert all(start <= row["version"] < start + 10 for _, row in rows)
        seen_removed, before = seen_removed + len(gone), after
    assert seen_removed > 5
    assert all(frame.is_empty() for frame in learner.touched().values())


def test_version_and_event_time_are_of_the_last_example_behind_a_row() -> None:
    rows = examples([("click", "u", "a"), ("click", "v", "b"), ("hate", "u", "a"), ("impression", "w", "a")])
    tables = run(rows).touched()
    for name in ("user_vectors", "item_vectors"):
        assert tables[name]["version"].to_list() == [1, 1], "the first pair were the second's negatives"
        assert tables[name]["event_ms"].to_list() == [rows["ts_ms"][1]] * 2
    assert tables["user_vectors"]["id"].to_list() == ["u", "v"], "neither an impression nor hate is an edge"


def test_tables_have_their_schema_even_when_empty() -> None:
    vector = pl.Array(pl.Float32, 2 * SMALL.dimensions)
    for rows in (MIXED[:0], MIXED):
        tables = run(rows).touched()
        assert tables["user_vectors"].schema == pl.Schema({**DELTA_BASE, "vector": vector})
        assert tables["item_vectors"].schema == pl.Schema({**DELTA_BASE, "vector": vector, "bias": pl.Float32()})


def test_score_is_the_product_of_the_served_vectors_plus_bias() -> None:
    learner = run(MIXED)
    tables = learner.touched()
    users, items = (tables[name].filter(~pl.col("removed")) for name in ("user_vectors", "item_vectors"))
    for user, vector in zip(users["id"][:5], users["vector"].to_numpy(), strict=False):
        expected = items["vector"].to_numpy() @ vector + items["bias"].to_numpy()
        np.testing.assert_allclose(learner.score(user, items["id"].to_list()), expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(learner.score(users["id"][0], ["nobody's"])).all() and np.isnan(learner.score("nobody", items["id"].to_list())).all()
    assert learner.score("nobody", []).shape == (0,)


def test_item_vector_is_the_items_right_after_each_row() -> None:
    """Against a publication after every single row."""
    rows = MIXED[:300]
    column = np.concatenate(run(rows).tape)
    learner, held = SupaLearner(SMALL), dict[str, np.ndarray]()
    stage = CompositeStage([learner], 1)
    for index, item in enumerate(rows["item_id"]):
        stage.apply(rows[index : index + 1], 0)
        for row in learner.touched()["item_vectors"].to_dicts():
            held.pop(row["id"], None)
            if not row["removed"]:
                held[row["id"]] = np.array(row["vector"], np.float32)
        assert np.array_equal(column[index], held.get(item, np.zeros(2 * SMALL.dimensions, np.float32)))
    assert 0 < (column != 0).any(axis=1).sum() < rows.height


def test_the_longest_unused_make_room_and_come_back_as_new() -> None:
    """3,000 users pass through a table of 2,048 rows; two regulars stay."""
    rows = [("click", f"u{n}" if n % 4 else f"regular{n % 8}", f"i{n % 50}") for n in range(4000)]
    learner = SupaLearner(SMALL)
    stage = CompositeStage([learner], 1)
    feed(stage, examples(rows), range(100, 4000, 100))
    table, ids = learner.graph.table, learner.users.ids
    gone = learner.touched()["user_vectors"].filter("removed")
    assert "u1" in gone["id"] and gone["vector"].null_count() == gone.height
    assert len(ids) <= SMALL.max_users - 512 + 256 and int(learner.users.rows["alive"].sum()) == len(ids)
    assert (ids.lookup(["regular0", "regular4"]) >= 0).all() and ids.lookup(["u1"])[0] == -1
    free = [row for row, id_ in enumerate(ids.ids) if id_ is None]
    assert free and not table.long[free].any() and not table.context[free].any() and table.neighbours.generation[free].all()
    assert learner.digest() == run(examples(rows)).digest()
    stage.apply(examples([("click", "u1", "i0")]), 0)
    back = learner.touched()["user_vectors"].filter(pl.col("id") == "u1")
    assert back["removed"].to_list() == [False] and back["version"].to_list() == [4000]


def users_left(worth: float, rows: list[Row]) -> set[str]:
    """Who has a row after a log."""
    config = SupaConfig(dimensions=8, max_users=2048, max_items=2048, stay_per_doubling=worth)
    return {id_ for id_ in run(examples(rows), config=config).users.ids.ids if id_}


@pytest.mark.parametrize(("worth", "stays"), [(0.0, False), (0.0625, True), (0.25, True)])
def test_a_user_of_many_edges_outlives_some_who_came_a_little_later(worth: float, stays: bool) -> None:
    """ "loyal" was there 64 times, before all but a few of those who go."""
    before: list[Row] = [("click", f"a{n}", "i0") for n in range(136)]
    rows: list[Row] = [*before, *[("click", "loyal", "i0")] * 64, *[("click", f"b{n}", "i0") for n in range(1592)]]
    left = users_left(worth, rows)
    assert ("loyal" in left) == stays
    assert "a0" not in left and "b0" not in left and "b1591" in left


def test_rows_go_by_last_use_and_edges() -> None:
    """Against all users sorted by their last use and log2 of their edges, at the end of each segment."""
    worth, random, gone = 0.03, np.random.default_rng(0), set[str]()
    users = [f"u{random.integers(6000 if random.random() < 0.7 else 400)}" for _ in range(5120)]
    uses, edges = dict[str, int](), dict[str, int]()
    for n, user in enumerate(users):
        uses[user], edges[user] = n + 1, edges.get(user, 0) + 1
        if n % 256 == 255:
            counts = {id_: use + int(worth * 2048 * np.log2(1.0 + edges[id_])) for id_, use in uses.items()}
            for id_ in sorted(uses, key=lambda id_: (counts[id_], uses[id_]))[: max(0, len(uses) - 1536)]:
                del uses[id_], edges[id_]
                gone.add(id_)
    assert users_left(worth, [("click", user, "i0") for user in users]) == uses.keys() and len(gone) > 200


UNDOES = replace(SMALL, undo_types=("hate", "exit"))


def test_an_event_that_undoes_takes_the_pair_out_of_both_and_changes_nothing_else() -> None:
    edges: list[Row] = [("click", f"u{n % 3}", f"i{n % 4}") for n in range(12)]
    with_, without = (run(examples([*edges, (type_, "u1", "i2")]), config=UNDOES) for type_ in ("hate", "impression"))
    of, other = with_.graph.table.neighbours, without.graph.table.neighbours
    pair = int(with_.users.lookup(["u1"])[0]), int(with_.items.lookup(["i2"])[0])
    for row, met in (pair, pair[::-1]):
        assert set(other.row[row, : other.held[row]].tolist()) - set(of.row[row, : of.held[row]].tolist()) == {met}
    rings = {"row", "neighbour_generation", "relation", "meetings", "ts_ms", "held"}
    for name, array in with_.graph.arrays.items():
        changed = np.flatnonzero((array != without.graph.arrays[name]).reshape(len(array), -1).any(axis=1))
        assert set(changed.tolist()) <= set(pair) and (name in rings or changed.size == 0), name
    assert_same_tables(with_.touched(), without.touched())
    assert np.array_equal(with_.tape[0], without.tape[0]), "the item's vector is told all the same"
    assert with_.updates == 12


@pytest.mark.parametrize("pair", [("u1", "i9"), ("u9", "i1"), ("u9", "i9"), ("u0", "i1"), ("", "i1")])
def test_there_is_nothing_to_undo_where_a_pair_never_met(pair: tuple[str, str]) -> None:
    edges: list[Row] = [("click", f"u{n % 3}", f"i{n % 3}") for n in range(12)]
    with_, without = (run(examples([*edges, (type_, *pair)]), config=UNDOES) for type_ in ("exit", "impression"))
    assert with_.digest() == without.digest()
    assert np.array_equal(with_.tape[0], without.tape[0])


def test_a_pair_that_meets_again_is_new() -> None:
    rows: list[Row] = [(type_, "u", "a") for type_ in ("click", "like", "hate", "purchase")]
    of = run(examples([("click", "u", "b"), *rows]), config=UNDOES).graph.table.neighbours
    assert of.held[0] == 2 and of.meetings[0, :2].tolist() == [1, 1] and of.relation[0, :2].tolist() == [0, 1]


def test_events_that_undo_may_fall_anywhere_in_a_batch() -> None:
    whole, cut = run(MIXED, config=UNDOES), run(MIXED, range(1, MIXED.height), UNDOES)
    assert cut.digest() == whole.digest() != run(MIXED).digest()
    assert np.concatenate(cut.tape).tobytes() == np.concatenate(whole.tape).tobytes()


def passing_items(count: int) -> pl.DataFrame:
    """Thirty items at a time; every fifth row the oldest goes, and a new one will get its row."""
    random, rows = np.random.default_rng(5), list[Row]()
    for n in range(count):
        rows.append(("click", f"u{random.integers(40)}", f"i{n // 5 + 1 + random.integers(30)}"))
        rows += [("remove", None, f"i{n // 5}")] if n % 5 == 4 else []
    return examples(rows)


def test_no_neighbour_has_the_wrong_id() -> None:
    """Every entry of the right generation names a neighbour that the log holds for this very pair."""
    learner, rows = SupaLearner(SMALL), passing_items(1500)
    feed(CompositeStage([learner], 1), rows)
    met = set(rows.filter(pl.col("type").is_in(EDGES)).select("user_id", "item_id").iter_rows())
    valid, stale, of = 0, 0, learner.graph.table.neighbours
    for user_row, user in enumerate(learner.users.ids.ids):
        for entry in range(int(of.held[user_row])):
            item_row = of.row[user_row, entry]
            if of.generation[item_row] == of.neighbour_generation[user_row, entry]:
                assert (user, learner.items.ids.ids[item_row - learner.items.first]) in met
                valid += 1
            else:
                stale += 1
    assert valid > 50 and stale > 50


def communities(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Users and items of two kinds; nine clicks in ten stay within the kind, popularity is the same in both."""
    random, rows = np.random.default_rng(seed), []
    for _ in range(count):
        user, own = int(random.integers(100)), random.random() < 0.9
        item = 2 * int(random.zipf(1.5) % 50) + (user % 2 if own else 1 - user % 2)
        rows.append(("click", f"u{user}", f"i{item}"))
    return rows


def test_two_planted_communities_are_told_apart() -> None:
    learned = communities(4000, 1)
    learner = run(examples(learned), config=SupaConfig(dimensions=16, max_users=2048, max_items=2048))
    items = sorted({item for _, _, item in learned})
    counts = np.array([sum(item == other for _, _, other in learned) for item in items], dtype=float)
    asked = [(user, item) for _, user, item in communities(400, 2) if int(user[1:]) % 2 == int(item[1:]) % 2 and item in items]
    popular = np.mean([reciprocal_rank(counts, items.index(item)) for _, item in asked])
    ours = np.mean([reciprocal_rank(learner.score(user, items), items.index(item)) for user, item in asked])
    assert ours > 1.3 * popular


def reciprocal_rank(scores: np.ndarray, true: int) -> float:
    return 1.0 / float(1 + (scores > scores[true]).sum() + ((scores == scores[true]).sum() - 1) / 2)


TWICE = (("a", ("click",)), ("b", ("click",)))


@pytest.mark.parametrize("wrong", [{"dimensions": 12}, {"relations": ()}, {"relations": TWICE}, {"ring_size": 0}, {"max_users": 10}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        SupaLearner(replace(SMALL, **wrong))


def test_a_snapshot_of_other_sizes_is_refused(tmp_path: Path) -> None:
    save(SupaLearner(SupaConfig(dimensions=16, max_users=2048, max_items=2048)), tmp_path)
    with pytest.raises(SnapshotError, match=r"`dimensions` was 16, is 8\..* rebuild"):
        SupaLearner(SupaConfig(dimensions=8, max_users=2048, max_items=2048)).restore(tmp_path)


def test_room_for_more_users_is_a_rebuild(tmp_path: Path) -> None:
    """Neighbours are remembered by row, and items' rows lie behind users' rows. Room for more items moves nobody."""
    save(run(MIXED[:200]), tmp_path)
    with pytest.raises(SnapshotError, match=r"`max_users` was 4096, is 8192.* rebuild"):
        SupaLearner(replace(SMALL, max_users=5000)).restore(tmp_path)
    back = SupaLearner(replace(SMALL, max_items=5000))
    back.restore(tmp_path)
    assert back.digest() == run(MIXED[:200]).digest()
