"""Several processes on one machine: started, watched, restarted with back-off, and all stopped again, whatever happens."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from core.errors import FreshetError
from streams.broker import EmbeddedBroker
from streams.settings import SUPERVISED, Settings

log = logging.getLogger(__name__)
COMMANDS = {"ingest": "ingest", "features": "worker", "learner": "learn", "server": "serve", "page": "page"}
STOP_SECONDS = 20.0
# The processes are the parallelism: pools of threads inside each would only take turns on the same cores.
ONE_THREAD = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.5, 30.0
NEEDS_HELP = 4  # exit status: another start would end the same way
SETTLED_SECONDS = 60.0  # a child that lived this long starts again at the first delay


class Child:
    """One `freshet` process. Its standard input is a pipe from us: when we are gone, however, it ends too."""

    def __init__(self, name: str, s: Settings, log_dir: Path, metrics_port: int = 0, kind: str = "") -> None:
        """`kind`: a key of COMMANDS, where several of one kind need names of their own."""
        self.name, self.log_path, self._command = name, log_dir / f"{name}.log", COMMANDS[kind or name]
        self._env = {**ONE_THREAD, **os.environ, **environment(s), SUPERVISED: "1", "FRESHET_METRICS_PORT": str(metrics_port)}
        self._env["FRESHET_WORKER_INSTANCE"] = s.worker_instance or name
        self.restarts = 0
        self.needs_help = False
        self._delay = FIRST_DELAY_SECONDS
        self._start_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log_path.open("ab") as out:
            command = [sys.executable, "-m", "freshet", self._command]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=self._env)
        self._started_at = time.monotonic()

    def look(self) -> str | None:
        """Restart it where it is due; the line to tell where it has just died."""
        if self.process is None:
            if time.monotonic() >= self._start_at:
                self.restarts += 1
                self.start()
            return None
        code = self.process.poll()
        if code is None:
            return None
        if code == NEEDS_HELP:
            self.needs_help, self._start_at = True, float("inf")
            self.release()
            return f"{self.name} cannot go on by itself:\n{self.last_lines()}"
        if time.monotonic() - self._started_at > SETTLED_SECONDS:
            self._delay = FIRST_DELAY_SECONDS
        self._start_at, delay = time.monotonic() + self._delay, self._delay
        self._delay = min(2 * self._delay, LONGEST_DELAY_SECONDS)
        self.release()
        return f"{self.name} ended with status {code}, starts again in {delay:g} s; its log: {self.log_path}\n{self.last_lines()}"

    def last_lines(self, count: int = 3) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-count:])

    def release(self) -> None:
        """Let go of a process that has ended."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.process = None

    def end(self) -> None:
        """Ask it to end: a signal, and the end of its input."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, deadline: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not end within %.0f s and is killed; it goes on from its last checkpoint", self.name, STOP_SECONDS)
            self.process.kill()
            self.process.wait()
        self.release()


class Supervisor:
    """Keeps children running until `stop`. `tell` gets a line for each death, `restarted` the name of each restart."""

    def __init__(
        self,
        s: Settings,
        names: Mapping[str, int],
        tell: Callable[[str], None] = log.warning,
        restarted: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`names`: which processes, each with its metrics port (0: none)."""
        log_dir = s.data_dir / "logs"
        log_dir.mkdir(parents=True, exist_ok=True)
        self.children = {name: Child(name, s, log_dir, port) for name, port in names.items()}
        self._tell, self._restarted = tell, restarted
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        for child in self.children.values():
            child.start()
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for child in self.children.values():
                restarts = child.restarts
                try:
                    line = child.look()
                except OSError as error:  # no memory, no processes left: the next look tries again
                    line = f"{child.name} cannot be started: {error}"
                if line:
                    self._tell(line)
                if child.restarts > restarts:
                    self._restarted(child.name)

    def stop(self) -> None:
        """Sources first, so that what was read is learned and served; then everything is gone."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for child in self.children.values():
            child.end()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            child.wait(deadline)

    def check_help(self) -> None:
        """Raise where a child cannot go on by itself.

        Raises:
            FreshetError: with the last line of its log, which says what to do.
        """
        for child in self.children.values():
            if child.needs_help:
                raise FreshetError(f"{child.name} cannot go on by itself. {child.last_lines(1).removeprefix('freshet: ')}")

    def check(self) -> None:
        """Raise where a child keeps dying, or cannot go on by itself.

        Raises:
            FreshetError: with the last lines of its log.
        """
        self.check_help()
        for child in self.children.values():
            if child.restarts >= 3:
                raise FreshetError(f"{child.name} died {child.restarts} times; its log {child.log_path} ends:\n{child.last_lines(8)}")


@contextlib.contextmanager
def supervised(supervisor: Supervisor) -> Iterator[Supervisor]:
    """Started, and stopped at the end."""
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.stop()


@contextlib.contextmanager
def kept_running(broker: EmbeddedBroker, tell: Callable[[str], None], restarted: Callable[[str], None]) -> Iterator[None]:
    """A started broker, started again at the same port where it dies; stopped at the end.

    Clients find it again by themselves, or end and are restarted.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_keep, args=(broker, stop, tell, restarted), name="broker", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        broker.stop()


def _keep(broker: EmbeddedBroker, stop: threading.Event, tell: Callable[[str], None], restarted: Callable[[str], None]) -> None:
    delay, started_at = FIRST_DELAY_SECONDS, time.monotonic()
    while not stop.wait(0.2):
        if broker.alive:
            continue
        if time.monotonic() - started_at > SETTLED_SECONDS:
            delay = FIRST_DELAY_SECONDS
        tell(f"the broker died, starts again in {delay:g} s; its log: {broker.data_dir / 'broker.log'}")
        if stop.wait(delay):
            return
        delay = min(2 * delay, LONGEST_DELAY_SECONDS)
        try:
            broker.restart()
            started_at = time.monotonic()
            restarted("broker")
        except (FreshetError, OSError) as error:
            tell(f"the broker cannot be started: {error}")


def environment(s: Settings) -> dict[str, str]:
    """The settings as variables, for a child that shall see the same."""
    values = s.model_dump(mode="json")
    return {f"FRESHET_{k.upper()}": v if isinstance(v, str) else msgspec.json.encode(v).decode() for k, v in values.items()}
