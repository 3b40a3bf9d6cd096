"""Checkpoints: whole or not there, shared where nothing changed, and never one bad block for all."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from core.errors import SnapshotError
from core.snapshot import Snapshot
from streams.checkpoints import FORMAT, MANIFEST, Checkpoints, read_manifest

Take = Callable[[Snapshot], None]


def snapshot(files: Mapping[str, str]) -> Take:
    """Takes these; links those that are the same in the previous checkpoint, as stages do."""

    def take(into: Snapshot) -> None:
        for name, content in files.items():
            (into.directory / name).parent.mkdir(exist_ok=True)
            known = into.previous / name if into.previous else None
            if not (known and known.exists() and known.read_text() == content and into.link(name)):
                into.write(name, content.encode())

    return take


def take(store: Checkpoints, offset: int, previous: Path | None = None, **files: str) -> Path:
    return store.finish(store.take(offset, snapshot({"a": "same", "deep/b": "same too", **files}), previous), previous)


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "state", kept=3, full_every=100, owner="me")


def test_nothing_yet(store: Checkpoints) -> None:
    assert store.directories() == []
    assert store.newest() is None
    assert store.oldest_offset() is None


def test_named_by_position_and_described_by_the_manifest(store: Checkpoints) -> None:
    path = take(store, 42, c="more")
    assert path.name == "00000000000000000042-me"
    assert store.newest() == path
    manifest = read_manifest(path)
    assert (manifest.format, manifest.next_offset) == (FORMAT, 42)
    assert {name: entry.size for name, entry in manifest.files.items()} == {"a": 4, "c": 4, "deep/b": 8}


def test_what_is_not_finished_is_not_there(store: Checkpoints) -> None:
    first = take(store, 1)
    pending = store.take(2, snapshot({"a": "half"}), first)
    assert store.directories() == [first]
    (store.root / "00000000000000000003-me").mkdir()  # a directory without a manifest
    assert store.newest() == first
    second = store.finish(pending, first)
    assert store.directories() == [first, second]


def test_a_failed_snapshot_leaves_no_trace_that_counts(store: Checkpoints) -> None:
    first = take(store, 1)

    def fails(into: Snapshot) -> None:
        (into.directory / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.take(2, fails, first)
    assert store.directories() == [first]
    second = take(store, 2, first, c="again")
    assert sorted(path.name for path in second.iterdir()) == ["a", "c", "deep", MANIFEST]


def test_the_same_position_twice_is_one_checkpoint(store: Checkpoints) -> None:
    first = take(store, 7)
    assert take(store, 7, first) == first
    assert list(store.root.iterdir()) == [first]


def _truncate(path: Path) -> None:
    (path / "a").write_text("sam")


def _flip(path: Path) -> None:
    (path / "deep/b").write_text("same toO")


def _remove(path: Path) -> None:
    (path / "a").unlink()


def _break_manifest(path: Path) -> None:
    (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes()[:-5])


def _other_format(path: Path) -> None:
    raw = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(raw.replace(f'"format":{FORMAT}'.encode(), f'"format":{FORMAT + 1}'.encode()))


DAMAGE = [_truncate, _flip, _remove, _break_manifest, _other_format]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_passed_over_and_reported(
    damage: Callable[[Path], None], store: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = take(store, 1), take(store, 2)
    damage(newer)
    with caplog.at_level(logging.ERROR):
        assert store.newest() == older
    [record] = caplog.records
    assert newer.name in record.getMessage()
    assert "damaged" in record.getMessage()


def test_where_none_is_whole_it_says_so(store: Checkpoints) -> None:
    for offset in (1, 2):
        _flip(take(store, offset))
    with pytest.raises(SnapshotError, match="remove the directory to rebuild"):
        store.newest()


def test_unchanged_files_are_shared_until_a_full_copy(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, kept=10, full_every=3)
    first = take(store, 1, c="1")
    second = take(store, 2, first, c="2")
    third = take(store, 3, second, c="3")
    fourth = take(store, 4, third, c="4")
    assert inodes(first) & inodes(second) == {inode(first, "a"), inode(first, "deep/b")}
    assert not inodes(third) & (inodes(first) | inodes(second))
    assert inodes(third) & inodes(fourth) == {inode(third, "a"), inode(third, "deep/b")}
    assert all(store._fault(path) is None for path in (first, second, third, fourth))


def inode(path: Path, name: str) -> int:
    return (path / name).stat().st_ino


def inodes(path: Path) -> set[int]:
    return {file.stat().st_ino for file in path.rglob("*") if file.is_file()}


def test_a_full_copy_also_parts_files_linked_from_elsewhere(tmp_path: Path) -> None:
    """RocksDB's checkpoints link the working directory's files, whatever `previous` is."""
    working = tmp_path / "000007.sst"
    working.write_text("rows")
    store = Checkpoints(tmp_path / "state", kept=10, full_every=2)
    take: Take = lambda into: (into.directory / "000007.sst").hardlink_to(working)  # noqa: E731  # one line says it
    linked = store.finish(store.take(1, take, None), None)
    full = store.finish(store.take(2, take, linked), linked)
    assert inode(linked, "000007.sst") == working.stat().st_ino
    assert full.joinpath("000007.sst").stat().st_nlink == 1
    assert full.joinpath("000007.sst").read_text() == "rows"


def test_a_linked_file_keeps_its_hash_and_a_replaced_one_is_hashed_anew(store: Checkpoints) -> None:
    first = take(store, 1, c="old")
    second = take(store, 2, first, c="new")
    before, after = read_manifest(first).files, read_manifest(second).files
    assert before["a"] == after["a"]
    assert before["c"].sha256 != after["c"].sha256


def test_only_the_newest_are_kept(store: Checkpoints) -> None:
    for offset in (5, 6, 7, 8, 20):
        take(store, offset)
    assert [int(path.name[:20]) for path in store.directories()] == [7, 8, 20]
    assert store.oldest_offset() == 7


def test_positions_are_compared_as_numbers(store: Checkpoints) -> None:
    take(store, 999)
    assert take(store, 1_000) == store.newest()
