"""Libraries that only some baselines need."""

from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import SettingsError


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Around the imports of baseline `name`.

    Raises:
        SettingsError: a library is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise SettingsError(f"--baseline {name} needs a library that is not installed: pip install 'freshet[baselines]'") from error
