"""`freshet replay --state`, killed and interrupted: what comes of it is what an uninterrupted one gives, every event once."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.schemas import EVENT
from features.user_stage import UserStage
from streams import pipeline
from streams.broker import EmbeddedBroker
from streams.replay import replay_topic
from tests import live, streams_support

EVENTS = 5_000
SMALL = {"FRESHET_MAX_USERS": "8192", "FRESHET_MAX_ITEMS": "8192", "FRESHET_DIMENSIONS": "16", "FRESHET_CHECKPOINT_SECONDS": "0.2"}


def start(options: Sequence[str], log: Path, **environment: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "freshet", "replay", "--events", str(EVENTS), *options]
    with log.open("wb") as told:
        return subprocess.Popen(command, env={**os.environ, **SMALL, **environment}, stdout=told, stderr=subprocess.STDOUT)


def finish(process: "subprocess.Popen[bytes]", log: Path) -> str:
    code = process.wait(timeout=90)
    assert code == 0, log.read_text()
    return log.read_text()


def kept_events(state: Path) -> int:
    """Of the newest checkpoint; -1 where there is none."""
    directory = state / "checkpoints"
    found = [int(path.name[:20]) for path in directory.iterdir() if path.name[:20].isdigit()] if directory.exists() else []
    return max(found, default=-1)


def result(told: str) -> dict[str, Any]:
    """What the command says, without what the clock says."""
    found: dict[str, Any] = json.loads(told[told.index("{") :])
    return {name: value for name, value in found.items() if name not in ("seconds", "events_per_second")}


def test_a_local_replay_that_is_killed_gives_the_result_of_one_that_is_not(tmp_path: Path) -> None:
    """At 1,500 events a second: a kill at a random moment, SIGTERM, and another kill."""
    chance, state, log = random.Random(20_260_122), tmp_path / "state", tmp_path / "log"
    whole = result(finish(start(["--local", "--json"], tmp_path / "whole"), tmp_path / "whole"))
    assert whole["events"] == EVENTS
    assert whole["judged"] > 100
    options = ["--local", "--json", "--state", str(state)]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process, before = start([*options, "--rate", "1500"], log), kept_events(state)
        live.wait(lambda before=before: kept_events(state) > before, "a checkpoint", check=lambda p=process: _alive(p, log))
        if number == signal.SIGKILL:
            live.wait(lambda: chance.random() < 0.3, "a random moment")
        process.send_signal(number)
        code = process.wait(timeout=20)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number), log.read_text()
        if number != signal.SIGKILL:
            assert f"stopped after {kept_events(state):,} events; the same command goes on there" in log.read_text()
    assert 0 < kept_events(state) < EVENTS
    assert result(finish(start(options, log), log)) == whole
    assert kept_events(state) == EVENTS
    assert result(finish(start(options, log), log)) == whole, "a finished one is told again"


def _alive(process: "subprocess.Popen[bytes]", log: Path) -> None:
    assert process.poll() is None, log.read_text()


@pytest.mark.kafka
def test_a_replay_to_kafka_that_is_killed_counts_each_event_once(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    s, state, log = live.settings(broker.bootstrap_servers, namespace, tmp_path), tmp_path / "state", tmp_path / "log"
    environment = {"FRESHET_EVENTS_TOPIC": s.events_topic, "FRESHET_ITEMS_TOPIC": s.items_topic, "FRESHET_NAMESPACE": namespace}
    options = ["--bootstrap-servers", broker.bootstrap_servers, "--state", str(state)]
    sources = live.upstreams(s, s.events_topic)

    def sent() -> int:
        return sum(live.end(s, source) for source in sources)

    for number in (signal.SIGKILL, signal.SIGINT):
        there = sent()
        process = start([*options, "--rate", "1200"], log, **environment)
        live.wait(lambda there=there: sent() > there + 300, "events to be sent", check=lambda p=process: _alive(p, log))
        if number == signal.SIGKILL:
            live.wait(lambda: sent() > kept_events(state) + 200, "events behind the place that is kept")
        process.send_signal(number)
        assert process.wait(timeout=20) == (-signal.SIGKILL if number == signal.SIGKILL else 130), log.read_text()
    finish(start(options, log, **environment), log)
    assert live.end(s, live.upstreams(s, s.items_topic)[0]) > 0
    streams_support.ingest_all(s)
    accepted, repeated = _outcomes(s, tmp_path)
    assert accepted == EVENTS
    assert repeated == sent() - EVENTS
    assert repeated > 100, "kills send a tail again"


def _outcomes(s: Any, directory: Path) -> tuple[int, int]:
    """Events that the user stages accept and refuse, over all that ingest wrote."""
    accepted = repeated = 0
    for upstream in live.upstreams(s, s.batches_topic):
        stage = pipeline.user_stage(s, upstream, directory / f"work-{upstream.partition}")
        _, frames = replay_topic(s, upstream, stage)
        assert isinstance(stage, UserStage)
        assert sum(int((rows["kind"] == EVENT).sum()) for rows in frames) == stage.outcomes["accepted"]
        accepted, repeated = accepted + stage.outcomes["accepted"], repeated + stage.outcomes["duplicate"]
        stage.close()
    return accepted, repeated
