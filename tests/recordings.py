"""What tests of recordings share."""

from collections.abc import Iterator, Sequence

from streams.decode import RawMessage

BASE_MS = 1_700_000_000_000


def rounds(log: Sequence[RawMessage], size: int) -> Iterator[tuple[list[RawMessage], int]]:
    """A log in rounds of `size` messages, each with the offset behind it."""
    for start in range(0, len(log), size):
        cut = list(log[start : start + size])
        yield cut, cut[-1].offset + 1
