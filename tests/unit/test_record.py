"""A recording on disk: bytes kept, filed by event hour, whole whenever the recorder dies; and the recorder over a log in memory."""

import asyncio
import datetime
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from core.driver import StageDriver
from core.errors import FreshetError, GapError, PositionLostError, SettingsError
from core.position import HEADER, Upstream
from core.schemas import BATCHES, EVENT, encode
from streams import bundled, pipeline
from streams.decode import EventDecoder, RawMessage
from streams.ingest import limits_of
from streams.packing import Chunk, Output, Packer
from streams.record import Limits, RecordedPartition, recorded, replay_recording, topic_named
from streams.record.files import hour_of
from streams.record.hours import EventTimes
from streams.record.recorder import LOOK_SECONDS, Recorder, _alone, record
from streams.settings import Settings, load

HOUR_MS = 3_600_000
BASE_MS = 1_700_000_000_000
ODD: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]] = [
    (None, b"", ()),
    (b"", None, (("a", None), ("a", b""), ("b", b"\x00\xff"), ("ключ", b"x"))),
    (b"\xff\x00", b"\x00" * 1_000, (("", b""),)),
    (b"k", b"v\n\x1b[2J", ()),
]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a power cut would tell, and each costs milliseconds."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def messages(count: int, hours: int = 4, seed: int = 7) -> list[RawMessage]:
    """Odd messages; offsets have holes, as compaction leaves them."""
    chance = random.Random(seed)
    offsets = itertools.accumulate(chance.choice((1, 1, 3)) for _ in range(count))
    return [RawMessage(*ODD[chance.randrange(len(ODD))], BASE_MS + chance.randrange(hours * HOUR_MS), offset) for offset in offsets]


def by_hour(found: Sequence[RawMessage]) -> dict[str, list[RawMessage]]:
    """Filed by Kafka's timestamp."""
    hours: dict[str, list[RawMessage]] = {}
    for message in found:
        hours.setdefault(hour_of(message.timestamp_ms), []).append(message)
    return hours


def rounds(log: Sequence[RawMessage], size: int) -> Iterator[tuple[list[RawMessage], int]]:
    for start in range(0, len(log), size):
        cut = list(log[start : start + size])
        yield cut, cut[-1].offset + 1


UPSTREAM = Upstream("t", 3, "id-1")


def begun(root: Path, first: int = 0) -> RecordedPartition:
    kept = RecordedPartition(root, UPSTREAM.topic, UPSTREAM.partition)
    kept.begin(UPSTREAM, first)
    return kept


def test_bytes_and_order_are_kept(tmp_path: Path) -> None:
    log, kept = messages(500), begun(tmp_path)
    for cut, end in rounds(log, 130):
        kept.append(by_hour(cut), end)
    assert list(kept.messages()) == log
    position = kept.position()
    assert position is not None
    assert (position.first_offset, position.next_offset, position.records) == (0, log[-1].offset + 1, 500)


def test_files_stand_under_their_event_hour(tmp_path: Path) -> None:
    log, kept = messages(300), begun(tmp_path)
    for cut, end in rounds(log, 100):
        kept.append(by_hour(cut), end)
    paths = sorted(kept.directory.rglob("*.parquet"))
    assert len(paths) > 3
    for path in paths:
        rows = pl.read_parquet(path, hive_partitioning=False)
        hour = datetime.datetime.strptime(path.parent.name, "hour=%Y-%m-%dT%H").replace(tzinfo=datetime.UTC)
        assert set(rows["timestamp_ms"] // HOUR_MS) == {int(hour.timestamp()) // 3_600}
        first, last = map(int, path.stem.split("-"))
        assert (rows["offset"].min(), rows["offset"].max()) == (first, last)
    assert pl.scan_parquet(tmp_path / "t/**/*.parquet").select(pl.len()).collect().item() == 300


@pytest.mark.parametrize(("ms", "hour"), [(-5, "1970-01-01T00"), (BASE_MS, "2023-11-14T22"), (1 << 62, "9999-12-31T23")])
def test_any_timestamp_has_an_hour(ms: int, hour: str) -> None:
    assert hour_of(ms) == hour


class Crashed(Exception):
    """The process is gone here."""


class CrashAt:
    """Raises at the n-th call that changes or syncs the disk, before it has an effect, or after half of one."""

    def __init__(self, n: int, patch: pytest.MonkeyPatch) -> None:
        self.left = n
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (Path, "write_bytes")):
            patch.setattr(owner, name, self._failing(getattr(owner, name)))
        write = pl.DataFrame.write_parquet

        def half(rows: pl.DataFrame, path: Path, **more: Any) -> None:
            self.left -= 1
            write(rows, path, **more)
            if self.left == 0:
                os.truncate(path, path.stat().st_size // 2)
                raise Crashed

        patch.setattr(pl.DataFrame, "write_parquet", half)

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise Crashed
            return real(*given, **more)

        return call


def _run(root: Path, log: Sequence[RawMessage]) -> None:
    """What a recorder does: begin or go on, sweep, write rounds."""
    kept = RecordedPartition(root, UPSTREAM.topic, UPSTREAM.partition)
    position = kept.position() or kept.begin(UPSTREAM, 0)
    kept.sweep()
    for cut, end in rounds([m for m in log if m.offset >= position.next_offset], 12):
        kept.append(by_hour(cut), end)


def _seen(root: Path) -> list[int]:
    """Offsets as anybody finds them who reads all files."""
    return sorted(offset for path in root.rglob("*.parquet") for offset in pl.read_parquet(path)["offset"])


def test_a_crash_at_any_point_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, crashes = messages(30, hours=2), 0
    offsets = [m.offset for m in log]
    for point in itertools.count(1):
        root = tmp_path / str(point)
        with monkeypatch.context() as patch:
            crash = CrashAt(point, patch)
            try:
                _run(root, log)
            except Crashed:
                crashes += 1
        if crash.left > 0:
            break
        _check_prefix(root, log)
        with monkeypatch.context() as patch, pytest.raises(Crashed):  # and once more, in the middle of the next start
            CrashAt(3 + point % 7, patch)
            _run(root, log)
            raise Crashed  # it had less to do than that
        _run(root, log)
        kept = RecordedPartition(root, UPSTREAM.topic, UPSTREAM.partition)
        assert list(kept.messages()) == log
        assert _seen(root) == offsets
        assert not list(root.rglob("*.tmp"))
    assert crashes > 40


def _check_prefix(root: Path, log: Sequence[RawMessage]) -> None:
    """What counts after a crash is a beginning of the log, up to the end of a round; whole files beyond it hold no record twice."""
    kept = RecordedPartition(root, UPSTREAM.topic, UPSTREAM.partition)
    if kept.position() is not None:
        found = list(kept.messages())
        assert found == list(log[: len(found)])
        assert len(found) % 12 == 0 or len(found) == len(log)
    offsets = _seen(root)
    assert len(set(offsets)) == len(offsets)


def test_a_file_that_is_gone_or_damaged_is_named(tmp_path: Path) -> None:
    log, kept = messages(60), begun(tmp_path)
    for cut, end in rounds(log, 20):
        kept.append(by_hour(cut), end)
    path = min(kept.directory.rglob("*.parquet"))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(FreshetError, match="cannot be read"):
        list(kept.messages())
    path.unlink()
    with pytest.raises(FreshetError, match="of 60: files were removed"):
        list(kept.messages())
    (kept.directory / "position.json").unlink()
    with pytest.raises(SettingsError, match=r"position\.json is missing"):
        kept.position()


def test_a_folder_without_a_recording(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no recording"):
        list(RecordedPartition(tmp_path, "t", 0).messages())
    with pytest.raises(SettingsError, match="neither"):
        replay_recording(load(data_dir=tmp_path), tmp_path)


def test_short_names() -> None:
    s = load(namespace="n.", events_topic="clicks")
    names = ("batches", "examples", "parameters", "events", "items", "events-dlt", "items-dlt", "other")
    expected = ["n.batches", "n.examples", "n.parameters", "clicks", "items", "clicks-dlt", "items-dlt", "other"]
    assert [topic_named(s, name) for name in names] == expected


def test_event_times() -> None:
    s, sent_ms = load(), BASE_MS + 5 * HOUR_MS
    good = {"type": "click", "user_id": "u", "item_id": "i", "ts": BASE_MS}
    cloud = (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"s"),
        ("ce_type", b"x.click"),
        ("ce_time", b"2023-11-14T22:00:00Z"),
    )
    events: list[tuple[bytes | None, Any]] = [
        (json.dumps(good).encode(), ()),
        (b"garbage", ()),
        (None, ()),
        (b'{"user_id": "u", "item_id": "i"}', cloud),
    ]
    raw = [RawMessage(b"u", value, headers, sent_ms, n) for n, (value, headers) in enumerate(events)]
    assert EventTimes(s)(s.events_topic, raw) == [BASE_MS, sent_ms, sent_ms, 1_699_999_200_000]
    assert EventTimes(s)("another", raw) == [sent_ms] * 4

    def rows(times: Sequence[int]) -> bytes:
        return encode(pl.DataFrame([{"kind": EVENT, "ts_ms": ms} for ms in times], schema=BATCHES))

    values = [rows([5, 1_000, 7]), rows([0, 9, 0, 3]), rows([0]), rows([]), b"not Arrow", encode(pl.DataFrame({"a": [1]})), None]
    raw = [RawMessage(None, value, (), sent_ms, n) for n, value in enumerate(values)]
    for topic in (s.batches_topic, s.examples_topic):
        assert EventTimes(s)(topic, raw) == [7, 3, sent_ms, sent_ms, sent_ms, sent_ms, sent_ms]


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


@pytest.fixture
def s(tmp_path: Path) -> Settings:
    return load(data_dir=tmp_path, batches_partitions=1, max_users=4_096, max_items=4_096)


def _packed(s: Settings, count: int, batch: int) -> list[RawMessage]:
    """Bundled events as ingest would write them to `batches`, and when."""
    source = Upstream(s.events_topic, 0, "e")
    packer, decoder, found = Packer([Output(s.batches_topic, 0)], Output(s.examples_topic, 0), {source: 0}), EventDecoder(limits_of(s)), []
    events = [RawMessage(k, v, (), 1 << 60, n) for n, (k, v) in enumerate(islice(bundled.event_messages(), count))]
    for start in range(0, count, batch):
        cut = events[start : start + batch]
        for packed in packer.pack({source: Chunk(decoder.decode(cut).rows, cut[-1].offset + 1)}):
            found.append(RawMessage(None, encode(packed.rows), ((HEADER, packed.stamp.encode()),), BASE_MS, len(found)))
    return found


def _recording(s: Settings, root: Path, log: Sequence[RawMessage], size: int) -> None:
    kept = RecordedPartition(root, s.batches_topic, 0)
    kept.begin(Upstream(s.batches_topic, 0, "b"), log[0].offset)
    for cut, end in rounds(log, size):
        hours: dict[str, list[RawMessage]] = {}
        for message, ms in zip(cut, EventTimes(s)(s.batches_topic, cut), strict=True):
            hours.setdefault(hour_of(ms), []).append(message)
        kept.append(hours, end)


def test_a_replayed_recording_gives_the_stage_that_read_the_log(s: Settings, tmp_path: Path) -> None:
    log = _packed(s, 1_200, 40)
    _recording(s, tmp_path / "out", log, 7)
    assert len({path.parent for path in (tmp_path / "out").rglob("*.parquet")}) > 1
    own = Upstream(s.batches_topic, 0, "b")
    driver = StageDriver(pipeline.user_stage(s, own, tmp_path / "stage"), own)
    for record_ in recorded(tmp_path / "out", s.batches_topic, 0):
        driver.apply(record_)
    assert driver.positions.next_offset == len(log)
    assert replay_recording(s, tmp_path / "out") == {f"{pipeline.FEATURES}-0": driver.stage.digest()}
    driver.stage.close()
    _recording(s, tmp_path / "shorter", log[:-1], 7)
    assert replay_recording(s, tmp_path / "shorter") != replay_recording(s, tmp_path / "out")
    _recording(s, tmp_path / "later", log[5:], 100)
    assert replay_recording(s, tmp_path / "later").keys() == {f"{pipeline.FEATURES}-0"}


def test_a_replay_refuses_a_hole_and_other_settings(s: Settings, tmp_path: Path) -> None:
    log = _packed(s, 200, 20)
    _recording(s, tmp_path / "out", [*log[:4], *log[5:]], 100)
    with pytest.raises(GapError):
        replay_recording(s, tmp_path / "out")
    with pytest.raises(SettingsError, match="FRESHET_BATCHES_PARTITIONS"):
        replay_recording(s.model_copy(update={"batches_partitions": 4}), tmp_path / "out")
