"""The headers of dead letters: where a message failed and why, added behind its own, which stay byte for byte.

The names are Kafka Connect's, so that its tools read them. A record may carry the block more than once (it failed, was sent again
with its headers, and failed again): the last block is the newest, and only that one is ours to take off.
"""

from typing import NamedTuple

from streams.contract import category
from streams.decode import DeadLetter, Headers

__all__ = ["CLASS_NAME", "NAMES", "SUFFIX", "Context", "DeadLetter", "category", "headers", "original_headers", "read", "topic_of"]

TOPIC = "__connect.errors.topic"
PARTITION = "__connect.errors.partition"
OFFSET = "__connect.errors.offset"
STAGE = "__connect.errors.stage"
CLASS = "__connect.errors.class.name"
EXCEPTION = "__connect.errors.exception.class.name"
REASON = "__connect.errors.exception.message"
NAMES = (TOPIC, PARTITION, OFFSET, STAGE, CLASS, EXCEPTION, REASON)  # in the order of the block

CLASS_NAME = "freshet.ingest"
SUFFIX = "-dlt"


class Context(NamedTuple):
    """Where a dead letter comes from and why; what its block of headers says, in the block's order."""

    topic: str
    partition: int
    offset: int
    stage: str
    class_name: str
    exception: str
    reason: str

    @property
    def category(self) -> str:
        """Label value for metrics, one of `streams.contract.CATEGORIES`."""
        return category(self.exception)


def topic_of(topic: str) -> str:
    """The dead-letter topic of a topic."""
    return topic + SUFFIX


def key_of(letter: DeadLetter) -> bytes | None:
    """The message's own key; empty where it has neither key nor value, for clients refuse to send nothing at all."""
    message = letter.message
    return b"" if message.key is None and message.value is None else message.key


def headers(letter: DeadLetter, topic: str, partition: int, stage: str) -> list[tuple[str, bytes | None]]:
    """The message's own headers, unchanged, then the block of `NAMES`."""
    context = Context(topic, partition, letter.message.offset, stage, CLASS_NAME, letter.exception, letter.reason)
    block = [(name, str(value).encode()) for name, value in zip(NAMES, context, strict=True)]
    return [*letter.message.headers, *block]


def read(found: Headers) -> Context | None:
    """What the newest block says; None where a part is missing or cannot be read, so that no letter of ours is in it."""
    last = dict(found)
    try:
        topic, partition, offset, stage, class_name, exception, reason = ((last[name] or b"").decode() for name in NAMES)
        return Context(topic, int(partition), int(offset), stage, class_name, exception, reason)
    except (KeyError, ValueError):  # UnicodeDecodeError is a ValueError
        return None


def original_headers(found: Headers) -> list[tuple[str, bytes | None]]:
    """The headers that the message had before `headers` added its block; the same ones where no block ends them."""
    own = len(found) - len(NAMES)
    if tuple(name for name, _ in found[own:]) == NAMES:
        return list(found[:own])
    return list(found)
