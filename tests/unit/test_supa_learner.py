"""The SUPA learner inside its stage: the same bytes whatever the cut, snapshots, evictions, publications; and that it learns."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.composite import CompositeStage
from core.errors import SettingsError, SnapshotError
from core.schemas import DELTA_BASE, EVENT, EXAMPLE_BASE, ITEM
from core.stage import Examples
from learners.supa import SupaConfig, SupaLearner
from tests.snapshots import save

START_MS = 1_700_000_000_000
RELATIONS = (("engage", ("click", "like")), ("buy", ("purchase",)))
SMALL = SupaConfig(
    seed=3, dimensions=8, relations=RELATIONS, max_users=2048, max_items=2048, ring_size=4, walks=2, walk_length=3, negatives=6
)
TYPES = ("click", "click", "like", "purchase", "impression", "hate", "exit", "view")


def examples(rows: Iterable[tuple[str, str | None, str | None]]) -> pl.DataFrame:
    """(type, user, item) a row, a minute apart; of type "remove" and "describe": the catalogue's."""
    kinds = {"remove": (ITEM, None), "describe": (ITEM, "{}")}
    return pl.DataFrame(
        [
            {
                "kind": kinds.get(type_, (EVENT, None))[0],
                "upstream": -1 if type_ in kinds else 0,
                "clock_ms": START_MS + 60_000 * index,
                "ts_ms": 0 if type_ in kinds else START_MS + 60_000 * index - 7_000_000 * (index % 11 == 0),
                "type": None if type_ in kinds else type_,
                "user_id": user,
                "item_id": item,
                "item": kinds.get(type_, (EVENT, None))[1],
            }
            for index, (type_, user, item) in enumerate(rows)
        ],
        schema=EXAMPLE_BASE,
    )


def mixed(count: int, seed: int = 0, users: int = 40, items: int = 60) -> pl.DataFrame:
    """Edges, other events, and a catalogue whose items come and go."""
    random = np.random.default_rng(seed)
    rows: list[tuple[str, str | None, str | None]] = []
    for _ in range(count):
        item = f"i{random.integers(items)}"
        if random.random() < 0.06:
            rows.append(("remove" if random.random() < 0.5 else "describe", None, item))
        else:
            rows.append((str(random.choice(TYPES)), f"u{random.integers(users)}", item))
    return examples(rows)


class Taped(SupaLearner):
    """Keeps the column that later parts read."""

    def __init__(self, config: SupaConfig) -> None:
        super().__init__(config)
        self.tape: list[np.ndarray] = []

    def learn_many(self, examples: Examples) -> None:
        super().learn_many(examples)
        self.tape.append(examples.columns["item_vector"])


def run(rows: pl.DataFrame, cuts: Sequence[int] = (), config: SupaConfig = SMALL) -> Taped:
    learner = Taped(config)
    feed(CompositeStage([learner], 1), rows, cuts)
    return learner


def feed(stage: CompositeStage, rows: pl.DataFrame, cuts: Sequence[int] = ()) -> None:
    ends = [*sorted(cuts), rows.height]
    for start, stop in zip([0, *ends], ends, strict=False):
        stage.apply(rows[start:stop], 0)


def assert_same_tables(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].equals(other[name]), name


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
    digests = {run(MIXED[:n]).digest() for n in range(690, 700)} | {run(MIXED, config=SupaConfig(**{**SMALL.__dict__, "seed": 4})).digest()}
    edges = MIXED[690:699].filter(pl.col("type").is_in(["click", "like", "purchase"]) | pl.col("item").is_null() & (pl.col("kind") == ITEM))
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
                bias = nodes.table.bias[row, 0].tobytes() if name == "item_vectors" else b""
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
    table, ids = learner.users.table, learner.users.ids
    gone = learner.touched()["user_vectors"].filter("removed")
    assert "u1" in gone["id"] and gone["vector"].null_count() == gone.height
    assert len(ids) <= SMALL.max_users - 512 + 256 and int(table.alive.sum()) == len(ids)
    assert (ids.lookup(["regular0", "regular4"]) >= 0).all() and ids.lookup(["u1"])[0] == -1
    free = [row for row, id_ in enumerate(ids.ids) if id_ is None]
    assert free and not table.long[free].any() and not table.context[free].any() and table.rings.generation[free].all()
    assert learner.digest() == run(examples(rows)).digest()
    stage.apply(examples([("click", "u1", "i0")]), 0)
    back = learner.touched()["user_vectors"].filter(pl.col("id") == "u1")
    assert back["removed"].to_list() == [False] and back["version"].to_list() == [4000]


def passing_items(count: int) -> pl.DataFrame:
    """Thirty items at a time; every fifth row the oldest goes, and a new one will get its row."""
    random, rows = np.random.default_rng(5), list[tuple[str, str | None, str | None]]()
    for n in range(count):
        rows.append(("click", f"u{random.integers(40)}", f"i{n // 5 + 1 + random.integers(30)}"))
        rows += [("remove", None, f"i{n // 5}")] if n % 5 == 4 else []
    return examples(rows)


def test_a_ring_never_points_to_the_wrong_id() -> None:
    """Every ring entry of the right generation names a neighbour that the log holds for this very pair."""
    learner, rows = SupaLearner(SMALL), passing_items(1500)
    feed(CompositeStage([learner], 1), rows)
    met = set(rows.filter(pl.col("type").is_in(["click", "like", "purchase"])).select("user_id", "item_id").iter_rows())
    valid = stale = 0
    for user_row, user in enumerate(learner.users.ids.ids):
        ring = learner.users.table.rings
        for slot in range(min(int(ring.written[user_row]), SMALL.ring_size)):
            item_row = ring.row[user_row, slot]
            if learner.items.table.rings.generation[item_row] == ring.neighbour_generation[user_row, slot]:
                assert (user, learner.items.ids.ids[item_row]) in met
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
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        SupaLearner(SupaConfig(**{**SMALL.__dict__, **wrong}))


def test_a_snapshot_of_other_sizes_is_refused(tmp_path: Path) -> None:
    save(SupaLearner(SupaConfig(dimensions=16, max_users=2048, max_items=2048)), tmp_path)
    with pytest.raises(SnapshotError, match=r"`dimensions` was 16, is 8\..* rebuild"):
        SupaLearner(SupaConfig(dimensions=8, max_users=2048, max_items=2048)).restore(tmp_path)
