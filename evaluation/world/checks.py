"""What the settings of made-up logs are held to."""

from collections.abc import Iterable, Mapping

from core.errors import SettingsError


def check_numbers(settings: object, least: Mapping[str, float], positive: Iterable[str], shares: Iterable[str]) -> None:
    """Attributes at or above a least value, above 0, in 0..1. NaN is none of these.

    Raises:
        SettingsError: one is not; the message names it.
    """
    for name, value in least.items():
        if not getattr(settings, name) >= value:
            raise SettingsError(f"`{name}` must be at least {value}, got {getattr(settings, name)}")
    for name in positive:
        if not getattr(settings, name) > 0:
            raise SettingsError(f"`{name}` must be above 0, got {getattr(settings, name)}")
    for name in shares:
        if not 0 <= getattr(settings, name) <= 1:
            raise SettingsError(f"`{name}` must be in 0..1, got {getattr(settings, name)}")
