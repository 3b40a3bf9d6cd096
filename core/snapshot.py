"""A snapshot under way: what goes into it is taken at once, and reaches the disk when the host has time."""

import os
from pathlib import Path
from typing import Any

from core.errors import SnapshotError
from core.position import REBUILD

HELD_BYTES = 1 << 30


class Snapshot:
    """The files of a snapshot, in a directory that is empty before.

    `write` takes contents, so that the stage may go on at once; `flush` puts them on disk, on any thread. Budget: the data path
    waits for a copy in memory (about 10 ms for 25 MB), not for a disk, until `HELD_BYTES` are held; what is beyond is written where it
    is taken, so that a state as large as half of the memory, all of it changed, can be saved.
    """

    def __init__(self, directory: Path, previous: Path | None = None, held_bytes: int = HELD_BYTES) -> None:
        """`previous`: the snapshot before this one, whose files may be linked. `held_bytes`: in memory until `flush`, at most."""
        self.directory, self.previous = directory, previous
        self._held = _Held(held_bytes)

    def within(self, name: str) -> "Snapshot":
        """The part of it that lies in the new subdirectory `name`; flushed with the whole."""
        part = Snapshot(self.directory / name, self.previous / name if self.previous else None)
        part.directory.mkdir()
        part._held = self._held
        return part

    def write(self, name: str, contents: bytes) -> None:
        self._held.take(self.directory / name, contents)

    def link(self, name: str) -> bool:
        """Take over a file that did not change; False where the previous snapshot has none of that name."""
        if self.previous is None:
            return False
        try:
            os.link(self.previous / name, self.directory / name)
        except FileNotFoundError:
            return False
        return True

    def flush(self) -> None:
        """Write everything that is held."""
        self._held.flush()


class _Held:
    """Contents of files on their way to the disk, in memory while there is room for them."""

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._files: list[tuple[Path, bytes]] = []

    def take(self, path: Path, contents: bytes) -> None:
        if len(contents) > self._room_bytes:
            path.write_bytes(contents)
            return
        self._room_bytes -= len(contents)
        self._files.append((path, contents))

    def flush(self) -> None:
        while self._files:
            path, contents = self._files.pop()
            path.write_bytes(contents)
            self._room_bytes += len(contents)


def check_identity(stored: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse state that was made under other settings.

    Raises:
        SnapshotError: names every setting that differs, and the way out.
    """
    changed = [
        f"`{name}` was {stored.get(name)}, is {ours.get(name)}" for name in sorted({*stored, *ours}) if stored.get(name) != ours.get(name)
    ]
    if changed:
        raise SnapshotError(f"the checkpoint was made by other settings: {'; '.join(changed)}. Set them back, or {REBUILD}")
