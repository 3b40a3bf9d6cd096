"""A snapshot under way: what goes into it is taken at once, and reaches the disk when the host has time."""

import os
from pathlib import Path
from typing import Any

from core.errors import SnapshotError
from core.position import REBUILD


class Snapshot:
    """The files of a snapshot, in a directory that is empty before.

    `write` takes contents, so that the stage may go on at once; `flush` puts them on disk, on any thread. Budget: the data path
    waits for a copy in memory (about 10 ms for 25 MB), not for a disk.
    """

    def __init__(self, directory: Path, previous: Path | None = None) -> None:
        """`previous`: the snapshot before this one, whose files may be linked."""
        self.directory, self.previous = directory, previous
        self._taken: list[tuple[Path, bytes]] = []

    def within(self, name: str) -> "Snapshot":
        """The part of it that lies in the new subdirectory `name`; flushed with the whole."""
        part = Snapshot(self.directory / name, self.previous / name if self.previous else None)
        part.directory.mkdir()
        part._taken = self._taken
        return part

    def write(self, name: str, contents: bytes) -> None:
        self._taken.append((self.directory / name, contents))

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
        """Write everything taken."""
        while self._taken:
            path, contents = self._taken.pop()
            path.write_bytes(contents)


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
