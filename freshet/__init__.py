"""Freshet: a streaming online-learning pipeline. What a user imports.

Names are looked up on first use, so that a service that embeds the cache loads neither Kafka nor the learners.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from learners.cache import ParameterCache
    from learners.recommend import CacheConfig
    from streams.broker import EmbeddedBroker
    from streams.replay import replay
    from streams.settings import Settings

    __version__: str

_HOMES = {
    "CacheConfig": "learners.recommend",
    "EmbeddedBroker": "streams.broker",
    "ParameterCache": "learners.cache",
    "Settings": "streams.settings",
    "replay": "streams.replay",
}

__all__ = ["CacheConfig", "EmbeddedBroker", "ParameterCache", "Settings", "__version__", "replay"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("monitoring.metrics").version()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'freshet' has no attribute {name!r}")
