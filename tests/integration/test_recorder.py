"""Recordings and dead letters against a real broker: a recorder killed at any moment, letters sent back once."""

import asyncio
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import typer
from aiokafka import TopicPartition
from typer.testing import CliRunner

from core.errors import PositionLostError, SettingsError
from core.position import Upstream
from streams import bundled, dead_letter_box, pipeline
from streams.broker import EmbeddedBroker
from streams.cli import dlt
from streams.cli.record import record as record_command
from streams.dead_letter_box import Choice, DeadLetterBox, Sent
from streams.decode import RawMessage
from streams.reading import at, consumer, release
from streams.record import RecordedPartition, record, replay_recording
from streams.replay import replay_topic
from streams.settings import Settings
from tests import live, streams_support

pytestmark = pytest.mark.kafka
EVENTS, ITEMS, PORTIONS = 1_800, 50, 3
RECORDED = ("batches", "examples", "events", "events-dlt")
COMMAND = "import typer\nfrom streams.cli.record import record\ntyper.run(record)"
BAD: list[tuple[bytes | None, bytes | None]] = [(b"u\xff", b"\x00\x1b[2J not JSON \xff"), (b"u", None), (None, b"{}"), (None, b"")]


def retained(s: Settings, upstream: Upstream) -> list[RawMessage]:
    """Every record of a partition, as the client gives it."""
    return asyncio.run(_retained(s, TopicPartition(upstream.topic, upstream.partition)))


async def _retained(s: Settings, tp: TopicPartition) -> list[RawMessage]:
    reader, found = consumer(s), list[RawMessage]()
    await reader.start()
    try:
        [end] = (await reader.end_offsets([tp])).values()
        at(reader, await reader.beginning_offsets([tp]))
        while await reader.position(tp) < end:
            for r in (await reader.getmany(tp, timeout_ms=500)).get(tp, ()):
                found.append(RawMessage(r.key, r.value, tuple(r.headers), r.timestamp, r.offset))
        return found
    finally:
        await release(reader)


@contextmanager
def recorder(s: Settings, out: Path) -> Iterator[subprocess.Popen[str]]:
    """`freshet record` that follows the topics; ended by the test."""
    own = ["--topics", ",".join(RECORDED), "--round-seconds", "0.2", "--json"]
    cluster = ["-b", s.bootstrap_servers, "--namespace", s.namespace]
    env = {**os.environ, "FRESHET_EVENTS_TOPIC": s.events_topic, "FRESHET_ITEMS_TOPIC": s.items_topic}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(out), *own, *cluster], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _files(out: Path) -> int:
    return sum(1 for _ in out.rglob("*.parquet"))


def _record_while_killing(s: Settings, out: Path, seed: int) -> dict[str, Any]:
    """Portions of events, some of them bad, are ingested; in between the recorder is killed; the last one gets SIGTERM. What it told."""
    chance, events = random.Random(seed), list(islice(bundled.event_messages(), EVENTS))
    size = EVENTS // PORTIONS
    for portion in range(PORTIONS):
        before = _files(out)
        with recorder(s, out) as process:
            live.produce(s, [*events[portion * size : (portion + 1) * size], *BAD], s.events_topic)
            streams_support.ingest_all(s)
            live.wait(lambda before=before: _files(out) > before, "files of the recorder", 20)  # type: ignore[misc]
            threading.Event().wait(chance.uniform(0, 0.5))
            assert process.poll() is None, process.communicate()
            if portion == PORTIONS - 1:
                process.send_signal(signal.SIGTERM)
                output, errors = process.communicate(timeout=20)
                assert process.returncode == 0, errors
                told: dict[str, Any] = json.loads(output)
    return told


def test_a_killed_recorder_loses_and_doubles_nothing(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path, events_partitions=2, batches_partitions=2)
    live.produce(s, list(islice(bundled.item_messages(), ITEMS)), s.items_topic)
    out = tmp_path / "out"
    told = _record_while_killing(s, out, seed=20_260_301)
    streams_support.compute_features(s, tmp_path / "stages")
    held = record(s, out, RECORDED, until_end=True)
    assert len(held) == 2 + 1 + 2 + 2
    assert set(told["recorded"]) == {str(position.upstream) for position in held}
    for position in held:
        upstream = position.upstream
        expected = retained(s, upstream)
        assert list(RecordedPartition(out, upstream.topic, upstream.partition).messages()) == expected
        assert (position.first_offset, position.next_offset) == (0, live.end(s, upstream))
        assert len(expected) == position.records == position.next_offset
    assert any(message.headers for message in retained(s, held[-1].upstream))
    assert replay_recording(s, out) == _live(s, tmp_path)
    _refuses_a_topic_made_anew(s, out)


def _live(s: Settings, directory: Path) -> dict[str, str]:
    """The user stages as their worker left them, and the learner over the retained topic itself."""
    digests = {}
    for upstream in live.upstreams(s, s.batches_topic):
        stage = pipeline.user_stage(s, upstream, directory / f"live-{upstream.partition}")
        digests[f"{pipeline.FEATURES}-{upstream.partition}"] = live.restored(s, pipeline.FEATURES, upstream, stage).stage.digest()
        stage.close()
    [examples] = live.upstreams(s, s.examples_topic)
    learner, _ = replay_topic(s, examples, pipeline.learner_stage(s, s.batches_partitions))
    return {**digests, pipeline.LEARNER: learner.stage.digest()}


def _refuses_a_topic_made_anew(s: Settings, out: Path) -> None:
    before = sorted(out.rglob("*.parquet"))
    streams_support.recreate(s, s.batches_topic)
    with pytest.raises(PositionLostError, match="deleted or made anew"):
        record(s, out, ["batches"], until_end=True)
    assert sorted(out.rglob("*.parquet")) == before


def test_a_topic_that_is_gone_while_it_is_recorded(
    broker: EmbeddedBroker, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read until the last look is kept; the rest may be another topic's."""
    monkeypatch.setattr("streams.record.recorder.LOOK_SECONDS", 0.1)
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path, events_partitions=1)
    live.produce(s, list(islice(bundled.event_messages(), 300)), s.events_topic)
    looked = itertools.count()
    gone = threading.Event()

    def stop() -> bool:
        if next(looked) == 10:  # two seconds of polls and looks
            streams_support.recreate(s, s.events_topic)
            gone.set()
        return False

    with pytest.raises(PositionLostError, match="deleted or made anew"):
        record(s, tmp_path / "out", ["events"], stop=stop)
    assert gone.is_set()
    assert len(list(RecordedPartition(tmp_path / "out", s.events_topic, 0).messages())) == 300


@pytest.mark.parametrize("command", [["list"], ["show"], ["replay"]])
def test_dlt_without_a_cluster_says_what_to_do(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_BOOTSTRAP_SERVERS", raising=False)
    result = CliRunner().invoke(dlt.app, command)
    assert isinstance(result.exception, SettingsError)
    assert "FRESHET_BOOTSTRAP_SERVERS" in str(result.exception)


def test_record_without_a_cluster_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_BOOTSTRAP_SERVERS", raising=False)
    app = typer.Typer()
    app.command()(record_command)
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert isinstance(result.exception, SettingsError)
    assert "FRESHET_BOOTSTRAP_SERVERS" in str(result.exception)


NOW_MS = int(time.time() * 1000) - 60_000  # an older letter would be gone at the broker's next look at its retention
HEADERS: list[tuple[str, bytes | None]] = [("trace", b"\x00\xff"), ("trace", b"")]
CLACK = b'{"type": "clack", "user_id": "u", "item_id": "i%d", "ts": 1700000000000}'
SENT: list[streams_support.Sent] = [
    *((b"u%d" % n, CLACK % n, HEADERS, NOW_MS + n) for n in range(6)),
    (b"k\xff", b"\x1b]0;pwned\x07 \x00\xff", [], NOW_MS + 6),
    (b"u", None, HEADERS, NOW_MS + 7),
]


@pytest.fixture
def s(broker: EmbeddedBroker, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Dead letters at positions 0 to 7 of `events`: six of an unknown type, one of no JSON, one of no value."""
    made = live.settings(broker.bootstrap_servers, namespace, tmp_path, events_partitions=1, batches_partitions=1)
    streams_support.send(made, made.events_topic, SENT)
    streams_support.ingest_all(made)
    for name in ("bootstrap_servers", "namespace", "events_topic", "items_topic"):
        monkeypatch.setenv(f"FRESHET_{name.upper()}", getattr(made, name))
    return made


def run(*arguments: str) -> bytes:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(dlt.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


def _events(s: Settings) -> list[tuple[Any, ...]]:
    """Key, value and headers of what was sent back, and the position of its letter."""
    [upstream] = live.upstreams(s, s.events_topic)
    back = [r for r in retained(s, upstream) if r.offset >= len(SENT)]
    found = []
    for r in back:
        name, position = r.headers[-1]
        assert name == dead_letter_box.POSITION
        topic, _, offset = (position or b"").decode().rpartition("/")
        assert topic == f"{s.events_topic}/0"
        found.append((int(offset), r.key, r.value, list(r.headers[:-1])))
    return found


def _expected(*offsets: int) -> list[tuple[Any, ...]]:
    return [(n, *SENT[n][:3]) for n in offsets]


def _send_back(s: Settings, choice: Choice, **more: Any) -> Sent:
    return asyncio.run(dead_letter_box.send_back(s, s.events_topic, choice, **more))


def test_letters_are_counted_shown_and_sent_back_once(s: Settings, tmp_path: Path) -> None:
    _write_one_twice(s)
    counts = {row["reason"]: row for row in json.loads(run("list", "--json"))}
    assert {reason: row["letters"] for reason, row in counts.items()} == {"malformed_json": 1, "tombstone": 1, "unknown_type": 6}
    assert (counts["unknown_type"]["first_ms"], counts["unknown_type"]["last_ms"]) == (NOW_MS, NOW_MS + 5)
    assert dlt._time(NOW_MS + 5) in run("list").decode()
    _shown(tmp_path)
    assert b"6 letters would be sent back" in run("replay", "--reason", "UnknownType", "--dry-run")
    assert _events(s) == []
    run("replay", "--partition", "0", "--offset", "2")
    run("replay", "--reason", "unknown_type", "--limit", "3")
    assert _events(s) == _expected(2, 0, 1, 3)
    told = json.loads(run("replay", "--topic", "events", "--json"))["topics"]
    assert told == [{"topic": s.events_topic, "sent": 4, "sent_before": 4, "foreign": 0}]
    assert b"0 letters were sent back, 8 left out that were sent before" in run("replay", "--topic", "events")
    assert _events(s) == _expected(2, 0, 1, 3, 4, 5, 6, 7)
    run("replay", "--offset", "6", "--again")
    assert _events(s)[8:] == _expected(6)
    counts = {row["reason"]: row for row in json.loads(run("list", "--json"))}
    assert {reason: row["sent_back"] for reason, row in counts.items()} == {"malformed_json": 1, "tombstone": 1, "unknown_type": 6}
    _accepted_once_the_type_is_known(s)


def _write_one_twice(s: Settings) -> None:
    """As a crash of ingest does."""
    [letters] = live.upstreams(s, f"{s.events_topic}-dlt")
    first = retained(s, letters)[0]
    streams_support.send(s, letters.topic, [(first.key, first.value, list(first.headers), first.timestamp_ms)])


def _shown(tmp_path: Path) -> None:
    run("show", "--reason", "malformed_json", "--raw", str(tmp_path / "letter.bin"))
    assert (tmp_path / "letter.bin").read_bytes() == SENT[6][1]
    assert run("show", "--offset", "6", "--raw", "-") == SENT[6][1]
    text = run("show", "--offset", "6").decode()
    assert r"\x1b]0;pwned\x07 \x00\xff" in text
    assert not re.search(r"[^\n -~]", text)
    assert len(run("show", "--reason", "unknown_type", "--limit", "4", "--json").splitlines()) == 4
    with pytest.raises(SettingsError, match="several were chosen"):
        run("show", "--raw", "-")
    with pytest.raises(SettingsError, match="a tombstone"):
        run("show", "--reason", "Tombstone", "--raw", "-")
    with pytest.raises(SettingsError, match="--reason nonsense"):
        run("show", "--reason", "nonsense")


def _accepted_once_the_type_is_known(s: Settings) -> None:
    """The letters that came back are events now; what is still wrong is a new letter, at its new position."""
    streams_support.ingest_all(s.model_copy(update={"event_types": (*s.event_types, "clack")}))
    rows = [rows for _, rows in live.once(live.retained(s, live.upstreams(s, s.batches_topic)[0]), live.upstreams(s, s.batches_topic)[0])]
    items = [item for frame in rows for item in frame["item_id"] if item]
    assert sorted(items) == [f"i{n}" for n in range(6)]
    counts = {row["reason"]: (row["letters"], row["sent_back"]) for row in json.loads(run("list", "--json"))}
    assert counts == {"malformed_json": (3, 1), "tombstone": (2, 1), "unknown_type": (6, 6)}


def test_a_replay_that_died_is_finished_by_the_next(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies with some letters sent, and marked as about to be sent: they are found in their topic."""
    hand_over, left = DeadLetterBox._hand_over, iter(range(3))

    async def failing(self: DeadLetterBox, client: Any, letter: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return await hand_over(self, client, letter)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DeadLetterBox, "_hand_over", failing)
        _send_back(s, Choice())
    assert _events(s) == _expected(0, 1, 2)
    with pytest.raises(SettingsError, match=r"ended unfinished a moment ago: start this one in \d+ s"):
        _send_back(s, Choice())
    monkeypatch.setattr(dead_letter_box, "SETTLE_SECONDS", 0.0)
    assert _send_back(s, Choice(), dry_run=True) == Sent(s.events_topic, 5, 3, 0)
    assert _send_back(s, Choice()) == Sent(s.events_topic, 5, 3, 0)
    assert _send_back(s, Choice()) == Sent(s.events_topic, 0, 8, 0)
    assert _events(s) == _expected(*range(8))


def test_of_two_replays_at_once_one_stops(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second runs wholly between the first one's look at the marks and its own mark."""
    settle: Callable[..., Any] = DeadLetterBox._settle

    async def slow(self: DeadLetterBox, *given: Any) -> None:
        await settle(self, *given)
        monkeypatch.setattr(DeadLetterBox, "_settle", settle)
        await dead_letter_box.send_back(s, s.events_topic, Choice())

    monkeypatch.setattr(DeadLetterBox, "_settle", slow)
    with pytest.raises(SettingsError, match="another `freshet dlt replay`"):
        _send_back(s, Choice())
    assert _events(s) == _expected(*range(8))


def test_many_letters_go_in_several_chunks(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_box, "CHUNK_LETTERS", 3)
    assert _send_back(s, Choice()) == Sent(s.events_topic, 8, 0, 0)
    assert _send_back(s, Choice()) == Sent(s.events_topic, 0, 8, 0)
    assert _events(s) == _expected(*range(8))


def test_a_record_that_is_no_letter_is_counted_and_stays(s: Settings) -> None:
    foreign: Sequence[streams_support.Sent] = [(b"k", b"who sent this", [], NOW_MS)]
    streams_support.send(s, f"{s.events_topic}-dlt", foreign)
    assert {row["reason"]: row["letters"] for row in json.loads(run("list", "--json"))}["foreign"] == 1
    assert b"no dead letter of Freshet's" in run("show", "--reason", "foreign")
    assert b"1 left out that are no letters of Freshet's" in run("replay", "--reason", "foreign", "--topic", "events")
    assert _events(s) == []
