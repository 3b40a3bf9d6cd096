"""`freshet demo` as a new user sees it: what it prints, and that nothing is left behind, however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from streams import topics
from streams.broker import EmbeddedBroker
from streams.cli import app
from streams.jars import BrokerUnavailable
from streams.settings import load

pytestmark = pytest.mark.kafka


def _start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "TMPDIR": str(directory), "COLUMNS": "160"}
    command = [sys.executable, "-m", "freshet", "demo", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def _left(directory: Path) -> list[str]:
    """Processes that were started for the demo in `directory`, and what it left on disk."""
    mine = [
        p.info["cmdline"] for p in psutil.process_iter(["cmdline", "environ"]) if (p.info["environ"] or {}).get("TMPDIR") == str(directory)
    ]
    return [*map(str, mine), *map(str, directory.iterdir())]


def _gone(directory: Path) -> bool:
    deadline = time.monotonic() + 10
    while _left(directory) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not _left(directory)


def test_demo_ends_with_its_tables(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with _start(tmp_path, "--events", "4000") as demo:
        output, _ = demo.communicate(timeout=180)
    assert demo.returncode == 0, output
    for text in ("events in", "4,000", "dead letters", "freshness", "hit-rate@20", "MRR@20", "list before", "list after", "freshet up"):
        assert text in output
    assert _gone(tmp_path), _left(tmp_path)


def test_nothing_is_left_on_a_cluster_of_others(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with _start(tmp_path, "--events", "500", "-b", broker.bootstrap_servers) as demo:
        output, _ = demo.communicate(timeout=180)
    assert demo.returncode == 0, output
    with topics.admin(load(bootstrap_servers=broker.bootstrap_servers)) as admin:
        assert [name for name in admin.client.list_topics() if name.startswith("freshet-demo-")] == []
        assert [group for group in admin.client.list_groups() if "freshet-demo-" in str(group)] == []
    assert _gone(tmp_path), _left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(broker: EmbeddedBroker, tmp_path: Path, number: signal.Signals) -> None:
    with _start(tmp_path) as demo:
        deadline = time.monotonic() + 90
        while not any("freshet learn" in line or "'learn'" in line for line in _left(tmp_path)):
            assert demo.poll() is None and time.monotonic() < deadline, "the demo's learner was never seen"
            time.sleep(0.2)
        time.sleep(2)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert _gone(tmp_path), _left(tmp_path)


def test_without_a_broker_the_replay_host_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(_: EmbeddedBroker) -> None:
        raise BrokerUnavailable("no jars here")

    monkeypatch.setattr(EmbeddedBroker, "start", unavailable)
    result = CliRunner().invoke(app, ["demo", "--events", "1500"])
    assert result.exit_code == 0, result.output
    assert "no jars here" in result.output
    assert "REPLAY HOST" in result.output
    assert "1,500" in result.output
    assert not list(Path(tempfile.gettempdir()).glob("freshet-demo-*"))
