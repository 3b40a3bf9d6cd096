"""A recording read back: the stages that read it are the ones that read the log."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from core.driver import StageDriver
from core.errors import GapError, SettingsError
from core.position import HEADER, Upstream
from core.schemas import encode
from streams import bundled, pipeline
from streams.decode import EventDecoder, RawMessage
from streams.ingest import limits_of
from streams.packing import Chunk, Output, Packer
from streams.record import RecordedPartition, recorded, replay_recording
from streams.record.files import hour_of
from streams.record.hours import EventTimes
from streams.settings import Settings, load
from tests.recordings import BASE_MS, rounds


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
