"""A recording on disk: bytes kept, filed by event hour, whole whenever the recorder dies."""

import datetime
import itertools
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from core.errors import FreshetError, SettingsError
from core.position import Upstream
from core.schemas import BATCHES, EVENT, encode
from streams.decode import RawMessage
from streams.record import RecordedPartition, replay_recording, topic_named
from streams.record.files import hour_of
from streams.record.hours import EventTimes
from streams.settings import load
from tests.recordings import BASE_MS, rounds

HOUR_MS = 3_600_000
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
