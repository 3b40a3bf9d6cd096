"""The live host where something fails: no checkpoint claims what was not written, and no touched row is lost without a word."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from aiokafka.errors import KafkaTimeoutError
from prometheus_client import CollectorRegistry

from core.driver import StageDriver
from core.errors import SendError
from core.position import Range, Record, Stamp, Upstream
from core.rows import Rows
from core.snapshot import Snapshot
from core.stage import Publication
from monitoring.metrics import Metrics
from streams.checkpoints import Checkpoints, Pending
from streams.host import StageHost, checkpoints_of
from streams.outbox import Outbox
from streams.settings import load
from streams.writer import Writer

OWN = Upstream("examples", 0, "e")


class Acknowledging:
    """A producer that acknowledges at once, or refuses."""

    refuses = False

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def send(self, *_: object) -> "asyncio.Future[Any]":
        if self.refuses:
            raise KafkaTimeoutError()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


class CountingStage:
    """Counts records in the one row it has; a record at an odd offset changes and publishes nothing."""

    sink = True
    fails_to_snapshot = False

    def __init__(self) -> None:
        self.rows = Rows(8_192, {"count": ("<i8", ())})
        self.touched = False

    def apply(self, rows: pl.DataFrame, offset: int) -> None:
        if offset % 2 == 0:
            self.rows["count"][0] += 1
            self.rows.mark(np.array([0]))
            self.touched = True

    def publish(self) -> Publication | None:
        touched, self.touched = self.touched, False
        return Publication({"t": pl.DataFrame({"id": ["a"]})}, 1, 0, np.empty(0, np.int64)) if touched else None

    def touch_next(self, rows: int) -> bool:
        return True

    def snapshot(self, into: Snapshot) -> None:
        self.rows.snapshot(into, 1)
        if self.fails_to_snapshot:
            self.fails_to_snapshot = False
            raise OSError(28, "No space left on device")

    def restore(self, directory: Path) -> None:
        self.rows.restore(directory)

    def digest(self) -> str:
        return str(self.rows["count"][0])

    def close(self) -> None: ...


def _record(offset: int) -> Callable[[], Record]:
    covered = Range(Upstream("batches", 0, "b"), offset, offset + 1)
    return lambda: Record(offset, Stamp("w", (covered,)), pl.DataFrame({"source": [0], "offset": [offset]}))


class Watching:
    """An observer that counts its calls."""

    def __init__(self, stage: object, metrics: Metrics) -> None:
        self.outputs = self.looks = 0

    def applied(self, outputs: Sequence[pl.DataFrame]) -> None:
        self.outputs += len(outputs)

    def look(self) -> None:
        self.looks += 1


class Scene:
    """A host over a stage, with everything around it real but Kafka."""

    def __init__(self, directory: Path) -> None:
        s = load(bootstrap_servers="127.0.0.1:1", data_dir=directory, checkpoint_seconds=1_000)
        metrics, self.client, self.stage = Metrics(CollectorRegistry()), Acknowledging(), CountingStage()
        writer = Writer(self.client)
        self.outbox = Outbox("learner", s.examples_topic, writer, metrics)
        self.acknowledged: list[int] = []

        async def durable(offset: int) -> None:
            self.acknowledged.append(offset)

        self.host = StageHost(s, "learner", StageDriver(self.stage, OWN), self.outbox, writer, metrics, Watching, durable, 0)
        self.kept = checkpoints_of(s, "learner", 0)

    async def handle(self, offset: int, checkpoint_due: bool = False) -> None:
        if checkpoint_due:
            self.host._checkpoint_at = 0.0
        await self.host.handle([_record(offset)], 10)

    async def checkpoint(self) -> None:
        await self.host.checkpoint()
        assert self.host._finishing is not None
        await self.host._finishing

    def stored(self) -> str:
        """The count in the newest checkpoint."""
        newest, stage = self.kept.newest(), CountingStage()
        assert newest is not None
        stage.restore(newest)
        return stage.digest()


def run(scenario: Callable[[Scene], Awaitable[None]], directory: Path) -> None:
    async def main() -> None:
        scene = Scene(directory)
        await scene.host.restore(0)
        await scenario(scene)
        await scene.outbox.close()

    asyncio.run(main())


def test_no_checkpoint_after_one_that_did_not_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunks count as kept, so the next would link older ones in their place."""

    def fails(self: Checkpoints, pending: Pending, previous: Path | None) -> Path:
        raise OSError(28, "No space left on device")

    async def scenario(scene: Scene) -> None:
        await scene.handle(0)
        await scene.checkpoint()
        await scene.handle(1)
        await scene.handle(2)
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(Checkpoints, "finish", fails)
            await scene.checkpoint()
        with pytest.raises(OSError, match="No space"):
            await scene.handle(3, checkpoint_due=True)
        with pytest.raises(OSError, match="No space"):
            await scene.host.close()
        assert scene.stored() == "1"
        assert scene.acknowledged == [1]

    run(scenario, tmp_path)


def test_no_checkpoint_after_a_snapshot_that_failed_half_way(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.handle(0)
        await scene.checkpoint()
        await scene.handle(1)
        await scene.handle(2)
        scene.stage.fails_to_snapshot = True
        with pytest.raises(OSError, match="No space"):
            await scene.handle(3, checkpoint_due=True)
        await scene.host.close()
        assert scene.stored() == "1"

    run(scenario, tmp_path)


def test_no_checkpoint_after_a_publication_that_failed(tmp_path: Path) -> None:
    """Its rows are no longer among the touched ones: only a restart publishes them."""

    async def scenario(scene: Scene) -> None:
        scene.client.refuses = True
        await scene.handle(0)
        await asyncio.sleep(0.05)  # the publisher's turn
        with pytest.raises(SendError):
            await scene.handle(1, checkpoint_due=True)
        with pytest.raises(SendError):
            await scene.host.close()
        assert scene.kept.newest() is None
        assert scene.acknowledged == []

    run(scenario, tmp_path)


def test_a_clean_close_leaves_a_checkpoint(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for offset in range(5):
            await scene.handle(offset)
        await scene.host.close()
        assert scene.stored() == "3"
        assert scene.acknowledged == [5]

    run(scenario, tmp_path)
