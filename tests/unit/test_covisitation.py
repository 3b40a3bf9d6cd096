"""Co-visitation against a twin that handles an example at a time with dicts; cuts, restarts, evictions, rows given to other items."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.composite import CompositeStage
from core.errors import SettingsError, SnapshotError
from core.ids import SEGMENT_ROWS
from core.rows import CHUNK_ROWS
from core.schemas import EVENT, EXAMPLE_BASE, ITEM, TICK
from core.stage import Examples
from features.covisitation import ITEM_NEIGHBOURS, Covisitation, CovisitationConfig
from tests.naive_covisitation import NaiveCovisitation
from tests.snapshots import save

T0 = 1_700_000_000_000
CONFIG = CovisitationConfig(
    user_capacity=4_096,
    item_capacity=4_096,
    neighbours=4,
    half_life_seconds=3_600,
    session_gap_seconds=600,
    types=("click", "view"),
    future_seconds=300,
)
TYPES = ("click", "view", "impression")
GAP_MS, LIFE_MS = 600_000, 3_600_000


def event(ts_ms, user, item, type_="click", upstream=0, clock_ms=None):
    return {
        "kind": EVENT, "ts_ms": ts_ms, "user_id": user, "item_id": item, "type": type_, "upstream": upstream,
        "clock_ms": ts_ms if clock_ms is None else clock_ms,
    }  # fmt: skip


def catalogue(item, entry="{}"):
    return {"kind": ITEM, "ts_ms": 0, "item_id": item, "upstream": -1, "clock_ms": 0, "item": entry}


def removal(item):
    return catalogue(item, None)


def tick(ms, upstream=0):
    return {"kind": TICK, "ts_ms": ms, "upstream": upstream, "clock_ms": ms}


def frame(rows):
    base = {"source": 0, "offset": 0, "row": 0, "sent_ms": T0, "value": None, "request_id": None}
    return pl.DataFrame([{**base, **row} for row in rows], schema=EXAMPLE_BASE)


def cut(rows, sizes):
    pieces, at, k = [], 0, 0
    while at < len(rows):
        pieces.append(rows[at : at + sizes[k % len(sizes)]])
        at, k = at + sizes[k % len(sizes)], k + 1
    return pieces


class Recorder:
    """Keeps what the part added."""

    name = "recorder"

    def __init__(self):
        self.steps = []

    def learn_many(self, examples):
        self.steps += examples.columns["steps"].tolist()

    def maintain(self, ordinal, clock_ms):
        pass

    def touched(self):
        return {}


def staged(config=CONFIG, upstreams=2, *more):
    part = Covisitation(config)
    return CompositeStage([part, *more], upstreams), part


def learn(rows, config=CONFIG):
    """A part that learned the rows in one call, its clock at the last time."""
    part = Covisitation(config)
    part.learn_many(Examples(frame(rows), 0, np.full(len(rows), rows[-1]["clock_ms"] or T0)))
    return part


def told(part):
    published = part.touched()["item_neighbours"]
    assert published.schema == ITEM_NEIGHBOURS
    return published.to_dicts()


def names(part, item):
    return [id_ for id_, _ in part.neighbours([item])[0]]


def check_against_naive(rows, sizes, config=CONFIG, every=1):
    """What is published after each piece is complete, minimal and in order; then all neighbours, and scores of all pairs of ids."""
    recorder, naive, expected = Recorder(), NaiveCovisitation(config, 2), []
    stage, part = staged(config, 2, recorder)
    for k, piece in enumerate(cut(rows, sizes)):
        stage.apply(frame(piece), 0)
        expected += [naive.learn(row) for row in piece]
        if k % every == 0:
            check_told(told(part), naive.touched())
    np.testing.assert_allclose(recorder.steps, [steps for steps in expected if steps is not None], rtol=1e-5)
    assert [len(part.tables[kind]) for kind in ("users", "items")] == [len(naive.users), len(naive.items)]
    check_neighbours(part, naive)
    check_scores(part, naive)


def check_told(published, expected):
    for row, twin in zip(published, expected, strict=True):
        scores, twins = row.pop("scores"), twin.pop("scores")
        assert row == twin
        assert (scores is None) == (twins is None)
        np.testing.assert_allclose(scores or [], twins or [], rtol=1e-6, atol=1e-9)


def check_neighbours(part, naive):
    items, now = list(naive.items), naive.learned_ms
    for id_, neighbours in zip(items, part.neighbours(items), strict=True):
        ranked = naive.ranked(id_)
        assert [neighbour for neighbour, _ in neighbours] == [slot["id"] for slot in ranked]
        for slot, (_, score) in zip(ranked, neighbours, strict=True):
            newest = max(slot["times"])
            counted = math.fsum(2.0 ** ((ts - newest) / naive.life_ms) for ts in slot["times"])
            assert score == pytest.approx(math.log2(counted) + (newest - now) / naive.life_ms, abs=1e-9)


def check_scores(part, naive):
    items = [*list(naive.items)[:50], "nobody's"]
    for user in [*list(naive.users)[:50], "nobody"]:
        expected = [naive.score(user, item) for item in items]
        expected = [math.nan if score is None else score for score in expected]
        np.testing.assert_allclose(part.score(user, items), expected, rtol=1e-6, atol=1e-6)


def random_rows(seed, count):
    random, ts, rows = np.random.default_rng(seed), T0, []
    for _ in range(count):
        ts += int(random.choice([0, 1, 500, 60_000, GAP_MS], p=[0.2, 0.2, 0.3, 0.28, 0.02]))
        odd = int(random.choice([0, -5_000, -400_000, -4_000_000, 2_000_000], p=[0.85, 0.06, 0.03, 0.03, 0.03]))
        item = None if random.random() < 0.05 else f"item-{int(40 * random.random() ** 2)}"
        user = None if random.random() < 0.05 else f"user-{random.integers(6)}"
        rows.append(event(ts + odd, user, item, str(random.choice(TYPES)), int(random.integers(2)), ts))
        if random.random() < 0.05:
            rows.append(tick(ts, int(random.integers(2))))
        if random.random() < 0.03:
            rows.append(catalogue(f"item-{random.integers(50)}"))
        if random.random() < 0.03:
            rows.append(removal(f"item-{random.integers(50)}"))
    return rows


def churning_rows(seed, count):
    """Ever new users and items, some of which come back after they were evicted."""
    random, rows = np.random.default_rng(seed), []
    for n in range(count):
        age = int(random.choice([random.integers(40), random.integers(6_000)], p=[0.95, 0.05]))
        newest = n if random.random() < 0.8 else max(0, n - age)
        rows.append(event(T0 + 50 * n, f"user-{max(0, n - age)}", f"item-{newest // 2}", upstream=n % 2))
        if random.random() < 0.01:
            rows.append(removal(f"item-{max(0, n - age) // 2}"))
    return rows


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_long_stream_equals_the_naive_pass(both_ways):
    check_against_naive(random_rows(1, 4_000), [1, 20, 700], replace(CONFIG, both_ways=both_ways))


def test_a_stream_through_evictions_equals_the_naive_pass():
    rows = churning_rows(2, 9_000)
    check_against_naive(rows, [500, 3, 1_000], every=3)
    stage, part = staged()
    stage.apply(frame(rows), 0)
    assert min(ids.evicted for ids in part.tables.values()) > 0


users, items = st.one_of(st.none(), st.sampled_from("uvw")), st.one_of(st.none(), st.sampled_from("abcdefg"))
times = st.one_of(st.integers(0, 1_000), st.integers(0, 3 * GAP_MS)).map(lambda passed: T0 + passed)
row_strategy = st.one_of(
    st.builds(event, times, users, items, st.sampled_from(TYPES), st.integers(0, 1), st.one_of(st.just(0), times)),
    st.builds(event, times, st.sampled_from("uv"), st.sampled_from("abcdefg")),
    st.builds(catalogue, st.sampled_from("abcdefg")),
    st.builds(removal, st.sampled_from("abcdefg")),
    st.builds(tick, times, st.integers(0, 1)),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(row_strategy, max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 3))
def test_any_stream_equals_the_naive_pass(rows, sizes, neighbours):
    check_against_naive(rows, sizes, replace(CONFIG, neighbours=neighbours))


@pytest.mark.parametrize(("made", "count"), [(random_rows, 1_500), (churning_rows, 8_000)])
def test_the_cut_into_records_changes_no_bit(made, count):
    rows, digests, published = made(3, count), set(), []
    for sizes in ([len(rows)], [1], [7, 130, 1]):
        stage, part = staged()
        for piece in cut(rows, sizes):
            stage.apply(frame(piece), 0)
        digests.add(stage.digest())
        published.append(told(part))
    assert len(digests) == 1
    assert published[0] == published[1] == published[2]


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("made", [random_rows, churning_rows])
@pytest.mark.parametrize("at", [1, 2 * SEGMENT_ROWS, 15 * SEGMENT_ROWS, 15 * SEGMENT_ROWS + 77])
def test_a_restored_part_goes_on_bit_for_bit(tmp_path, made, at):
    rows = [row for row in made(4, 8_000) if row["kind"] != TICK]  # so that rows and ordinals are the same
    (stage, part), (again, restored) = staged(), staged()
    stage.apply(frame(rows[: at // 2]), 0)
    part.touch_next(3)
    save(stage, tmp_path / "first")
    stage.apply(frame(rows[at // 2 : at]), 0)
    save(stage, tmp_path / "second", tmp_path / "first")
    again.restore(tmp_path / "second")
    assert again.digest() == stage.digest()
    for each in (stage, again):
        each.apply(frame(rows[at:]), 0)
    assert again.digest() == stage.digest()
    for name, each in (("one", stage), ("other", again)):
        save(each, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert told(restored) == told(part)
    assert restored.touch_next(7) == part.touch_next(7)
    assert told(restored) == told(part)


def test_unchanged_chunks_are_linked(tmp_path):
    config = replace(CONFIG, item_capacity=2 * CHUNK_ROWS, user_capacity=2 * CHUNK_ROWS)
    part = learn([event(T0, f"{n}", f"{n}") for n in range(5_000)], config)
    save(part, tmp_path / "first")
    part.learn_many(Examples(frame([event(T0, "4999", "4998")]), 5_000, np.full(1, T0)))
    save(part, tmp_path / "second", tmp_path / "first")
    for side in ("users", "items"):
        assert [path.stat().st_nlink for path in sorted((tmp_path / "second" / side).glob("chunk-*"))] == [2, 1]


def test_steps_count_both_ways_unless_told_otherwise():
    rows = [event(T0, "u", "a"), event(T0 + 1, "u", "b")]
    assert (names(learn(rows), "a"), names(learn(rows), "b")) == (["b"], ["a"])
    one_way = learn(rows, replace(CONFIG, both_ways=False))
    assert (names(one_way, "a"), names(one_way, "b")) == (["b"], [])
    assert [row["id"] for row in told(one_way)] == ["a"]


def test_a_session_ends_beyond_the_gap():
    rows = [event(T0, "u", "a"), event(T0 + GAP_MS, "u", "b"), event(T0 + 2 * GAP_MS + 1, "u", "c")]
    assert learn(rows).neighbours(["a", "b", "c"]) == [
        [("b", pytest.approx(-(GAP_MS + 1) / LIFE_MS))],
        [("a", pytest.approx(-(GAP_MS + 1) / LIFE_MS))],
        [],
    ]


def test_an_older_event_is_a_step_but_not_the_last():
    rows = [event(T0, "u", "a"), event(T0 - 5_000, "u", "b", clock_ms=T0), event(T0 - GAP_MS - 1, "u", "c", clock_ms=T0)]
    part = learn([*rows, event(T0, "u", "d")])
    assert names(part, "a") == ["d", "b"]
    assert part.neighbours(["b", "c"]) == [[("a", pytest.approx(-5_000 / LIFE_MS))], []]


def test_counts_add_up_and_halve_with_each_half_life():
    rows = [event(T0, user, item) for user in "uvw" for item in "ab"]
    part = learn([*rows, event(T0 + LIFE_MS, "x", "b")])
    assert part.score("x", ["a", "b", "c"])[:1] == pytest.approx(math.log2(3) - 1)
    assert np.isnan(part.score("x", ["b", "c"])).all()
    assert np.isnan(part.score("nobody", ["a"])).all()
    assert part.score("x", ["a"]).dtype == np.float32


def test_the_lowest_gives_way_and_of_equal_ones_the_first_slot():
    rows = [event(T0, f"{n}", item) for n, to in enumerate("bcdeb") for item in ("a", to)]
    assert names(learn([*rows, event(T0, "u", "a"), event(T0, "u", "f")]), "a") == ["b", "f", "d", "e"]


def test_a_row_given_to_another_item_is_not_mistaken_for_it():
    part = learn([event(T0, "u", "a"), event(T0, "u", "b"), event(T0, "v", "b"), removal("b"), event(T0, "w", "c")])
    assert part.tables["items"].lookup(["c"]) == 1  # the row that b had
    assert part.neighbours(["a", "b", "c"]) == [[], [], []]
    rest = [event(T0, "v", "d"), event(T0, "w", "a")]  # v was at b, w is at c
    part.learn_many(Examples(frame(rest), 5, np.full(2, T0)))
    assert [names(part, id_) for id_ in "acd"] == [["c"], ["a"], []]
    assert np.isnan(part.score("u", ["a"])).all()  # u was at b, in whose row c has a as a neighbour


def test_of_unknown_ids_nothing_is_known_though_every_row_is_taken():
    count = CONFIG.item_capacity
    part = learn([event(T0, f"{n}", f"{(n + step) % count}") for step in (0, 1) for n in range(count)])
    assert part.neighbours(["unknown", "5"]) == [[], [("4", 0.0), ("6", 0.0)]]
    assert np.isnan(part.score("nobody", ["0"])).all()
    np.testing.assert_array_equal(part.score("5", ["unknown", "5"]), np.array([np.nan, 0.0], dtype=np.float32))


def test_a_removal_reaches_the_next_snapshot(tmp_path):
    part, again = learn([event(T0, "u", "a"), event(T0, "u", "b")]), Covisitation(CONFIG)
    save(part, tmp_path / "first")
    part.learn_many(Examples(frame([removal("a")]), 2, np.full(1, T0)))
    save(part, tmp_path / "second", tmp_path / "first")
    again.restore(tmp_path / "second")
    assert again.digest() == part.digest()


def test_a_removed_item_is_published_once_and_only_if_it_was_told_of():
    part = learn([event(T0, "u", "a"), event(T0, "u", "b"), event(T0, "v", "alone"), removal("a"), removal("alone"), removal("never")])
    assert [(row["id"], row["removed"], row["version"], row["neighbours"]) for row in told(part)] == [
        ("b", False, 2, []),
        ("a", True, 4, None),
    ]
    assert told(part) == []


def test_an_item_that_comes_back_is_no_longer_told_as_removed():
    rows = [event(T0, "u", "a"), event(T0, "u", "b"), removal("a"), event(T0, "u", "a")]
    assert [(row["id"], row["removed"], row["version"]) for row in told(learn(rows))] == [("b", False, 4), ("a", False, 4)]


def test_rounds_tell_every_item_that_ever_had_a_step():
    part = learn([event(T0, "u", "a"), event(T0, "v", "alone"), event(T0, "u", "b"), event(T0, "u", "c")])
    first = told(part)
    assert [row["id"] for row in first] == ["a", "b", "c"]
    again = []
    for ended in (False, True):
        assert part.touch_next(2) == ended
        again += told(part)
    assert again == first


def test_one_odd_timestamp_is_held_to_its_partitions_clock():
    rows = [event(T0 + 40_000_000, "u", "a", clock_ms=T0), event(T0 + 300_000, "u", "b", clock_ms=T0 + 300_000)]
    part = learn([*rows, event(T0 + 300_000, "u", "c")])
    assert names(part, "b") == ["a", "c"]


def test_a_snapshot_of_other_settings_is_refused(tmp_path):
    config = replace(CONFIG, item_capacity=2 * CHUNK_ROWS, user_capacity=2 * CHUNK_ROWS)
    part = learn([event(T0, f"{n}", f"{n}") for n in range(5_000)], config)
    save(part, tmp_path)
    with pytest.raises(SnapshotError, match=r"`half_life_seconds` was 3600, is 5\b.* rebuild"):
        Covisitation(replace(config, half_life_seconds=5)).restore(tmp_path)
    for name, setting in {"user_capacity": "max_users", "item_capacity": "max_items"}.items():
        with pytest.raises(SnapshotError, match=f"raise `{setting}` from 4096"):
            Covisitation(replace(config, **{name: CHUNK_ROWS})).restore(tmp_path)
    larger = Covisitation(replace(config, item_capacity=4 * CHUNK_ROWS))
    larger.restore(tmp_path)
    assert larger.digest() == part.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"user_capacity": 5_000}, {"item_capacity": 0}, {"neighbours": 0}, {"half_life_seconds": -1}, {"session_gap_seconds": 0},
        {"types": ()}, {"types": ("click", "click")}, {"future_seconds": -1},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change):
    with pytest.raises(SettingsError, match=next(iter(change))):
        replace(CONFIG, **change)


def test_what_counts_by_default():
    assert set(TYPES) - set(CovisitationConfig().types) == {"impression"}
