"""The command line: help with an example for each command, doctor's findings, errors in one sentence."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.errors import SettingsError
from streams import topics
from streams.broker import EmbeddedBroker
from streams.cli import app
from tests import live

COMMANDS = (
    "demo",
    "up",
    "broker",
    "ingest",
    "worker",
    "learn",
    "serve",
    "page",
    "produce",
    "schema",
    "replay",
    "evaluate",
    "simulate",
    "record",
    "dlt",
    "doctor",
)


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def own_topics(namespace: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's namespace, with producers' topics in it too."""
    monkeypatch.setenv("FRESHET_EVENTS_TOPIC", f"{namespace}events")
    monkeypatch.setenv("FRESHET_ITEMS_TOPIC", f"{namespace}items")
    return namespace


def freshet(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a process of its own."""
    env = {**os.environ, **{f"FRESHET_{name.upper()}": value for name, value in settings.items()}}
    ended = subprocess.run([sys.executable, "-m", "freshet", *arguments], capture_output=True, text=True, timeout=60, check=False, env=env)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(run: CliRunner, command: str) -> None:
    result = run.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: freshet {command}" in result.output


@pytest.mark.parametrize("command", ["ingest", "worker", "learn", "serve", "page"])
def test_a_process_without_a_cluster_says_what_to_do(run: CliRunner, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_BOOTSTRAP_SERVERS", raising=False)
    result = run.invoke(app, [command])
    assert isinstance(result.exception, SettingsError)
    assert "FRESHET_BOOTSTRAP_SERVERS" in str(result.exception)


def test_replay_prints_the_same_state_for_any_batch(run: CliRunner) -> None:
    outputs = [run.invoke(app, ["replay", "--local", "--events", "600", "--batch", str(batch), "--json"]).output for batch in (50, 600)]
    digests = [output[output.index('"digests"') :] for output in outputs]
    assert digests[0] == digests[1]


def test_replay_of_a_file(run: CliRunner, tmp_path: Path) -> None:
    lines = [
        '{"type":"click","user_id":"a","item_id":"x","ts":1700000000000}',
        "garbage",
        '{"type":"like","user_id":"a","item_id":"y","ts":1700000001000}',
    ]
    (tmp_path / "log.ndjson").write_text("\n".join(lines))
    result = run.invoke(app, ["replay", str(tmp_path / "log.ndjson"), "--local", "--json"])
    assert result.exit_code == 0, result.output
    assert '"events": 2' in result.output
    assert '"dead_letters": 1' in result.output


@pytest.mark.kafka
def test_doctor_finds_missing_topics_and_makes_them(run: CliRunner, broker: EmbeddedBroker, namespace: str) -> None:
    at = ["--bootstrap-servers", broker.bootstrap_servers, "--namespace", namespace]
    before = run.invoke(app, ["doctor", *at])
    assert before.exit_code == 1
    assert f"{namespace}batches" in before.output
    assert "--create-topics" in before.output
    after = run.invoke(app, ["doctor", *at, "--create-topics"])
    assert after.exit_code == 0, after.output


def test_doctor_names_the_settings_of_an_unreachable_cluster() -> None:
    """In a process of its own: kafka-python leaves the socket of a failed probe to the collector."""
    status, report, error = freshet("doctor", "-b", "127.0.0.1:1")
    assert status == 1
    assert "bootstrap_servers" in report
    assert error == ""


@pytest.mark.parametrize("command", [["produce", "--demo"], ["ingest"], ["worker"], ["up"]])
def test_no_kafka_there_is_one_sentence(command: list[str], tmp_path: Path) -> None:
    status, _, error = freshet(*command, "-b", "127.0.0.1:1", data_dir=str(tmp_path), http_port="0", page_port="0")
    assert status == 1
    assert error.splitlines()[-1].startswith("freshet: no Kafka answers at 127.0.0.1:1 ")
    assert "Traceback" not in error


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, error = freshet("serve", "--port", str(taken.getsockname()[1]), "-b", "127.0.0.1:1")
    assert status == 1
    assert "set `http_port` (FRESHET_HTTP_PORT)" in error
    assert error.count("\n") == 1


@pytest.mark.kafka
def test_produce_sends_a_catalogue_keyed_by_item(run: CliRunner, broker: EmbeddedBroker, own_topics: str, tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.ndjson"
    catalogue.write_text('{"item_id": "v7", "title": "a"}\n\n{"item_id": "v8"}\n')
    arguments = ["produce", "--items", str(catalogue), "-b", broker.bootstrap_servers, "--namespace", own_topics]
    assert run.invoke(app, arguments, catch_exceptions=False).exit_code == 0
    s = live.settings(broker.bootstrap_servers, own_topics, tmp_path)
    assert [live.end(s, upstream) for upstream in live.upstreams(s, s.items_topic)] == [2]  # Kafka refuses entries without a key
    catalogue.write_text('{"item_id": "v7"}\n{"title": "nameless"}\n')
    with pytest.raises(SettingsError, match="line 2, has no item_id"):
        run.invoke(app, arguments, catch_exceptions=False)


@pytest.mark.kafka
def test_produce_sends_a_file(run: CliRunner, broker: EmbeddedBroker, own_topics: str, tmp_path: Path) -> None:
    (tmp_path / "log.ndjson").write_text('{"type":"click","user_id":"a","item_id":"x","ts":1700000000000}\nnot json\n')
    at = ["--bootstrap-servers", broker.bootstrap_servers, "--namespace", own_topics]
    result = run.invoke(app, ["produce", str(tmp_path / "log.ndjson"), *at])
    assert result.exit_code == 0, result.output
    s = live.settings(broker.bootstrap_servers, own_topics, tmp_path)
    with topics.admin(s) as admin:
        assert sum(admin.end_offset(u) for u in admin.upstreams(s.events_topic)) == 2


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "freshet", "simulate", str(tmp_path / "file"), "--events", "10"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("freshet: ")
    assert str(tmp_path / "file") in done.stderr
    assert done.stderr.count("\n") == 1
