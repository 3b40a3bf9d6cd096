"""The lock file, and how jars are fetched and verified: against a small Maven repository on loopback."""

import gc
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from streams import jars
from streams.jars import BrokerUnavailable, Jar

CONTENT = {f"part{i}-1.0.jar": bytes([i]) * (100 + i) for i in range(6)}
LOCKED = [
    Jar("org.example", name.split("-")[0], "1.0", hashlib.sha256(content).hexdigest(), len(content)) for name, content in CONTENT.items()
]
UNREACHABLE = "http://127.0.0.1:9"  # nobody listens there


class Repository(ThreadingHTTPServer):
    """Serves `content` by file name, remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = dict(CONTENT)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        content = self.server.content.get(name)
        if name.endswith(".jar"):
            self.server.asked.append(name)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    """An empty Maven repository and cache, filled from `url`."""
    config = tmp_path / "jgo.conf"
    config.write_text(f"[repositories]\ncentral = {url}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    monkeypatch.setenv("JGO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(jars, "locked", lambda: LOCKED)


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    with Repository() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        use(monkeypatch, tmp_path, server.url)
        yield server
        server.shutdown()
        thread.join()


def test_the_lock_file_is_exact() -> None:
    lock = jars.locked()
    assert len({jar.path for jar in lock}) == len(lock) > 40
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in lock)
    assert [jar.version for jar in lock if jar.artifact == "kafka_2.13"] == ["4.3.0"]


def test_one_logger_which_writes_no_files() -> None:
    names = [jar.artifact for jar in jars.locked()]
    bindings = {"slf4j-nop", "slf4j-simple", "slf4j-reload4j", "log4j-slf4j-impl", "log4j-slf4j2-impl", "logback-classic"}
    assert [name for name in names if name in bindings] == ["slf4j-simple"]


def test_the_lock_file_is_of_this_endpoint() -> None:
    stored = json.loads(Path(jars.__file__).with_name(jars.LOCK).read_text("utf-8"))
    assert stored["endpoint"] == jars.ENDPOINT


def test_fetched_once_in_order_then_without_network(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    paths = jars.resolve(lambda *step: told.append(step))
    total = sum(map(len, CONTENT.values()))
    assert [path.name for path in paths] == list(CONTENT) == [name for name, _, _ in told]
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert told[-1][1:] == (total, total)
    assert sorted(repository.asked) == sorted(CONTENT)
    use(monkeypatch, tmp_path, UNREACHABLE)
    assert jars.resolve() == paths


def test_nothing_but_the_jars_is_left_in_the_repository(repository: Repository, tmp_path: Path) -> None:
    paths = jars.resolve()
    assert sorted(path for path in (tmp_path / "m2").rglob("*") if path.is_file()) == sorted(paths)


def test_a_damaged_jar_here_is_fetched_again(repository: Repository) -> None:
    path = jars.resolve()[2]
    path.write_bytes(bytes(path.stat().st_size))
    repository.asked.clear()
    assert jars.resolve()[2].read_bytes() == CONTENT[path.name]
    assert repository.asked == [path.name]


@pytest.mark.parametrize("content", [b"short", bytes([7]) * 103], ids=["size", "sha256"])
def test_a_jar_that_is_not_the_locked_one_is_named_and_removed(repository: Repository, tmp_path: Path, content: bytes) -> None:
    repository.content["part3-1.0.jar"] = content
    with pytest.raises(BrokerUnavailable, match=r"part3-1\.0\.jar as fetched has another SHA-256"):
        jars.resolve()
    assert repository.asked.count("part3-1.0.jar") == jars.ATTEMPTS
    assert not list((tmp_path / "m2").rglob("part3*.jar"))


def test_verified_files_are_not_hashed_again(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = jars.resolve()
    hashed: list[str] = []

    def digest(path: Path) -> str:
        hashed.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(jars, "digest", digest)
    jars.resolve()
    assert hashed == []
    paths[1].touch()
    jars.resolve()
    assert hashed == [paths[1].name]


def test_damaged_receipts_cost_no_more_than_hashing(repository: Repository, tmp_path: Path) -> None:
    paths = jars.resolve()
    (tmp_path / "cache" / "freshet-jars.json").write_text("[not")
    repository.asked.clear()
    assert jars.resolve() == paths
    assert repository.asked == []


def names_the_other_ways(error: BrokerUnavailable) -> bool:
    said = str(error)
    ways = ("--bootstrap-servers", "FRESHET_BOOTSTRAP_SERVERS", "Docker Compose", "freshet replay --local")
    return all(way in said for way in ways) and "\n" not in said and said.endswith(".")


def test_no_network_and_an_empty_cache_give_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, tmp_path, UNREACHABLE)
    with pytest.raises(BrokerUnavailable, match=r"part0-1\.0\.jar .* cannot be fetched \(ConnectionError\)") as raised:
        jars.resolve()
    assert names_the_other_ways(raised.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_jar_that_the_repository_lacks(repository: Repository) -> None:
    del repository.content["part5-1.0.jar"]
    with pytest.raises(BrokerUnavailable, match=r"part5-1\.0\.jar") as raised:
        jars.resolve()
    assert names_the_other_ways(raised.value)
    del raised
    gc.collect()  # jgo leaves the answer to a refused request open: its socket goes here, not in a test that forbids it


def test_without_jgo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jgo.config", None)
    with pytest.raises(BrokerUnavailable, match="`jgo` is not installed") as raised:
        jars.resolve()
    assert names_the_other_ways(raised.value)
