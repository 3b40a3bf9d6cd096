"""The Faust host's own part of delivery: what Faust lost is read again, and only from where the stage stands."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from core.errors import GapError
from core.position import Record
from monitoring.metrics import Metrics
from streams import worker as module
from streams.host import StageHost
from streams.observers import FeatureObserver
from streams.settings import load
from streams.worker import StageWorker


class Host:
    """Stands for a restored stage at offset 5 that takes what it is given."""

    partition = 0
    next_offset = 5
    seen_seconds = 0.0
    taken = 0

    async def handle(self, records: Sequence[Callable[[], Record]], size_bytes: int) -> None:
        self.taken += len(records)
        self.next_offset += len(records)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def _message(offset: int) -> Any:
    return SimpleNamespace(offset=offset, partition=0, headers=[], value=b"", timestamp=1.0)


def test_what_faust_lost_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        clock, sought, host = Clock(), list[int](), Host()
        monkeypatch.setattr(module, "time", clock)
        s = load(bootstrap_servers="127.0.0.1:1", data_dir=tmp_path)
        worker = StageWorker(
            s, "features", s.batches_topic, cast(Any, None), Metrics(CollectorRegistry()), FeatureObserver, s.history_publish_ms
        )
        stage = cast(StageHost, host)

        async def seek(partition: int, offset: int) -> None:
            sought.append(offset)

        monkeypatch.setattr(worker, "_seek", seek)
        await worker._take(stage, [_message(7), _message(8)])
        await worker._take(stage, [_message(9)])  # still from before the seek
        assert host.taken == 0
        for times in (1, 2):
            await worker._look_for_missing(0, stage)
            assert sought == [5] * times
        await worker._take(stage, [_message(5), _message(6)])
        await worker._look_for_missing(0, stage)
        assert sought == [5, 5]
        assert host.next_offset == 7
        assert [m.offset for m in worker._unacknowledged[0]] == [5, 6]

        await worker._take(stage, [_message(7), _message(9)])
        assert host.next_offset == 8
        await worker._look_for_missing(0, stage)
        await worker._take(stage, [_message(8)])
        await worker._look_for_missing(0, stage)
        assert sought == [5, 5, 8]

        await worker._take(stage, [_message(10)])  # and now the log itself has a hole
        clock.now += module.REREAD_SECONDS + 1
        with pytest.raises(GapError, match="offset 9 does not come"):
            await worker._look_for_missing(0, stage)
        await worker.outbox.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("offsets", "ready"),
    [([5, 6], [5, 6]), ([3, 4, 5], [3, 4, 5]), ([5, 3, 4, 5, 6, 8], [5, 3, 4, 5, 6]), ([6, 5], []), ([4, 6], [4])],
)
def test_what_leaves_out_none(offsets: list[int], ready: list[int]) -> None:
    assert [m.offset for m in module.contiguous([_message(offset) for offset in offsets], 5)] == ready
