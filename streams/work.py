"""Working directories of processes that share a disk: made, locked, and removed once their process is gone."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def work_directory(root: Path, prefix: str) -> Iterator[Path]:
    """A directory of this process's own in `root`, removed at the end; what processes that are gone left behind is removed too.

    Who is gone holds no lock. A process id would not tell: containers that share a disk have the same ids.
    """
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with _locked(root):  # a directory that is made and not yet locked looks abandoned
            for path in root.iterdir():
                _remove_abandoned(path)
            own = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
            held.enter_context(_locked(own))
        held.callback(shutil.rmtree, own, ignore_errors=True)
        yield own


def _remove_abandoned(directory: Path) -> None:
    with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Raises BlockingIOError where `how` says not to wait, and another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
