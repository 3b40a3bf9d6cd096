"""Checkpoints: one directory per position, whole or not there at all.

    state_dir/<stage>-<partition>/<next offset>-<owner>/   files, then manifest.json (sizes and SHA-256) written last

Written under a temporary name, synced, renamed. Unchanged files are hard links to the previous checkpoint's.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from core.errors import SnapshotError
from core.position import REBUILD
from core.snapshot import Snapshot

FORMAT = 2
MANIFEST = "manifest.json"
ABANDONED_SECONDS = 3_600.0
log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True):
    """One file of a checkpoint; `inode` and `mtime_ns` tell a hard link from a new file of the same name."""

    size: int
    sha256: str
    inode: int
    mtime_ns: int


class Manifest(msgspec.Struct, frozen=True):
    format: int
    next_offset: int
    files: dict[str, Entry]


class Checkpoints:
    """The checkpoints of one stage partition, oldest first by position."""

    def __init__(self, root: Path, kept: int, full_every: int, owner: str = "") -> None:
        self.root, self.kept, self.full_every = root, kept, full_every
        self.owner = owner or uuid.uuid4().hex[:8]  # not the process id: containers that share a disk have the same ones
        self._taken = 0
        root.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()

    def _remove_abandoned(self) -> None:
        """What processes that were killed had begun. A former owner may still be writing, so only what is old goes."""
        for path in self.root.glob(".tmp-*"):
            with contextlib.suppress(FileNotFoundError):  # another process removes it
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(path)

    def directories(self) -> list[Path]:
        """Finished checkpoints, lowest position first."""
        found = (path for path in self.root.iterdir() if path.name[:20].isdigit() and (path / MANIFEST).exists())
        return sorted(found, key=lambda path: path.name)

    def newest(self) -> Path | None:
        """The newest whole checkpoint; damaged ones are reported and passed over.

        Raises:
            SnapshotError: there are checkpoints, but none is whole.
        """
        directories = self.directories()
        for path in reversed(directories):
            fault = self._fault(path)
            if fault is None:
                return path
            log.error("checkpoint %s is damaged (%s); falling back to an older one", path, fault)
        if directories:
            raise SnapshotError(f"no checkpoint in {self.root} is whole; remove the directory to rebuild from the retained log")
        return None

    def _fault(self, path: Path) -> str | None:
        try:
            manifest = read_manifest(path)
            wrong = [name for name, entry in manifest.files.items() if sha256(path / name) != entry.sha256]
        except (OSError, msgspec.DecodeError, SnapshotError) as error:
            return str(error)
        return f"wrong bytes in {', '.join(wrong)}" if wrong else None

    def take(self, next_offset: int, snapshot: Callable[[Snapshot], None], previous: Path | None) -> "Pending":
        """Step 1: let the stage say what it holds, for files under a temporary name. Quick: nothing is on disk yet.

        `previous` is the checkpoint that the stage's unchanged files may be linked from.
        """
        final = self.root / f"{next_offset:020d}-{self.owner}"
        temporary = self.root / f".tmp-{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        self._taken += 1
        full = self._taken % self.full_every == 0
        files = Snapshot(temporary, None if full else previous)
        snapshot(files)
        return Pending(files, final, next_offset, full)

    def finish(self, pending: "Pending", previous: Path | None) -> Path:
        """Steps 2-4, off the data path: write, sync and hash the files, write the manifest, rename, drop the oldest."""
        temporary = pending.files.directory
        if pending.final.exists():
            shutil.rmtree(temporary)
            return pending.final
        pending.files.flush()
        if pending.full:
            _unshare(temporary)
        known = read_manifest(previous).files if previous and (previous / MANIFEST).exists() else {}  # gone: its next owner pruned it
        entries = {name: _entry(path, known.get(name)) for name, path in _files(temporary)}
        manifest = msgspec.json.encode(Manifest(FORMAT, pending.next_offset, entries))
        _write_synced(temporary / MANIFEST, manifest)
        for directory in {path.parent for _, path in _files(temporary)}:
            sync(directory)
        temporary.rename(pending.final)
        sync(self.root)
        self._prune()
        return pending.final

    def _prune(self) -> None:
        for path in self.directories()[: -self.kept]:
            shutil.rmtree(path)

    def oldest_offset(self) -> int | None:
        """Input below this is needed by no retained checkpoint."""
        directories = self.directories()
        return int(directories[0].name[:20]) if directories else None


class Pending(msgspec.Struct, frozen=True):
    """A checkpoint whose contents are taken, but not on disk."""

    files: Snapshot
    final: Path
    next_offset: int
    full: bool  # shares no file with another one


def read_manifest(path: Path) -> Manifest:
    """The manifest of a finished checkpoint.

    Raises:
        SnapshotError: it has a format that this version does not read.
    """
    manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    if manifest.format != FORMAT:
        raise SnapshotError(f"{path} has format {manifest.format}, this version reads {FORMAT}; {REBUILD}")
    return manifest


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(directory)), path


def _unshare(directory: Path) -> None:
    """Give hard-linked files bytes of their own, so that one bad block cannot spoil every checkpoint."""
    for _, path in _files(directory):
        if path.stat().st_nlink > 1:
            copy = path.with_name(path.name + ".copy")
            shutil.copyfile(path, copy)
            copy.rename(path)


def _entry(path: Path, known: Entry | None) -> Entry:
    """Size and hash of a file; a link to one that an earlier manifest vouches for is neither read nor synced again."""
    stat = path.stat()
    if known and (known.inode, known.mtime_ns, known.size) == (stat.st_ino, stat.st_mtime_ns, stat.st_size):
        return known
    sync(path)
    return Entry(stat.st_size, sha256(path), stat.st_ino, stat.st_mtime_ns)


def _write_synced(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    sync(path)


def sync(path: Path) -> None:
    """Have a file, or what a directory lists, on disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
