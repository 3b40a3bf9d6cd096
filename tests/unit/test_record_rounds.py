"""The recorder over a log in memory: rounds, restarts, and what may happen to a topic meanwhile."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from core.errors import PositionLostError, SettingsError
from core.position import Upstream
from streams.decode import RawMessage
from streams.record import Limits, RecordedPartition
from streams.record.recorder import LOOK_SECONDS, ROUND_HOURS, Recorder, _alone, _Unwritten, record
from streams.settings import load
from tests.recordings import BASE_MS


class At(NamedTuple):
    """A record as the client gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class MemoryLog:
    """A topic in memory, as the recorder's client and as its administrator; tests cut it, delete it and make it anew."""

    def __init__(self, partitions: int = 1) -> None:
        self.topic, self.id, self.partitions = "t", "id-1", partitions
        self.records: dict[int, list[At]] = {p: [] for p in range(partitions)}
        self.first: dict[int, int] = dict.fromkeys(range(partitions), 0)
        self.positions: dict[TopicPartition, int] = {}
        self.polls = 0
        self.before_poll: dict[int, Callable[[], None]] = {}

    def add(self, count: int, partition: int = 0, value: bytes = b"0123456789") -> None:
        records = self.records.setdefault(partition, [])
        self.first.setdefault(partition, 0)
        start = records[-1].offset + 1 if records else 0
        records += [At(n, BASE_MS + n * 1_000, b"k", value, ()) for n in range(start, start + count)]

    def cut(self, first: int) -> None:
        self.first[0], self.records[0] = first, [r for r in self.records[0] if r.offset >= first]

    def end(self, partition: int) -> int:
        return self.records[partition][-1].offset + 1 if self.records[partition] else self.first[partition]

    # As the administrator
    def upstreams(self, topic: str) -> list[Upstream]:
        if not self.id:
            raise SettingsError(f"there is no topic {topic!r}")
        return [Upstream(topic, p, self.id) for p in self.records]

    def first_offset(self, upstream: Upstream) -> int:
        return self.first[upstream.partition]

    def end_offset(self, upstream: Upstream) -> int:
        return self.end(upstream.partition)

    # As the client
    def assign(self, tps: Sequence[TopicPartition]) -> None:
        self.positions = {}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.positions[tp] = offset

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.first[tp.partition] for tp in tps}

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.end(tp.partition) for tp in tps}

    async def position(self, tp: TopicPartition) -> int:
        return self.positions[tp]

    def highwater(self, tp: TopicPartition) -> int:
        return self.end(tp.partition)

    async def getmany(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, list[At]]:
        """Ten records of each partition at most."""
        self.polls += 1
        self.before_poll.get(self.polls, lambda: None)()
        found = {}
        for tp, position in self.positions.items():
            if not self.first[tp.partition] <= position <= self.end(tp.partition):
                raise OffsetOutOfRangeError({tp: position})
            if records := [r for r in self.records[tp.partition] if r.offset >= position][:10]:
                found[tp] = records
                self.positions[tp] = records[-1].offset + 1
        return found


def _record(root: Path, log: MemoryLog, limits: Limits, polls: int = 0) -> None:
    """Until the end, or for so many polls."""

    async def run() -> None:
        recorder = Recorder(load(), root, [log.topic], log, log, limits)  # type: ignore[arg-type]
        await recorder.open(from_start=True)
        await recorder.run(lambda: bool(polls) and log.polls >= polls, not polls, lambda progress: None)

    asyncio.run(run())


def _offsets(root: Path, partition: int = 0) -> list[int]:
    return [m.offset for m in RecordedPartition(root, "t", partition).messages()]


def _round_ends(root: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) + 1 for path in root.rglob("*.parquet"))


NEVER = Limits(1 << 40, 1 << 40, 1e9)


@pytest.mark.parametrize(
    ("limits", "ends"),
    [
        (NEVER._replace(rows=20), [20, 40, 50]),
        (NEVER._replace(rows=25), [30, 50]),
        (NEVER._replace(bytes=11 * 20), [20, 40, 50]),  # a key of one byte, a value of ten
        (NEVER._replace(seconds=0), [10, 20, 30, 40, 50]),
        (NEVER, [50]),
    ],
)
def test_rounds_end_by_rows_bytes_or_seconds(limits: Limits, ends: list[int], tmp_path: Path) -> None:
    log = MemoryLog()
    log.add(50)
    _record(tmp_path, log, limits)
    assert _round_ends(tmp_path) == ends
    assert _offsets(tmp_path) == list(range(50))


def test_a_second_start_goes_on(tmp_path: Path) -> None:
    log = MemoryLog(2)
    log.add(35)
    log.add(5, 1)
    _record(tmp_path, log, NEVER._replace(rows=20))
    log.add(30)
    log.add(3, 2)  # a partition more
    _record(tmp_path, log, NEVER)
    assert [_offsets(tmp_path, p) for p in range(3)] == [list(range(65)), list(range(5)), list(range(3))]


def test_a_partition_that_is_added_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.record.recorder.LOOK_SECONDS", 0.0)
    log = MemoryLog()
    log.add(50)
    log.before_poll[2] = lambda: log.add(12, 1)
    _record(tmp_path, log, NEVER, polls=8)
    assert [_offsets(tmp_path, p) for p in range(2)] == [list(range(50)), list(range(12))]


@pytest.mark.parametrize("anew", ["id-2", ""], ids=["made anew", "gone"])
def test_a_topic_made_anew_is_noticed_before_anything_of_it_is_written(anew: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come with each poll: records of the polls before the last look are surely of the old topic."""
    monkeypatch.setattr("streams.record.recorder.LOOK_SECONDS", 0.0)
    log = MemoryLog()
    log.add(50)
    log.before_poll[4] = lambda: setattr(log, "id", anew)
    with pytest.raises(PositionLostError, match="deleted or made anew"):
        _record(tmp_path, log, NEVER)
    assert _offsets(tmp_path) == list(range(30))
    with pytest.raises(PositionLostError if anew else SettingsError):
        _record(tmp_path, log, NEVER)


def test_without_a_look_nothing_is_written(tmp_path: Path) -> None:
    assert LOOK_SECONDS > 1
    log = MemoryLog()
    log.add(50)
    log.before_poll[3] = lambda: setattr(log, "id", "id-2")
    with pytest.raises(PositionLostError):
        _record(tmp_path, log, NEVER)
    assert _offsets(tmp_path) == []


def test_retention_that_was_faster_is_counted(tmp_path: Path) -> None:
    log = MemoryLog()
    log.add(50)
    log.before_poll[3] = lambda: log.cut(27)
    with pytest.raises(PositionLostError, match=r"begins at 27, but the recording goes on at 20: 7 offsets went"):
        _record(tmp_path, log, NEVER)
    assert _offsets(tmp_path) == list(range(20))
    with pytest.raises(PositionLostError, match=r"7 offsets went"):
        _record(tmp_path, log, NEVER)
    log.records[0] = []
    log.first[0] = 0
    with pytest.raises(PositionLostError, match="ends at 0, but the recording goes on at 20"):
        _record(tmp_path, log, NEVER)
    assert _offsets(tmp_path) == list(range(20))


def test_one_recorder_per_folder(tmp_path: Path) -> None:
    with _alone(tmp_path), pytest.raises(SettingsError, match="another recorder writes"):
        record(load(bootstrap_servers="127.0.0.1:1"), tmp_path, ["batches"])


def test_times_that_are_all_over_do_not_make_a_file_each(tmp_path: Path) -> None:
    """A producer with a broken clock costs at most 201 files a round, and no record."""
    upstream = Upstream("t", 0, "id-1")
    partition = RecordedPartition(tmp_path, "t", 0)
    partition.begin(upstream, 0)
    unwritten = _Unwritten(upstream, partition, 0)
    messages = [RawMessage(b"k", b"v", (), BASE_MS + n * 3_600_000, n) for n in range(1_000)]
    unwritten.add(messages, [message.timestamp_ms for message in messages])
    unwritten.add([RawMessage(b"k", b"v", (), BASE_MS, 1_000)], [BASE_MS])
    unwritten.write(1_001)
    hours = sorted(path.name for path in partition.directory.glob("hour=*"))
    assert len(hours) == ROUND_HOURS + 1
    assert hours[-1] == "hour=various"
    assert [message.offset for message in partition.messages()] == list(range(1_001))
