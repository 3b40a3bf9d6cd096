"""A snapshot as a checkpoint has it, for tests that have no host."""

from pathlib import Path
from typing import Protocol

from core.snapshot import Snapshot


class Snapshots(Protocol):
    def snapshot(self, into: Snapshot) -> None: ...


def save(what: Snapshots, directory: Path, previous: Path | None = None) -> None:
    """Everything on disk, in `directory`, which is made where it is missing."""
    directory.mkdir(exist_ok=True)
    into = Snapshot(directory, previous)
    what.snapshot(into)
    into.flush()
