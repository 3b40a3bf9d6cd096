"""The item features against one that handles an example at a time with dicts; cuts, restarts, evictions."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.composite import CompositeStage
from core.errors import SettingsError, SnapshotError
from core.ids import SEGMENT_ROWS
from core.schemas import EVENT, EXAMPLE_BASE, ITEM, TICK
from core.stage import Examples
from features.config import ItemConfig
from features.item_rows import learn_items
from features.item_stage import ITEM_POPULARITY, ItemFeatures
from tests.naive_items import NaiveItemColumns, Recorder
from tests.snapshots import save

T0 = 1_700_000_000_000
CONFIG = ItemConfig(
    capacity=4_096,
    types=("click", "view", "enter", "exit"),
    half_lives_seconds=(60, 3_600),
    windows_seconds=(600, 7_200),
    popularity_types=("click", "like"),
    popularity_half_life_seconds=600,
    future_seconds=300,
)
WIDTH = CONFIG.width
TYPES = ("click", "view", "like", "impression", "enter", "exit")


def event(ts_ms, item, type_="click", upstream=0, clock_ms=None, user="u", value=None):
    return {
        "kind": EVENT, "ts_ms": ts_ms, "item_id": item, "type": type_, "user_id": user, "upstream": upstream,
        "clock_ms": ts_ms if clock_ms is None else clock_ms, "value": value,
    }  # fmt: skip


def catalogue(item, **entry):
    return {"kind": ITEM, "ts_ms": 0, "item_id": item, "upstream": -1, "clock_ms": 0, "item": msgspec.json.encode(entry).decode()}


def removal(item):
    return {**catalogue(item), "item": None}


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


def learn(rows, sizes, upstreams=2):
    """The part after all rows, the counters [examples, WIDTH], what it published."""
    part, recorder = ItemFeatures(CONFIG), Recorder()
    stage = CompositeStage([part, recorder], upstreams)
    for piece in cut(rows, sizes):
        stage.apply(frame(piece), 0)
    return part, np.concatenate([np.empty((0, WIDTH), dtype=np.float32), *recorder.columns]), part.touched()["item_popularity"]


def check_against_naive(rows, sizes):
    part, counters, published = learn(rows, sizes)
    naive = NaiveItemColumns(CONFIG, 2)
    expected = [before for row in rows if (before := naive.learn(row)) is not None]
    np.testing.assert_allclose(counters, np.array(expected).reshape(-1, WIDTH), rtol=1e-5, atol=1e-30)
    assert published.schema == ITEM_POPULARITY
    assert set(published["id"]) == {*naive.items, *naive.gone}
    for row in published.to_dicts():
        if row["removed"]:
            assert (row["version"], row["event_ms"]) == naive.gone[row["id"]]
            continue
        item = naive.items[row["id"]]
        given_times = (row["version"], row["event_ms"], row["first_ms"], row["start_ms"], row["end_ms"])
        assert given_times == (item["version"], item["last"], item["first"], item["start"], item["end"])
        forward = naive.score(row["id"], T0)
        half_life_ms = CONFIG.popularity_half_life_seconds * 1000
        assert row["log2_popularity"] == (None if forward is None else pytest.approx(forward + T0 / half_life_ms, rel=1e-12))
    known = sorted(naive.items)
    if naive.learned_ms:  # before that, scores count from 0 and float32 is coarse
        scores = [naive.score(id_, naive.learned_ms) for id_ in known]
        expected = [math.nan if score is None else score for score in scores]
        np.testing.assert_allclose(part.score("u", known), expected, rtol=1e-4, atol=1e-4)


def random_entry(random, ts):
    """A room or none, with author and categories or none."""
    told = {"start": ts, "end": ts + 90_000} if random.random() < 0.5 else {}
    author = {"author": f"a{random.integers(4)}"} if random.random() < 0.7 else {}
    return {**told, **author, "categories": [f"c{random.integers(3)}", "c0"][: random.integers(3)]}


def random_rows(seed, count):
    random, ts, rows = np.random.default_rng(seed), T0, []
    for _ in range(count):
        ts += int(random.choice([0, 1, 500, 60_000]))
        odd = int(random.choice([0, -5_000, -4_000_000, 2_000_000], p=[0.85, 0.09, 0.03, 0.03]))
        item = None if random.random() < 0.05 else f"item-{int(40 * random.random() ** 2)}"
        value = None if random.random() < 0.5 else float(random.integers(0, 60))
        rows.append(event(ts + odd, item, str(random.choice(TYPES)), int(random.integers(2)), ts, f"u{random.integers(30)}", value))
        if random.random() < 0.05:
            rows.append(tick(ts, int(random.integers(2))))
        if random.random() < 0.05:
            rows.append(catalogue(f"item-{random.integers(50)}", title="x", **random_entry(random, ts)))
        if random.random() < 0.03:
            rows.append(removal(f"item-{random.integers(50)}"))
    return rows


def test_a_long_stream_equals_the_naive_pass():
    check_against_naive(random_rows(1, 1_200), [1, 20, 700])


ids = st.one_of(st.none(), st.sampled_from("abcd"))
times = st.one_of(st.integers(0, 1_000), st.integers(0, 10_000_000)).map(lambda passed: T0 + passed)
row_strategy = st.one_of(
    st.builds(event, times, ids, st.sampled_from(TYPES), st.integers(0, 1), st.one_of(st.just(0), times)),
    st.builds(
        lambda item, entry: catalogue(item, **entry),
        st.sampled_from("abcd"),
        st.sampled_from([{}, {"start": T0 + 7}, {"end": T0 + 9, "author": "a"}, {"categories": ["c"], "author": "b"}]),
    ),
    st.builds(removal, st.sampled_from("abcd")),
    st.builds(tick, times, st.integers(0, 1)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(row_strategy, max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_stream_equals_the_naive_pass(rows, sizes):
    check_against_naive(rows, sizes)


def test_the_cut_into_records_changes_no_bit():
    rows = random_rows(2, 1_500)
    parts = [learn(rows, sizes) for sizes in ([len(rows)], [1], [7, 130, 1])]
    for part, counters, published in parts[1:]:
        assert part.digest() == parts[0][0].digest()
        assert counters.tobytes() == parts[0][1].tobytes()
        assert published.equals(parts[0][2])


@pytest.mark.parametrize("at", [1, 500])
def test_a_restored_part_goes_on_bit_for_bit(tmp_path, at):
    rows, part, again = random_rows(3, 1_000), ItemFeatures(CONFIG), ItemFeatures(CONFIG)
    learned = Examples(frame(rows[:at]), 0, np.full(at, T0))
    part.learn_many(learned)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    save(part, tmp_path / "first")
    part.learn_many(Examples(frame([event(T0, "newest"), removal("newest")]), at, np.full(2, T0)))
    save(part, tmp_path / "second", tmp_path / "first")
    again.restore(tmp_path / "second")
    assert again.digest() == part.digest()
    outputs = []
    for each in (part, again):
        rest = Examples(frame([row for row in rows[at:] if row["kind"] != TICK]), at + 2, np.full(len(rows), T0 + 5))
        rest.clock_ms = rest.clock_ms[: rest.rows.height]
        each.learn_many(rest)
        outputs.append((rest.columns["item_features"].tobytes(), each.digest(), each.touched()["item_popularity"]))
    assert outputs[0][:2] == outputs[1][:2]
    assert outputs[0][2].equals(outputs[1][2])


def test_unchanged_chunks_are_linked(tmp_path):
    part = ItemFeatures(replace(CONFIG, capacity=8_192))
    part.learn_many(Examples(frame([event(T0, f"{n}") for n in range(5_000)]), 0, np.full(5_000, T0)))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    save(part, tmp_path / "first")
    part.learn_many(Examples(frame([event(T0, "4999")]), 5_000, np.full(1, T0)))
    save(part, tmp_path / "second", tmp_path / "first")
    links = [path.stat().st_nlink for path in sorted((tmp_path / "second" / "items" / "rows").iterdir())]
    assert links == [2, 1]


def test_items_longest_unused_are_removed_and_come_back_empty():
    part = ItemFeatures(CONFIG)
    stage = CompositeStage([part], 1)
    count = CONFIG.capacity // SEGMENT_ROWS * SEGMENT_ROWS
    stage.apply(frame([event(T0 + n, f"{n}") for n in range(count)]), 0)
    published = part.touched()["item_popularity"]
    gone = published.filter("removed")
    assert gone["id"].to_list()[:2] == ["0", "1"]
    assert gone["event_ms"].to_list()[:2] == [T0, T0 + 1]
    assert gone["version"].unique().to_list()[0] <= stage.ordinal
    assert np.isnan(part.score("u", ["0"])).all()
    examples = Examples(frame([event(T0 + count, "0"), event(T0 + count, "0")]), stage.ordinal, np.full(2, T0 + count))
    part.learn_many(examples)
    assert examples.columns["item_features"][:, 0].tolist() == [0.0, 1.0]
    back = part.touched()["item_popularity"].row(0, named=True)
    assert not back["removed"]
    assert back["version"] > stage.ordinal >= gone["version"].max()


def test_one_odd_timestamp_does_not_freeze_an_item():
    part = ItemFeatures(CONFIG)
    rows = [event(T0 + 40_000_000, "a", clock_ms=T0), event(T0 + 3_600_000 + 300_000, "a")]
    examples = Examples(frame(rows), 0, np.full(2, T0))
    part.learn_many(examples)
    assert examples.columns["item_features"][1, 1] == pytest.approx(0.5)


def test_an_example_without_known_items_counts_nothing():
    part = ItemFeatures(CONFIG)
    examples = Examples(frame([event(T0, None), removal("never seen")]), 0, np.full(2, T0))
    part.learn_many(examples)
    assert not examples.columns["item_features"].any()
    assert part.touched()["item_popularity"].is_empty()


def test_a_snapshot_of_other_settings_is_refused(tmp_path):
    part = ItemFeatures(replace(CONFIG, capacity=8_192))
    part.learn_many(Examples(frame([event(T0, f"{n}") for n in range(5_000)]), 0, np.full(5_000, T0)))
    save(part, tmp_path)
    with pytest.raises(SnapshotError, match=r"`popularity_half_life_seconds` was 600, is 5\b.* rebuild"):
        ItemFeatures(replace(CONFIG, capacity=8_192, popularity_half_life_seconds=5)).restore(tmp_path)
    with pytest.raises(SnapshotError, match="raise `max_items`"):
        ItemFeatures(CONFIG).restore(tmp_path)
    larger = ItemFeatures(replace(CONFIG, capacity=16_384))
    larger.restore(tmp_path)
    assert larger.digest() == part.digest()


@pytest.mark.parametrize("change", [{"capacity": 5_000}, {"popularity_half_life_seconds": 0}])
def test_settings_that_cannot_work_are_refused(change):
    with pytest.raises(SettingsError, match=next(iter(change))):
        replace(CONFIG, **change)


def test_the_kernel_is_compiled_once_whatever_the_number_of_rows():
    rows = [event(1_000 * n, f"item-{n}", user=f"user-{n}") for n in range(7)]
    learn([*rows, removal("item-1")], [3, 1, 2, 1, 1])
    assert len(learn_items.signatures) == 1
