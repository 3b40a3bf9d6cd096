"""`freshet up` with a Prometheus beside it, as an operator has them: real processes, real scrapes, real alerts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil

from monitoring.prometheus import ALERTS, CONFIGURATION
from streams.processes import free_port
from streams.settings import Settings
from streams.supervisor import environment
from tests.live import wait
from tests.programs import program

SECONDS_OF = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
RUNBOOKS = ALERTS.parent / "runbooks"
LEAST_SECONDS = 4  # of a window: two scrapes, with one to spare
DURATION = re.compile(r"\b(\d+)([smhd])\b")


class Up:
    """A running `freshet up`."""

    def __init__(self, s: Settings, process: "subprocess.Popen[bytes]", out: Path) -> None:
        self.s, self.process, self._out = s, process, out

    def said(self) -> str:
        return self._out.read_text()

    def url(self, name: str) -> str:
        """Of `page` or `server`."""
        found = re.search(rf"^{name}\s+(http://[^/\s]+)", self.said(), re.MULTILINE)
        assert found, self.said()
        return found[1]

    def check(self) -> None:
        assert self.process.poll() is None, self.said()

    def child(self, command: str) -> psutil.Process:
        """The process of `freshet COMMAND`."""
        [found] = [p for p in psutil.Process(self.process.pid).children() if p.cmdline()[-1] == command]
        return found


@contextmanager
def up(s: Settings) -> Iterator[Up]:
    """`freshet up` with these settings, ready; stopped in order at the end."""
    s.data_dir.mkdir(parents=True, exist_ok=True)
    out = s.data_dir / "up.out"
    with out.open("wb") as file:
        command = [sys.executable, "-m", "freshet", "up"]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment(s)})
    running = Up(s, process, out)
    try:
        wait(lambda: "Ready." in running.said(), "freshet up", 120, running.check)
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


class Prometheus:
    """What a running Prometheus knows."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an instant query returns.

        Raises:
            HTTPError: Prometheus cannot evaluate it.
        """
        return self._get("query", query=expression)["result"]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"}

    def _get(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self.base}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as answer:
            return json.loads(answer.read())["data"]


@contextmanager
def prometheus(configuration: Path, work_dir: Path, faster: int = 1) -> Iterator[Prometheus]:
    """The real one, on what `freshet up` wrote, scraping each second; every duration of the rules is divided by `faster`."""
    work_dir.mkdir()
    rules = work_dir / ALERTS.name
    rules.write_text(hurried(ALERTS.read_text(), faster))
    own = configuration.read_text().replace(json.dumps(str(ALERTS)), json.dumps(str(rules)))
    (work_dir / CONFIGURATION).write_text(re.sub(r"(_interval): \d+s", r"\1: 1s", own))
    port = free_port()
    storage, listen = f"--storage.tsdb.path={work_dir / 'data'}", f"--web.listen-address=127.0.0.1:{port}"
    with (work_dir / "prometheus.log").open("wb") as log:
        command = [program("prometheus"), f"--config.file={work_dir / CONFIGURATION}", storage, listen]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        told = Prometheus(port)
        wait(lambda: answers(f"{told.base}/-/ready"), "Prometheus", 30)
        yield told
    finally:
        process.terminate()
        process.wait(20)


def hurried(text: str, faster: int) -> str:
    """Rules whose durations are that many times shorter."""
    return DURATION.sub(lambda found: f"{max(LEAST_SECONDS, int(found[1]) * SECONDS_OF[found[2]] // faster)}s", text)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until_all(conditions: Sequence[str], holds: Callable[[str], bool], seconds: float) -> list[str]:
    """Those that do not hold within the time."""
    deadline, left = time.monotonic() + seconds, list(conditions)
    while left and time.monotonic() < deadline:
        left = [condition for condition in left if not holds(condition)]
        time.sleep(0.5 if left else 0)
    return left


def follow(runbook: str, running: Up, watched: Prometheus) -> str:
    """What an operator reads who runs every command of a runbook, one after the other."""
    page = (RUNBOOKS / f"{runbook}.md").read_text()
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert commands, runbook
    here = {
        "127.0.0.1:8080": running.url("server").removeprefix("http://"),
        "127.0.0.1:8090": running.url("page").removeprefix("http://"),
        "127.0.0.1:9090": watched.base.removeprefix("http://"),
        "127.0.0.1:9092": running.s.bootstrap_servers,
        ".freshet/": f"{running.s.data_dir}/",
    }
    for documented, real in here.items():
        commands = commands.replace(documented, real)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, **environment(running.s), "PATH": path, "COLUMNS": "200"}
    done = subprocess.run(["bash", "-c", commands], check=False, env=env, capture_output=True, text=True, timeout=120)
    return f"{done.stdout}\n{done.stderr}"
