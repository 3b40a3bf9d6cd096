"""Programs that some tests drive, and that pip does not bring."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Its path. Without it the test skips and says so; in CI, where it must be there, it fails."""
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not on PATH")
    pytest.skip(f"{name} is not on PATH")
