"""What a snapshot keeps in memory until it is flushed is bounded; what is beyond goes to the disk at once, and nothing is lost."""

from pathlib import Path

import numpy as np

from core.rows import CHUNK_ROWS, Rows
from core.snapshot import Snapshot

CHUNK = bytes(range(100))


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_contents_wait_for_the_flush_while_there_is_room(tmp_path: Path) -> None:
    into = Snapshot(tmp_path, held_bytes=2 * len(CHUNK))
    into.write("1", CHUNK)
    into.write("2", CHUNK)
    assert names(tmp_path) == []
    into.flush()
    assert names(tmp_path) == ["1", "2"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {CHUNK}


def test_what_there_is_no_room_for_is_written_at_once(tmp_path: Path) -> None:
    into = Snapshot(tmp_path, held_bytes=len(CHUNK))
    into.write("1", CHUNK)
    part = into.within("part")  # the room is that of the whole
    part.write("2", CHUNK)
    part.write("3", b"")
    assert names(tmp_path) == ["part/2"]
    into.flush()
    assert names(tmp_path) == ["1", "part/2", "part/3"]
    assert (tmp_path / "part" / "2").read_bytes() == CHUNK


def test_there_is_room_again_after_a_flush(tmp_path: Path) -> None:
    into = Snapshot(tmp_path, held_bytes=len(CHUNK))
    for name in ("1", "2"):
        into.write(name, CHUNK)
        into.flush()
    into.write("3", CHUNK)
    assert names(tmp_path) == ["1", "2"]


def test_rows_are_the_same_whatever_the_room(tmp_path: Path) -> None:
    table = Rows(3 * CHUNK_ROWS, {"vector": ("float32", (3,))})
    table["vector"][:] = np.random.Generator(np.random.Philox(1)).random((table.capacity, 3), dtype=np.float32)
    for name, held_bytes in (("all", 1 << 30), ("one", CHUNK_ROWS * 12), ("none", 0)):
        (tmp_path / name).mkdir()
        into = Snapshot(tmp_path / name, held_bytes=held_bytes)
        table.mark(np.arange(table.capacity))
        table.snapshot(into, table.capacity)
        assert len(names(tmp_path / name)) == {"all": 0, "one": 2, "none": 3}[name]
        into.flush()
        back = Rows(table.capacity, {"vector": ("float32", (3,))})
        back.restore(tmp_path / name)
        assert np.array_equal(back["vector"], table["vector"])
