"""Programs that some tests drive, and that pip does not bring."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Its path: beside this Python, where tests/programs.sh puts some, or on PATH. Without it a test skips and says so; in CI it fails."""
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not on PATH")
    pytest.skip(f"{name} is not on PATH")
