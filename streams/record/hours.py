"""The event time of a record, for the hour that it is filed under: its events' where it has them, else Kafka's timestamp."""

from collections.abc import Sequence
from typing import Any

from core.errors import FreshetError
from core.schemas import decode
from streams.decode import EventDecoder, RawMessage
from streams.ingest import limits_of
from streams.settings import Settings


class EventTimes:
    """In: records of a topic. Out: a time in ms for each.

    `events`: `ts` as ingest reads it. `batches` and `examples`: the median of the rows' times, which an odd row does not move.
    """

    def __init__(self, s: Settings) -> None:
        self._decoder = EventDecoder(limits_of(s))
        self._of = {s.events_topic: self._of_events, s.batches_topic: self._of_rows, s.examples_topic: self._of_rows}

    def __call__(self, topic: str, messages: Sequence[RawMessage]) -> list[int]:
        found = self._of[topic](messages) if topic in self._of else {}
        return [found.get(m.offset, m.timestamp_ms) for m in messages]

    def _of_events(self, messages: Sequence[RawMessage]) -> dict[int, int]:
        """Offset to time, without those that ingest would refuse."""
        rows = self._decoder.decode(messages).rows
        return dict(rows.select("offset", "ts_ms").iter_rows())

    def _of_rows(self, messages: Sequence[RawMessage]) -> dict[int, int]:
        times = ((m.offset, _median_ms(m.value)) for m in messages)
        return {offset: ms for offset, ms in times if ms is not None}


def _median_ms(value: bytes | None) -> int | None:
    """None where no row has a time: catalogue changes, ticks before there was an event, bytes of somebody else."""
    try:
        rows = decode(value or b"")
    except FreshetError:
        return None
    times: list[Any] = sorted(ms for ms in rows["ts_ms"] if ms) if "ts_ms" in rows.columns else []
    return int(times[(len(times) - 1) // 2]) if times else None
