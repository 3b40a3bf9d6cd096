"""What the cache takes, refuses and forgets."""

import random
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from core.errors import FreshetError, SettingsError
from core.hashing import fingerprint
from core.stage import Publication
from learners.cache import ParameterCache
from learners.recommend import CacheConfig
from learners.tables import BLOCK_ROWS


def table(ids: Sequence[str], version: int | Sequence[int] = 1, removed: bool = False, **columns: object) -> pl.DataFrame:
    versions = [version] * len(ids) if isinstance(version, int) else version
    base = {"id": ids, "version": versions, "event_ms": [1_000 + v for v in versions], "removed": [removed] * len(ids)}
    return pl.DataFrame({**base, **columns}, schema_overrides={"id": pl.String, "version": pl.Int64, "event_ms": pl.Int64})


def vectors(ids: Sequence[str], values: Sequence[Sequence[float] | None], version: int | Sequence[int] = 1, width: int = 2) -> pl.DataFrame:
    vector = pl.Series(values, dtype=pl.Array(pl.Float32, width))
    return table(ids, version, vector=vector, bias=pl.Series([0.0] * len(ids), dtype=pl.Float32))


def popularity(ids: Sequence[str], values: Sequence[float | None], version: int | Sequence[int] = 1, **times: object) -> pl.DataFrame:
    log2 = pl.Series(values, dtype=pl.Float64, strict=False)
    return table(ids, version, log2_popularity=log2, first_ms=pl.Series([1] * len(ids), dtype=pl.Int64), **times)


def gone(ids: Sequence[str], version: int) -> pl.DataFrame:
    nothing = pl.Series([None] * len(ids), dtype=pl.Int64)
    return table(ids, version, removed=True, log2_popularity=nothing.cast(pl.Float64), first_ms=nothing)


def publication(version: int = 1, clock_ms: int = 0, **tables: pl.DataFrame) -> Publication:
    return Publication(tables, version, clock_ms, np.empty(0, dtype=np.int64))


def popular(cache: ParameterCache, now_ms: int | None = None) -> list[str]:
    return [item.item_id for item in cache.recommend("nobody", 100, ["popular"], now_ms).items]


def test_an_empty_cache_answers() -> None:
    cache = ParameterCache()
    answer = cache.recommend("u", 5)
    assert (answer.items, answer.source, answer.event_ms, answer.versions) == ((), "none", None, {})
    assert cache.item("i") is None
    assert np.isnan(cache.score("u", ["i"])).all()


def test_counts_of_what_became_of_rows() -> None:
    cache = ParameterCache()
    mixed = popularity(["a", "b", "c", "d"], [1.0, float("nan"), float("inf"), None])
    applied = cache.apply("w", publication(item_popularity=mixed, from_the_future=table(["x"])))
    assert (applied.rows, applied.stale, applied.nonfinite, applied.unknown_tables) == (2, 0, 2, 1)
    assert cache.item("b") is None
    assert cache.item("d").log2_popularity is None


def test_no_event_yet_is_null_or_minus_infinity() -> None:
    cache = ParameterCache()
    assert cache.apply("w", publication(item_popularity=popularity(["a", "b"], [None, float("-inf")]))).rows == 2
    assert popular(cache) == []
    assert [item.item_id for item in cache.recommend("u", 5).items] == ["a", "b"]


@pytest.mark.parametrize("bad", [[float("nan"), 1.0], [1.0, float("inf")], None, [None, 1.0]])
def test_vectors_that_are_not_finite_are_refused(bad: list[float | None] | None) -> None:
    cache = ParameterCache()
    rows = vectors(["good", "bad"], [[1.0, 2.0], bad])
    applied = cache.apply("w", publication(item_vectors=rows, user_vectors=rows.drop("bias")))
    assert (applied.rows, applied.nonfinite) == (2, 2)
    assert cache.item("bad") is None
    assert cache.score("good", ["good"]).tolist() == [5.0]
    assert np.isnan(cache.score("bad", ["good"])).all()


def test_a_refused_row_leaves_the_one_before() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(item_popularity=popularity(["a"], [3.0], 1)))
    cache.apply("w", publication(item_popularity=popularity(["a"], [float("nan")], 2)))
    assert cache.item("a").log2_popularity == 3.0


def test_lower_versions_are_ignored_row_by_row() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(9, item_popularity=popularity(["a", "b"], [1.0, 2.0], [5, 9])))
    applied = cache.apply("w", publication(7, item_popularity=popularity(["a", "b", "c"], [10.0, 20.0, 30.0], [6, 7, 7])))
    assert (applied.rows, applied.stale) == (2, 1)
    assert [cache.item(i).log2_popularity for i in "abc"] == [10.0, 2.0, 30.0]
    assert cache.versions == {"w": 9}


def test_of_rows_with_one_id_the_highest_version_stands() -> None:
    cache = ParameterCache()
    applied = cache.apply("w", publication(item_popularity=popularity(["a", "a", "a"], [1.0, 2.0, 3.0], [4, 6, 5])))
    assert (applied.rows, applied.stale) == (1, 2)
    assert cache.item("a").log2_popularity == 2.0


def test_a_removal_is_not_undone_by_an_older_row() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(item_popularity=gone(["never seen"], 5)))
    assert cache.apply("w", publication(item_popularity=popularity(["never seen"], [1.0], 4))).stale == 1
    assert cache.item("never seen") is None
    cache.apply("w", publication(item_popularity=popularity(["never seen"], [1.0], 6)))
    assert popular(cache) == ["never seen"]


def test_a_removed_item_leaves_every_list_though_it_has_a_vector() -> None:
    cache = ParameterCache()
    both = vectors(["a", "b"], [[1.0, 1.0], [2.0, 2.0]])
    users = vectors(["u"], [[1.0, 0.0]]).drop("bias")
    history = table(["v"], recent=[fingerprint("b")])
    cache.apply(
        "w", publication(item_popularity=popularity(["a", "b"], [1.0, 2.0]), item_vectors=both, user_vectors=users, user_history=history)
    )
    cache.apply("w", publication(item_popularity=gone(["a"], 2)))
    assert [item.item_id for item in cache.recommend("u", 5).items] == ["b"]
    assert cache.recommend("v", 5).items == ()
    assert cache.item("a") is None
    assert cache.item("b").neighbours == ()


def test_rows_are_reused_and_old_readers_do_not_see_it() -> None:
    cache = ParameterCache(CacheConfig(tombstones=0))
    cache.apply("w", publication(item_popularity=popularity(["a", "b"], [1.0, 2.0], 1)))
    before = cache.state
    row = before.items.row("a")
    cache.apply("w", publication(item_popularity=gone(["a"], 2)))
    between = cache.state
    cache.apply("w", publication(item_popularity=popularity(["c"], [3.0], 3)))
    assert cache.state.items.row("c") == row
    assert cache.state.items.row("a") == -1
    assert before.items.row("c") == between.items.row("c") == -1
    assert before.items.id_of(row) == "a"
    assert popular(cache) == ["c", "b"]
    assert cache.state.items.allocated == BLOCK_ROWS


def test_rows_stay_bounded_under_endless_ids() -> None:
    cache = ParameterCache(CacheConfig(tombstones=100))
    for start in range(0, 20_000, 50):
        ids = [f"i{n}" for n in range(start, start + 50)]
        cache.apply("w", publication(item_popularity=popularity(ids, [1.0] * 50, start)))
        cache.apply("w", publication(item_popularity=gone(ids, start)))
    assert cache.state.items.allocated <= 2 * BLOCK_ROWS
    assert cache.sizes["item_popularity"].rows == 0


def test_a_lineage_change_drops_the_rows_of_that_writer_alone() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(100, 500, item_popularity=popularity(["a", "b"], [1.0, 2.0], 100)), "first")
    cache.apply("other", publication(100, 700, item_popularity=popularity(["c"], [3.0], 100)), "first")
    applied = cache.apply("w", publication(1, 600, item_popularity=popularity(["b"], [9.0], 1)), "second")
    assert (applied.rows, applied.stale) == (1, 0)
    assert popular(cache) == ["b", "c"]
    assert cache.item("a") is None
    assert cache.versions == {"w": 1, "other": 100}
    assert cache.clock_ms == 700


def test_versions_of_different_writers_are_not_compared() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(item_popularity=popularity(["a"], [1.0], 100)))
    assert cache.apply("other", publication(item_popularity=popularity(["a"], [2.0], 3))).rows == 1
    assert cache.item("a").log2_popularity == 2.0


def test_the_clock_and_the_versions_do_not_go_back() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(9, 900))
    cache.apply("w", publication(3, 300))
    assert (cache.versions, cache.clock_ms) == ({"w": 9}, 900)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ({"item_popularity": table(["a"])}, "log2_popularity"),
        ({"item_popularity": popularity(["a"], [1.0]).drop("version")}, "version"),
        ({"item_vectors": table(["a"], vector=[[1.0, 2.0]], bias=[0.0])}, "fixed-width"),
        ({"user_history": table(["a"], recent=[b"short"])}, "recent"),
        ({"item_popularity": popularity(["a"], [1.0]).with_columns(id=pl.lit(None, dtype=pl.String))}, "id"),
        ({"item_popularity": popularity(["a"], [1.0]).with_columns(first_ms=pl.lit("soon"))}, "first_ms"),
        ({"item_vectors": vectors(["a"], [[1.0, 2.0, 3.0]], 2, width=3)}, "wide"),
    ],
)
def test_a_publication_that_does_not_fit_leaves_no_trace(rows: dict[str, pl.DataFrame], named: str) -> None:
    cache = ParameterCache()
    cache.apply("w", publication(item_vectors=vectors(["z"], [[1.0, 1.0]])))
    before = cache.state
    with pytest.raises(FreshetError, match=named):
        cache.apply("w", publication(2, **{"item_popularity": popularity(["other"], [1.0]), **rows}))
    assert cache.state is before
    assert cache.item("other") is None


def test_a_new_lineage_may_bring_another_width() -> None:
    cache = ParameterCache(CacheConfig(tombstones=0))
    cache.apply("w", publication(item_vectors=vectors(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])), "first")
    cache.apply("other", publication(item_vectors=vectors(["c"], [[5.0, 6.0]])))
    wider = vectors(["b"], [[1.0, 2.0, 3.0]], width=3)
    cache.apply("w", publication(item_vectors=wider, user_vectors=wider.drop("bias").with_columns(id=pl.lit("u"))), "second")
    assert cache.score("u", ["b"]).tolist() == [14.0]
    assert [item.item_id for item in cache.recommend("u", 5).items] == ["b"]
    assert (cache.item("a"), cache.item("c")) == (None, None)
    cache.apply("w", publication(), "second")
    assert [cache.state.items.row(id_) >= 0 for id_ in "abc"] == [False, True, False]


def test_vectors_of_another_width_than_the_user_has_are_not_compared() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(item_vectors=vectors(["a"], [[1.0, 2.0]]), user_vectors=vectors(["u"], [[1.0, 2.0, 3.0]], width=3)))
    assert cache.recommend("u", 5).items == ()
    assert np.isnan(cache.score("u", ["a"])).all()


def test_an_apply_copies_the_touched_blocks_alone() -> None:
    cache = ParameterCache()
    ids = [f"i{n}" for n in range(20 * BLOCK_ROWS)]
    cache.apply("w", publication(item_popularity=popularity(ids, [1.0] * len(ids)), item_vectors=vectors(ids, [[1.0, 1.0]] * len(ids))))
    before = cache.state.items
    cache.apply("w", publication(item_popularity=popularity([ids[0], ids[1], ids[700]], [2.0] * 3, 2)))
    after = cache.state.items
    replaced = [old is not new for old, new in zip(before["item_popularity"].blocks, after["item_popularity"].blocks, strict=True)]
    assert np.flatnonzero(replaced).tolist() == [0, 700 // BLOCK_ROWS]
    assert after["item_vectors"] is before["item_vectors"]
    assert after.ids is before.ids


def test_sizes_count_rows_and_the_bytes_they_refer_to() -> None:
    cache = ParameterCache()
    cache.apply("w", publication(user_history=table(["u", "v"], recent=[b"x" * 160, b"y" * 16])))
    small = cache.sizes["user_history"]
    cache.apply("w", publication(user_history=table(["v"], 2, recent=[b"y" * 480])))
    assert (small.rows, cache.sizes["user_history"].rows) == (2, 2)
    assert cache.sizes["user_history"].bytes - small.bytes == 480 - 16
    assert cache.sizes["codebook"] == (0, 0)


def test_codebooks_come_back_as_published() -> None:
    cache = ParameterCache()
    words = [np.arange(4, dtype="<f4").tobytes(), np.ones(4, dtype="<f4").tobytes(), np.array([np.nan], dtype="<f4").tobytes()]
    rows = table(["7/0", "7/1", "8/0"], codebook_version=[7, 7, 8], level=[0, 1, 0], centroids=words)
    assert cache.apply("w", publication(codebook=rows)).nonfinite == 1
    assert cache.codebook(7) == {0: words[0], 1: words[1]}
    assert cache.codebook(8) == {}


def test_an_item_says_what_is_known_of_it() -> None:
    cache = ParameterCache()
    tokens = table(["a", "b"], 3, tokens=pl.Series([[4, 5], [4, 6]], dtype=pl.Array(pl.UInt16, 2)), codebook_version=[7, 7])
    rooms = popularity(["a"], [2.5], 2, start_ms=[10], end_ms=pl.Series([None], dtype=pl.Int64))
    cache.apply("w", publication(3, 50, item_tokens=tokens, item_popularity=rooms))
    item = cache.item("a")
    assert (item.tokens, item.codebook_version, item.log2_popularity) == ((4, 5), 7, 2.5)
    assert (item.first_ms, item.start_ms, item.end_ms, item.event_ms) == (1, 10, None, 1_003)
    assert item.neighbours == (("b", 0.5),)
    assert cache.item("b").log2_popularity is None


@pytest.mark.parametrize("settings", [{"max_k": 0}, {"seen_items": -1}, {"similar_items": 31}, {"popularity_weight": float("nan")}])
def test_settings_that_cannot_be_used_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        CacheConfig(**settings)  # type: ignore[arg-type]  # wrong on purpose


def test_columns_are_those_of_the_blocks_however_rarely_they_are_read() -> None:
    rng, cache = random.Random(1), ParameterCache()
    for version in range(60):
        ids = [f"i{rng.randrange(100 + 40 * version)}" for _ in range(15)]
        tokens = pl.Series([[rng.randrange(9)] * 2 for _ in ids], dtype=pl.Array(pl.UInt16, 2))
        both = {
            "item_tokens": table(ids, version, tokens=tokens, codebook_version=[version] * len(ids)),
            "item_popularity": popularity(ids, [rng.random() for _ in ids], version),
        }
        cache.apply("w", publication(**dict([rng.choice(list(both.items()))])))
        for name, column in rng.sample([("item_tokens", "*"), ("item_tokens", "present"), ("item_popularity", "end_ms")], rng.randrange(3)):
            held = cache.state.items[name]
            assert held.column(column).tolist() == np.concatenate([block[column] for block in held.blocks]).tolist()
    assert cache.state.items.allocated > 4 * BLOCK_ROWS
