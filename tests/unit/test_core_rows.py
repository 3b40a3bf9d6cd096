"""Row arrays: a chain of partial snapshots restores what was there, and unchanged chunks are not written again."""

from pathlib import Path

import numpy as np
import pytest

from core.compiled import LINE_BYTES
from core.errors import SnapshotError
from core.rows import CHUNK_ROWS, Rows, side_by_side
from core.snapshot import Snapshot

CAPACITY = 5 * CHUNK_ROWS + 10
FIELDS = {"vector": ("float32", (3,)), "count": ("int64", ())}


def filled(seed: int, rows: np.ndarray, table: Rows) -> None:
    """Write random values to `rows` and say so."""
    rng = np.random.Generator(np.random.Philox(seed))
    table["vector"][rows] = rng.random((len(rows), 3), dtype=np.float32)
    table["count"][rows] = rng.integers(0, 100, len(rows))
    table.mark(rows)


def snapshot(table: Rows, directory: Path, previous: Path | None, used: int = CAPACITY) -> Path:
    directory.mkdir()
    into = Snapshot(directory, previous)
    table.snapshot(into, used)
    into.flush()
    return directory


def inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(directory.iterdir())}


def restored(directory: Path) -> Rows:
    table = Rows(CAPACITY, FIELDS)
    table.restore(directory)
    return table


def test_a_chain_of_snapshots_restores_every_state(tmp_path: Path) -> None:
    table, previous, states = Rows(CAPACITY, FIELDS), None, []
    everything = np.arange(CAPACITY)
    for step in range(6):
        filled(step, np.random.Generator(np.random.Philox(step)).integers(0, CAPACITY, 2), table)
        previous = snapshot(table, tmp_path / str(step), previous)
        states.append((previous, table.digest(everything)))
    assert len({digest for _, digest in states}) == len(states)
    for directory, digest in states:
        assert restored(directory).digest(everything) == digest


def test_only_changed_chunks_are_written(tmp_path: Path) -> None:
    table = Rows(CAPACITY, FIELDS)
    filled(1, np.arange(CAPACITY), table)
    first = snapshot(table, tmp_path / "1", None)
    filled(2, np.array([0, CHUNK_ROWS - 1, 3 * CHUNK_ROWS]), table)
    second = snapshot(table, tmp_path / "2", first)
    same = [name for name, inode in inodes(first).items() if inodes(second)[name] == inode]
    assert sorted(set(inodes(first)) - set(same)) == ["chunk-000000.bin", "chunk-000003.bin"]
    assert len(inodes(second)) == 6


def test_nothing_is_linked_without_a_previous_snapshot(tmp_path: Path) -> None:
    table = Rows(CAPACITY, FIELDS)
    filled(1, np.arange(CAPACITY), table)
    first = snapshot(table, tmp_path / "1", None)
    second = snapshot(table, tmp_path / "2", None)
    assert not set(inodes(first).values()) & set(inodes(second).values())
    np.testing.assert_array_equal(restored(second)["vector"], table["vector"])


def test_only_used_chunks_are_written(tmp_path: Path) -> None:
    table = Rows(CAPACITY, FIELDS)
    filled(1, np.arange(CHUNK_ROWS + 1), table)
    directory = snapshot(table, tmp_path / "1", None, used=CHUNK_ROWS + 1)
    assert sorted(inodes(directory)) == ["chunk-000000.bin", "chunk-000001.bin"]
    np.testing.assert_array_equal(restored(directory)["count"], table["count"])


def test_a_table_that_grows_writes_chunks_that_the_last_snapshot_lacks(tmp_path: Path) -> None:
    table = Rows(CAPACITY, FIELDS)
    filled(1, np.array([0]), table)
    first = snapshot(table, tmp_path / "1", None, used=1)
    second = snapshot(table, tmp_path / "2", first, used=CHUNK_ROWS + 1)
    assert sorted(inodes(second)) == ["chunk-000000.bin", "chunk-000001.bin"]


def test_a_snapshot_of_other_sizes_is_refused(tmp_path: Path) -> None:
    table = Rows(CAPACITY, FIELDS)
    directory = snapshot(table, tmp_path / "1", None)
    with pytest.raises(SnapshotError, match="other sizes"):
        Rows(CAPACITY, {"vector": ("float32", (4,)), "count": ("int64", ())}).restore(directory)


def test_the_digest_is_of_the_given_rows_in_their_order() -> None:
    table = Rows(CAPACITY, FIELDS)
    filled(1, np.arange(4), table)
    assert table.digest(np.array([0, 1])) != table.digest(np.array([1, 0]))
    before = table.digest(np.array([0, 1]))
    table["count"][2] += 1
    assert table.digest(np.array([0, 1])) == before
    table["count"][1] += 1
    assert table.digest(np.array([0, 1])) != before


def test_side_by_side_a_row_is_one_place() -> None:
    fields = {"vector": ("<f4", (3,)), "none": ("<f4", (0,)), "count": ("<i8", ()), "alive": ("?", ()), "ring": ("<u2", (50,))}
    arrays = side_by_side(9, fields)
    assert list(arrays) == list(fields) and not any(array.any() for array in arrays.values())
    for name, (dtype, shape) in fields.items():
        assert arrays[name].dtype == np.dtype(dtype) and arrays[name].shape == (9, *shape)
        assert arrays[name].flags.aligned and arrays[name][4].flags.c_contiguous
    starts = [array.ctypes.data - arrays["vector"].ctypes.data for array in arrays.values()]
    stride = arrays["vector"].strides[0]
    assert starts == sorted(starts) and starts[-1] + 100 <= stride and {array.strides[0] for array in arrays.values()} == {stride}
    assert arrays["vector"].ctypes.data % LINE_BYTES == 0 and stride % (2 * LINE_BYTES) == LINE_BYTES


def test_side_by_side_rows_are_saved_and_restored(tmp_path: Path) -> None:
    table = Rows.over(side_by_side(CAPACITY, FIELDS), np.zeros(6, np.bool_))
    filled(1, np.arange(CAPACITY), table)
    back = restored(snapshot(table, tmp_path / "one", None))
    for name in FIELDS:
        assert np.array_equal(back[name], table[name]), name
    assert back.digest(np.arange(CAPACITY)) == table.digest(np.arange(CAPACITY))
