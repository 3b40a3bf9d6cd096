"""Every command line of the compose stack, started for real: no containers, but their commands, variables, order and health checks."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from streams import broker as embedded
from streams import topics
from streams.processes import free_port
from streams.settings import PREFIX, SUPERVISED, Settings, load
from tests.composed import Service, composed, entrypoint, in_order, ours, runs_on
from tests.live import wait

pytestmark = pytest.mark.kafka
# What an operator would put into docker/freshet.env.
OWN_SETTINGS = {"FRESHET_MAX_USERS": str(1 << 15), "FRESHET_MAX_ITEMS": str(1 << 14)}
PORTS = ("metrics_port", "http_port", "page_port")
SECONDS = 120.0
A_BUSY_USER = "u23943"


class Stack:
    """The services that run our image, as processes of this machine: a container's ports become free ones of loopback."""

    def __init__(self, services: dict[str, Service], bootstrap_servers: str, directory: Path) -> None:
        self.services, self.directory = ours(services), directory
        self._ports = {name: {inner: free_port() for inner in inner_ports(service).values()} for name, service in self.services.items()}
        self._addresses = {"kafka:9092": bootstrap_servers}
        self._addresses |= {f"{name}:{inner}": at(port) for name, ports in self._ports.items() for inner, port in ports.items()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, name: str, text: str) -> str:
        """A text of that service, with addresses of this machine in it."""
        known = self._addresses | {at(inner): at(port) for inner, port in self._ports[name].items()}
        return re.sub("|".join(map(re.escape, known)), lambda found: known[found[0]], text)

    def environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        given = {variable: self.here(name, value) for variable, value in service["environment"].items()}
        given |= {variable: str(self._ports[name][inner]) for variable, inner in inner_ports(service).items()}
        given |= {"FRESHET_HTTP_HOST": "127.0.0.1", "FRESHET_DATA_DIR": str(self.directory / "state"), SUPERVISED: "1"}
        if "NUMBA_CACHE_DIR" in given:
            given["NUMBA_CACHE_DIR"] = str(self.directory / "tmp")
        others = {variable: value for variable, value in os.environ.items() if not variable.startswith(PREFIX)}
        return {**others, **OWN_SETTINGS, **given}

    def start(self, name: str) -> None:
        """As Compose does: once what it depends on is there."""
        service = self.services[name]
        for other, dependency in service.get("depends_on", {}).items():
            if other in self.services:
                self.reach(other, dependency["condition"])
        program, *arguments = entrypoint()
        command = [str(Path(sys.executable).parent / program), *arguments, *service["command"]]
        with (self.directory / f"{name}.log").open("wb") as out:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=self.environment(name), cwd=self.directory
            )

    def reach(self, name: str, condition: str) -> None:
        if condition == "service_healthy":
            wait(lambda: self.healthy(name), f"{name} to be healthy", SECONDS, self.check)
        else:
            assert self.processes[name].wait(SECONDS) == 0, self.said(name)

    def healthy(self, name: str) -> bool:
        """What its own health check says."""
        check = self.services[name]["healthcheck"]
        kind, program, *arguments = check["test"]
        assert (kind, program) == ("CMD", "python")
        command = [sys.executable, *(self.here(name, argument) for argument in arguments)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, timeout=int(check["timeout"].removesuffix("s")))
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def said(self, name: str) -> str:
        return f"{name}:\n{(self.directory / f'{name}.log').read_text()[-3_000:]}"

    def check(self) -> None:
        """Nobody died who is meant to keep running."""
        for name, process in self.processes.items():
            assert process.poll() is None or not runs_on(self.services[name]), self.said(name)

    def get(self, name: str, path: str) -> dict[str, Any]:
        """An answer at the port that the service publishes."""
        [published] = self.services[name]["ports"]
        with urlopen(f"http://{self.here(name, published.rpartition(':')[0])}{path}", timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def stop(self) -> dict[str, int]:
        """SIGTERM to who still runs, the last started first; their exit statuses."""
        running = [name for name, process in reversed(self.processes.items()) if process.poll() is None]
        for name in running:
            self.processes[name].terminate()
        return {name: self.processes[name].wait(60) for name in running}

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()


def at(port: int) -> str:
    return f"127.0.0.1:{port}"


def inner_ports(service: Service) -> dict[str, int]:
    """Variable -> the port that it names in the container."""
    variables = {f"{PREFIX}{name.upper()}": Settings.model_fields[name].default for name in PORTS}
    return {variable: int(service["environment"].get(variable, default)) for variable, default in variables.items()}


def properties(environment: dict[str, str], external: int) -> str:
    """What the image of Kafka makes of its variables, in the form of `streams.broker.PROPERTIES`."""
    lines = [f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={value}" for name, value in environment.items()]
    here = {
        "INTERNAL://:9092": "INTERNAL://{host}:{port}",
        "kafka:9092": "{host}:{port}",
        "EXTERNAL://:19092": f"EXTERNAL://{at(external)}",
        "127.0.0.1:9092": at(external),
        "localhost:9093": "{host}:{controller_port}",
        "/var/lib/kafka/data": "log",
    }
    return re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], "\n".join(lines) + "\n")


@pytest.fixture
def external() -> int:
    """The port that stands for the published one of Kafka."""
    return free_port()


@pytest.fixture
def stack(
    start_broker: Callable[[Path], embedded.EmbeddedBroker], external: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """On a broker that is configured as the stack's."""
    services = composed(DEMO_RATE="0")["services"]
    monkeypatch.setattr(embedded, "PROPERTIES", properties(services["kafka"]["environment"], external))
    prepared = Stack(services, start_broker(tmp_path / "kafka").bootstrap_servers, tmp_path)
    yield prepared
    prepared.kill()


def test_the_stack_comes_up_learns_and_stops_in_order(stack: Stack, external: int) -> None:
    for name in (name for name in in_order(stack.services) if name in stack.services):
        stack.start(name)
    for name, service in stack.services.items():
        stack.reach(name, "service_healthy" if runs_on(service) else "service_completed_successfully")

    path = f"/v1/recommend/{A_BUSY_USER}?k=5"
    wait(lambda: stack.get("serve", path)["source"] == "personal", "a list of what was learned", SECONDS, stack.check)
    assert len(stack.get("serve", path)["items"]) == 5
    wait(lambda: all(process["up"] for process in stack.get("page", "/api/state")["processes"]), "the page to see all", 30, stack.check)
    with topics.admin(load(bootstrap_servers=at(external))) as admin:  # as a producer on this machine
        assert len(admin.upstreams("events")) == 4

    assert stack.stop() == dict.fromkeys((name for name, service in stack.services.items() if runs_on(service)), 0)
    assert not list((stack.directory / "tmp").rglob("*.nb*")), "a service with a read-only file system runs kernels after all"
