"""Readers beside a writer: every version of the cache is one publication's, whole, and stays as it was."""

import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest

from core.hashing import fingerprint
from core.stage import Publication
from learners.cache import ParameterCache
from learners.recommend import CacheConfig, State
from learners.tables import Table

ITEMS, USERS, CHANGING, WIDTH = 600, 150, 20, 4
ROUNDS, READERS = 40, 3


def stamped(stamp: int) -> Publication:
    """Rewrites every row of every table with `stamp`; brings the items `new-<stamp>-*` and removes those of the last stamp."""
    items = [f"i{n}" for n in range(ITEMS)] + [f"new-{stamp}-{n}" for n in range(CHANGING)]
    old = [f"new-{stamp - 1}-{n}" for n in range(CHANGING)]
    users = [f"u{n}" for n in range(USERS)]
    tables = {
        "item_popularity": rows(stamp, items, old, log2_popularity=pl.lit(float(stamp)), first_ms=pl.lit(stamp)),
        "item_vectors": rows(stamp, items, old, vector=vector(stamp), bias=pl.lit(float(stamp), dtype=pl.Float32)),
        "item_tokens": rows(stamp, items, old, tokens=vector(stamp).cast(pl.Array(pl.UInt16, WIDTH)), codebook_version=pl.lit(stamp)),
        "user_vectors": rows(stamp, users, [], vector=vector(stamp)),
        "user_history": rows(stamp, users, [], recent=pl.lit(fingerprint(f"new-{stamp}-0"))),
    }
    return Publication(tables, stamp, stamp, np.empty(0, dtype=np.int64))


def vector(stamp: int) -> pl.Expr:
    return pl.lit(pl.Series([[float(stamp)] * WIDTH], dtype=pl.Array(pl.Float32, WIDTH))).first()


def rows(stamp: int, ids: list[str], old: list[str], **own: pl.Expr) -> pl.DataFrame:
    removed = [False] * len(ids) + [True] * len(old)
    base = pl.DataFrame({"id": ids + old, "removed": removed})
    return base.with_columns(version=pl.lit(stamp), event_ms=pl.lit(stamp), **own)


def tables_of(state: State) -> dict[str, Table]:
    return {**state.users.tables, **state.items.tables}


def stamps(state: State) -> set[float]:
    """Every stamp that the present rows of a state carry, wherever it is written."""
    seen: set[float] = set()
    for name, table in tables_of(state).items():
        for block in table.blocks:
            present = block.records["present"]
            seen.update(block.records["event_ms"][present].tolist())
            seen.update(block.wide[present].ravel().tolist())
            if name == "item_popularity":
                seen.update(block.records["log2_popularity"][present].tolist())
            if name == "user_vectors":
                seen.update(np.frombuffer(b"".join(block.records["vector"][present]), dtype="<f4").tolist())
    return seen


def listed_ids(state: State) -> set[str]:
    table = state.items["item_popularity"]
    return {state.items.id_of(row) for row in np.flatnonzero(table.column("present")).tolist()}


def check_state(cache: ParameterCache) -> None:
    state = cache.state
    stamp = state.writers["w"].version
    assert stamps(state) == {stamp}
    assert listed_ids(state) == {f"i{n}" for n in range(ITEMS)} | {f"new-{stamp}-{n}" for n in range(CHANGING)}
    assert state.clock_ms == stamp


def check_rows(cache: ParameterCache) -> None:
    state = cache.state
    stamp = state.writers["w"].version
    for other in range(stamp, stamp + 4):
        row = state.items.row(f"new-{other}-0")
        assert row == -1 or state.items.id_of(row) == f"new-{other}-0"


def check_answer(cache: ParameterCache) -> None:
    answer = cache.recommend("u7", 200)
    stamp = answer.versions["w"]
    assert {item.score for item in answer.items} == {WIDTH * stamp**2 + stamp}
    assert {item.link for item in answer.items} == {"personal"}
    assert f"new-{stamp}-0" not in {item.item_id for item in answer.items}
    assert answer.event_ms == answer.clock_ms == stamp


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads change places every few instructions, so that a tear has every chance to show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("check", [check_state, check_rows, check_answer])
@pytest.mark.usefixtures("eager_switching")
def test_readers_never_see_two_stamps(check: Callable[[ParameterCache], None]) -> None:
    cache = ParameterCache(CacheConfig(tombstones=0))
    cache.apply("w", stamped(1))
    done, failures, reads = threading.Event(), [], [0] * READERS

    def read(reader: int) -> None:
        try:
            while not done.is_set():
                check(cache)
                reads[reader] += 1
        except Exception as failure:  # noqa: BLE001  # handed to the test, which fails
            failures.append(failure)

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(READERS)]
    for thread in threads:
        thread.start()
    for stamp in range(2, ROUNDS):
        cache.apply("w", stamped(stamp))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert min(reads) > 0
    assert cache.state.items.allocated < ITEMS + 10 * CHANGING + 128  # rows were reused, so the check had something to catch


def contents(state: State) -> list[bytes]:
    """Every byte of a state that a reader could look at."""
    tables = [*tables_of(state).values(), state.users.ids, state.items.ids]
    return [part for table in tables for block in table.blocks for part in (repr(block.records.tolist()).encode(), block.wide.tobytes())]


def test_a_state_never_changes_once_taken() -> None:
    cache = ParameterCache(CacheConfig(tombstones=0))
    cache.apply("w", stamped(1))
    taken = cache.state
    before = contents(taken)
    for stamp in range(2, 6):
        cache.apply("w", stamped(stamp))
    cache.apply("w", stamped(1), "another lineage")
    assert contents(taken) == before
    assert stamps(taken) == {1}
