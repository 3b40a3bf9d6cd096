"""A file against the contract, without a broker: what ingest would refuse of it, and why.

(line, message as `produce` would send it) -> the decoder of ingest -> faults
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from streams.decode import EventDecoder, ItemDecoder, RawMessage
from streams.ingest import limits_of
from streams.producing import Message
from streams.settings import Settings

CHUNK = 2_000  # messages decoded at once: memory stays small however large the file


class Fault(NamedTuple):
    """A message that ingest would refuse. `line` counts from 1; of a Parquet file it is the row."""

    line: int
    kind: str
    reason: str


class Check:
    """Decodes messages as ingest would that gets them now.

    Attributes:
        accepted: messages without a fault so far.
        refused: kind -> faults so far.
    """

    def __init__(self, s: Settings, items: bool = False) -> None:
        """`items`: they are entries of the catalogue, not events."""
        self._decoder = ItemDecoder(limits_of(s)) if items else EventDecoder(limits_of(s))
        self.accepted, self.refused = 0, Counter[str]()

    def faults(self, numbered: Iterable[tuple[int, Message]]) -> Iterator[list[Fault]]:
        """The faults of each chunk of messages, each message with its line; a list for every chunk, so that progress can be shown."""
        rest = iter(numbered)
        while chunk := list(islice(rest, CHUNK)):
            now_ms = int(time.time() * 1000)
            decoded = self._decoder.decode([RawMessage(key, value, (), now_ms, line) for line, (key, value) in chunk])
            found = [Fault(letter.message.offset, letter.exception, letter.reason) for letter in decoded.dead]
            self.accepted += decoded.rows.height
            self.refused.update(fault.kind for fault in found)
            yield found
