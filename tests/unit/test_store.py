"""The state store against a dict, and what RocksDB is told on every open."""

import os

import numpy as np
import pytest
import rocksdict
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import SnapshotError
from core.ids import dense
from features.hot_rows import USED, HotRows
from features.sparse_rows import flat, unpack
from features.store import FORMAT_KEY, ExpiringRows, StateStore, block_cache

FAMILIES = ("left", "right")
CACHE_BYTES = (24 << 20) + 1  # a size that no other test uses, so that its cache is this module's own


def put(store: StateStore, family: str, rows: dict[bytes, bytes]) -> None:
    batch = store.batch()
    batch.put_many(family, rows, rows.values())
    store.write(batch)


@pytest.fixture
def store(tmp_path):
    store = StateStore(tmp_path / "store", FAMILIES, CACHE_BYTES)
    yield store
    store.close()


def test_families_keep_their_rows_apart_and_in_key_order(store):
    put(store, "left", {b"b": b"2", b"a": b"1"})
    put(store, "right", {b"a": b"other"})
    assert store.get_many("left", [b"a", b"c", b"b", b"a"]) == [b"1", None, b"2", b"1"]
    assert store.get_many("right", [b"a"]) == [b"other"]
    assert list(store.items("left")) == [(b"a", b"1"), (b"b", b"2")]


def test_a_batch_spans_families_and_deletes(store):
    put(store, "left", {b"a": b"1", b"b": b"2"})
    batch = store.batch()
    batch.delete_many("left", [b"a"])
    batch.put_many("right", [b"a"], [b"moved"])
    assert store.get_many("left", [b"a"]) == [b"1"]
    store.write(batch)
    assert store.get_many("left", [b"a", b"b"]) == [None, b"2"]
    assert store.get_many("right", [b"a"]) == [b"moved"]


def test_drop_below_is_exclusive_and_of_one_family(store):
    for family in FAMILIES:
        put(store, family, {b"a": b"1", b"b": b"2", b"c": b"3"})
    store.drop_below("left", b"b")
    assert [key for key, _ in store.items("left")] == [b"b", b"c"]
    assert store.get_many("left", [b"a", b"b"]) == [None, b"2"]
    assert len(list(store.items("right"))) == 3


def test_a_reopened_store_keeps_rows_cache_and_bloom_filters(tmp_path):
    keys = [f"{n:08d}".encode() for n in range(0, 100_000, 2)]
    store = StateStore(tmp_path / "store", FAMILIES, CACHE_BYTES)
    put(store, "left", dict.fromkeys(keys, b"value"))
    store.close()
    block_cache.cache_clear()
    store = StateStore(tmp_path / "store", FAMILIES, CACHE_BYTES)
    assert store.sizes_bytes()["cache_limit"] == CACHE_BYTES
    assert store.sizes_bytes()["tables"] > 0
    assert store.get_many("left", [b"00000001"]) == [None]
    assert store.sizes_bytes()["cache"] < 10_000  # the filter spared the read of a block; it is held beside the cache
    assert store.get_many("left", keys) == [b"value"] * len(keys)
    store.close()
    options = sorted((tmp_path / "store").glob("OPTIONS-*"))[-1].read_text()
    assert options.count("filter_policy=bloomfilter") == len(FAMILIES) + 1
    assert options.count("compression=kLZ4Compression") >= len(FAMILIES) + 1


def test_stores_share_one_cache(tmp_path):
    stores = [StateStore(tmp_path / name, FAMILIES, CACHE_BYTES) for name in ("one", "two")]
    put(stores[0], "left", {f"{n}".encode(): bytes(100) for n in range(20_000)})
    stores[0].checkpoint(tmp_path / "flushed")
    assert len(list(stores[0].items("left"))) == 20_000
    assert stores[1].sizes_bytes()["cache"] == stores[0].sizes_bytes()["cache"] > 0
    for store in stores:
        store.close()


def test_nothing_goes_to_a_write_ahead_log(store, tmp_path):
    put(store, "left", {f"{n}".encode(): bytes(100) for n in range(1_000)})
    assert sum(path.stat().st_size for path in (tmp_path / "store").glob("*.log")) == 0


def test_a_checkpoint_is_linked_and_stays_as_it_was(store, tmp_path):
    put(store, "left", {b"a": b"1"})
    store.checkpoint(tmp_path / "checkpoint")
    put(store, "left", {b"a": b"2", b"b": b"2"})
    copy = StateStore.from_checkpoint(tmp_path / "checkpoint", tmp_path / "work", FAMILIES, CACHE_BYTES)
    assert list(copy.items("left")) == [(b"a", b"1")]
    put(copy, "left", {b"a": b"3"})
    copy.close()
    tables = list((tmp_path / "checkpoint").glob("*.sst"))
    assert tables
    assert all(table.stat().st_nlink >= 2 for table in tables)
    again = StateStore.from_checkpoint(tmp_path / "checkpoint", tmp_path / "work", FAMILIES, CACHE_BYTES)
    assert list(again.items("left")) == [(b"a", b"1")]
    again.close()


def test_a_checkpoint_on_another_file_system_is_copied(store, tmp_path, monkeypatch):
    put(store, "left", {b"a": b"1"})
    store.checkpoint(tmp_path / "checkpoint")

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copy = StateStore.from_checkpoint(tmp_path / "checkpoint", tmp_path / "work", FAMILIES, CACHE_BYTES)
    assert list(copy.items("left")) == [(b"a", b"1")]
    copy.close()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SnapshotError, match="no RocksDB checkpoint"):
        StateStore.from_checkpoint(tmp_path / "empty", tmp_path / "work", FAMILIES, CACHE_BYTES)


@pytest.mark.parametrize("stored", [b"1", None])
def test_another_format_is_refused_and_names_the_way_out(tmp_path, stored):
    store = StateStore(tmp_path / "store", FAMILIES, CACHE_BYTES)
    store.close()
    raw_options = rocksdict.Options(raw_mode=True)
    raw = rocksdict.Rdict(str(tmp_path / "store"), options=raw_options, column_families=dict.fromkeys(("default", *FAMILIES), raw_options))
    if stored is None:
        del raw[FORMAT_KEY]
    else:
        raw[FORMAT_KEY] = stored
    raw.close()
    with pytest.raises(SnapshotError, match="rebuild"):
        StateStore(tmp_path / "store", FAMILIES, CACHE_BYTES)


def test_empty_forgets_what_lay_there(tmp_path):
    store = StateStore(tmp_path / "store", FAMILIES, CACHE_BYTES)
    put(store, "left", {b"a": b"1"})
    store.close()
    store = StateStore.empty(tmp_path / "store", FAMILIES, CACHE_BYTES)
    assert store.get_many("left", [b"a"]) == [None]
    store.close()


def test_dense_numbers_keys_by_first_appearance():
    assert dense([])[0] == []
    for keys in (["b", "a", "b", "c", "a"], ["x", "y"]):
        distinct, index = dense(keys)
        assert distinct == sorted(set(keys), key=keys.index)
        assert [distinct[at] for at in index.tolist()] == keys


def unpacked(value):
    rows = np.zeros((1, 2), dtype="<i8")
    unpack(flat([value]), rows, np.zeros(1, dtype=np.int64))
    return tuple(rows[0].tolist())


TTL_MS = 100
steps = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8), st.integers(0, 150), st.booleans()), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(1, 8), st.sampled_from([0, 600, 1 << 20]))
def test_hot_and_expiring_rows_are_a_dict_that_forgets(tmp_path_factory, steps, capacity, packed_bytes):
    """Each step uses some ids at a later time. A row's word 1 counts uses since it was last absent."""
    store = StateStore.empty(tmp_path_factory.mktemp("hot"), FAMILIES, CACHE_BYTES)
    table = ExpiringRows(store, "left", TTL_MS)
    hot, twin, now_ms = HotRows(table, 2, capacity, packed_bytes), {}, 1_000
    for ids, passed, flushed in steps:
        before_ms, now_ms = now_ms, now_ms + passed
        slots = hot.admit(ids, before_ms)
        for slot, id_ in zip(slots.tolist(), ids, strict=True):
            used_ms, uses = twin.get(id_, (0, 0))
            twin[id_] = (now_ms, (uses if now_ms - used_ms < TTL_MS else 0) + 1)
            row = hot.words[slot]
            row[:] = now_ms, (row[1] if now_ms - row[USED] < TTL_MS else 0) + 1
        hot.trim()
        if flushed:  # a checkpoint
            hot.flush()
        table.drop_expired(before_ms, now_ms)
        live = {id_: row for id_, row in twin.items() if now_ms - row[0] < TTL_MS}
        assert {id_: tuple(row) for id_, row in zip(live, hot.read(list(live), now_ms).tolist(), strict=True)} == live
    hot.flush()
    stored = [(key[4:].decode(), unpacked(value)) for key, value in table.live(now_ms)]
    assert sorted(stored) == sorted(live.items())
    store.close()


def test_expired_generations_leave_the_disk(store):
    table, ids = ExpiringRows(store, "left", TTL_MS), [f"{n}".encode() for n in range(50)]
    for generation in range(1, 20):
        now_ms = generation * TTL_MS
        table.drop_expired(now_ms - TTL_MS, now_ms)
        batch = store.batch()
        used_ms = np.full(len(ids), now_ms)
        fresh = [id_ + f"-{generation}".encode() for id_ in ids]
        table.save(batch, fresh, [now_ms.to_bytes(8, "little")] * len(ids), used_ms, np.zeros_like(used_ms))
        store.write(batch)
        assert len(list(store.items("left"))) <= 2 * len(ids)
