"""A recording through the stages: what a live run over the same logs must equal."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.driver import StageDriver
from core.errors import SettingsError
from core.position import Positions, Record, Upstream
from core.schemas import decode
from core.stage import Stage
from streams import pipeline
from streams.reading import stamp_of
from streams.record.files import RecordedPartition, partitions
from streams.settings import Settings


def recorded(root: Path, topic: str, partition: int) -> Iterator[Record]:
    """The records of a derived topic partition, in order, as a stage reads them.

    Raises:
        SettingsError, FreshetError: as `RecordedPartition.messages`.
        PositionLostError: another program wrote to the topic.
    """
    for message in RecordedPartition(root, topic, partition).messages():
        headers = [(name, value) for name, value in message.headers if value is not None]
        yield Record(message.offset, stamp_of(headers), decode(message.value or b""))


def replay_recording(s: Settings, root: Path) -> dict[str, str]:
    """Drive fresh stages over what was recorded of `batches` and `examples`: a hash of each one's state, by its name.

    Under the settings of a live run whose logs are recorded from offset 0, its stages' digests after the same records. Of a recording
    that begins later, the state of stages that began there.

    Raises:
        SettingsError: the folder holds neither, or `batches` in another number of partitions than the settings.
        GapError: records are missing.
    """
    found = partitions(root, s.batches_topic)
    if found and len(found) != s.batches_partitions:
        raise SettingsError(
            f"{root} holds {len(found)} partitions of {s.batches_topic}, "
            f"`batches_partitions` (FRESHET_BATCHES_PARTITIONS) is {s.batches_partitions}"
        )
    with tempfile.TemporaryDirectory(prefix="freshet-") as work_dir:
        digests = {f"{pipeline.FEATURES}-{p}": _users(s, root, p, Path(work_dir) / str(p)) for p in found}
    if partitions(root, s.examples_topic):
        digests[pipeline.LEARNER] = _digest(root, s.examples_topic, 0, pipeline.learner_stage(s, s.batches_partitions))
    if not digests:
        raise SettingsError(f"{root} holds neither {s.batches_topic} nor {s.examples_topic}: record them, or give their --namespace")
    return digests


def _users(s: Settings, root: Path, partition: int, work_dir: Path) -> str:
    own = Upstream(s.batches_topic, partition, "")
    return _digest(root, s.batches_topic, partition, pipeline.user_stage(s, own, work_dir))


def _digest(root: Path, topic: str, partition: int, stage: Stage) -> str:
    position = RecordedPartition(root, topic, partition).begun()
    driver = StageDriver(stage, position.upstream)
    driver.positions = Positions(position.upstream, position.first_offset)
    try:
        for record in recorded(root, topic, partition):
            driver.apply(record)
        return stage.digest()
    finally:
        stage.close()
