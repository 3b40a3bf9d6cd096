"""The live page's app: who may ask it, what it answers while Kafka, the server or a process is away, and what it lets through."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from monitoring.metrics import Metrics
from monitoring.scrape import Reading, ScrapeError
from streams.page import app as app_module
from streams.page import events as events_module
from streams.page import letters as letters_module
from streams.page.app import MOST_BODY_BYTES, create_page
from streams.page.threads import Threads
from streams.page.watch import ALONE_SECONDS, WATCHED_SECONDS, Watch
from streams.settings import load
from tests.asking import NOBODY, ask

FILES = Path(app_module.__file__).parents[2] / "monitoring" / "page"


def page(tmp_path: Path, **settings: object) -> FastAPI:
    s = load(bootstrap_servers=NOBODY, data_dir=tmp_path, server_url=f"http://{NOBODY}", **settings)
    return create_page(s, CollectorRegistry())


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return page(tmp_path)


# Who may ask


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/api/state", "/api/nothing", "/healthz", "/metrics"])
def test_every_answer_has_the_headers(app: FastAPI, path: str) -> None:
    given = ask(app, "GET", path).headers
    assert given["content-security-policy"].startswith("default-src 'self'; ")
    assert "frame-ancestors 'none'" in given["content-security-policy"]
    assert given["x-content-type-options"] == "nosniff"
    assert not [name for name in given if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8090", "10.1.2.3:80", "[::1]:8090", "localhost", "LOCALHOST:8090", "box.internal:8090"]
)
def test_names_that_are_ours(tmp_path: Path, host: str) -> None:
    assert ask(page(tmp_path, http_host="box.internal"), "GET", "/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", "", "box", "user@evil.example:80"]
)
def test_a_name_that_another_site_may_hold_is_refused(app: FastAPI, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/state"), ("POST", "/api/events")):
        answer = ask(
            app, method, path, headers={"host": host, "content-type": "application/json"}, content=b"{}" if method == "POST" else None
        )
        assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
        assert "http_host" in answer.json()["detail"]
    assert ask(app, "GET", "/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8091", "http://127.0.0.1:8090.evil.example"])
def test_another_sites_request_is_refused(app: FastAPI, origin: str) -> None:
    answer = ask(app, "POST", "/api/dead-letters/replay", json={"topic": "events", "reason": "malformed_json"}, headers={"origin": origin})
    assert answer.status_code == 403
    assert origin in answer.json()["detail"]


def test_its_own_origin_is_welcome(app: FastAPI) -> None:
    assert ask(app, "GET", "/api/state", headers={"origin": "http://127.0.0.1:8090"}).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_taken_which_no_form_of_another_site_can_send(app: FastAPI, content_type: str) -> None:
    answer = ask(app, "POST", "/api/events", content=b'{"value": "x"}', headers={"content-type": content_type})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "truncated"),
        (b'{"value": 3}', 400, "Expected `str`"),
        (b'{"key": "u"}', 400, "value"),
        (b'{"value": "", "more": 1}', 400, "more"),
        (b'{"value": "' + b"x" * MOST_BODY_BYTES + b'"}', 413, str(MOST_BODY_BYTES)),
    ],
)
def test_bodies_that_are_not_taken(app: FastAPI, body: bytes, status: int, told: str) -> None:
    answer = ask(app, "POST", "/api/events", content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert told in answer.json()["detail"]


# Files


def test_the_files_are_small_and_ask_nobody_else(app: FastAPI) -> None:
    assert sum(path.stat().st_size for path in FILES.iterdir()) < 41_000
    for path in FILES.iterdir():
        answer = ask(app, "GET", "/" if path.name == "index.html" else f"/{path.name}")
        assert (answer.status_code, answer.content) == (200, path.read_bytes())
        addresses = set(re.findall(r"https?://[^\s\"'`]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_markup_is_never_made_of_text() -> None:
    """Ids and values come from strangers; the page writes them as text."""
    for path in FILES.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", path.read_text()), path.name
    assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|\sstyle=", (FILES / "index.html").read_text())


def test_the_script_asks_for_what_there_is(app: FastAPI) -> None:
    text = (FILES / "index.html").read_text()
    ids = set(re.findall(r'id="([\w-]+)"', text))
    wanted = {name for path in FILES.glob("*.js") for name in re.findall(r'(?:\$|submitted|tile)\("([\w-]+)"', path.read_text())}
    assert {name for name in wanted if name not in ids and f"tile-{name}" not in ids} == set()


@pytest.mark.parametrize("slug", ["..%2F..%2Fmetrics", "%2e%2e%2fmetrics", "nothing-of-that-name", "a.md", "x" * 200, "%00"])
def test_no_way_out_of_the_runbooks(app: FastAPI, slug: str) -> None:
    assert ask(app, "GET", f"/runbooks/{slug}").status_code == 404


def test_a_runbook_is_plain_text(app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "lag-grows.md").write_text("# Lag — grows <b>\n")
    monkeypatch.setattr(app_module, "files", lambda package: tmp_path)
    answer = ask(app, "GET", "/runbooks/lag-grows")
    assert (answer.text, answer.headers["content-type"]) == ("# Lag — grows <b>\n", "text/plain; charset=utf-8")


def test_it_has_metrics_of_its_own(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Metrics(registry).restarted("learner")
    app = create_page(load(bootstrap_servers=NOBODY, data_dir=tmp_path), registry)
    assert 'freshet_restarts_total{child="learner"} 1.0' in ask(app, "GET", "/metrics").text
    assert ask(app, "GET", "/healthz").json() == {"status": "ok"}


# The processes


def watching(answers: dict[str, Reading | Exception]) -> Watch:
    def read(url: str) -> Reading:
        found = answers[url]
        if isinstance(found, Exception):
            raise found
        return found

    return Watch({name: name for name in answers}, read)


def test_a_process_is_unknown_then_up_then_down() -> None:
    answers: dict[str, Reading | Exception] = {"learner": Reading({}, {"started": 5.0, "loss/supa": 1.23456})}
    watch = watching(answers)

    def process() -> dict[str, Any]:
        [found] = watch.state(0)["processes"]  # type: ignore[misc]  # JSON
        return dict(found)

    assert process()["up"] is None
    asyncio.run(watch.sample(1.0))
    assert process() == {"name": "learner", "up": True, "error": None, "started": 5.0, "restarts": None}
    answers["learner"] = ScrapeError("refused")
    asyncio.run(watch.sample(2.0))
    assert process() == {"name": "learner", "up": False, "error": "learner does not answer: refused", "started": None, "restarts": None}
    assert watch.state(0)["columns"] == {"t": [1.0, 2.0], "loss/supa": [1.235, None]}
    assert watch.state(1.0)["columns"] == {"t": [2.0]}


def test_restarts_are_the_supervisors() -> None:
    watch = watching({"learner": Reading({}, {}), "up": Reading({}, {"restarts/learner": 2.0}), "server": Reading({}, {})})
    asyncio.run(watch.sample(1.0))
    told = {process["name"]: process["restarts"] for process in watch.state(0)["processes"]}  # type: ignore[attr-defined]  # JSON
    assert told == {"learner": 2.0, "up": 0.0, "server": 0.0}


def test_it_looks_often_only_while_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watching({})
    assert watch._interval() == ALONE_SECONDS
    watch.state(0)
    assert watch._interval() == WATCHED_SECONDS
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert watch._interval() == ALONE_SECONDS


def test_a_look_ends_a_long_pause() -> None:
    async def run() -> float:
        watch = watching({})
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        watch._sampled_at -= WATCHED_SECONDS
        began = time.monotonic()
        watch.state(0)
        async with asyncio.timeout(5):
            while len(watch.history.since(0)) < 2:  # noqa: ASYNC110  # nobody is told of a sample
                await asyncio.sleep(0.01)
        task.cancel()
        return time.monotonic() - began

    assert asyncio.run(run()) < 1


def test_the_state_says_what_the_forms_need(tmp_path: Path) -> None:
    state = ask(page(tmp_path, event_types=("click", "view")), "GET", "/api/state").json()
    assert (state["event_types"], state["bootstrap_servers"], state["processes"]) == (["click", "view"], NOBODY, [])
    assert state["now"] == pytest.approx(time.time(), abs=5)
    assert ask(page(tmp_path), "GET", "/api/state?since=soon").status_code == 400


def test_hung_work_holds_nobody_for_long() -> None:
    release = threading.Event()

    async def run() -> None:
        threads = Threads("test", 1)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await threads.run(release.wait, 0.02)
        threads.close()
        release.set()

    asyncio.run(run())


# Lists


@pytest.fixture
def server() -> Iterator[str]:
    """Stands for the server: tells what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            missing = "missing" in self.path
            body = json.dumps({"asked": unquote(self.path)}).encode()
            self.send_response(404 if missing else 200)
            self.send_header("content-type", "application/problem+json" if missing else "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not wanted."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}"
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.mark.parametrize("user", ["u1", "a%2Fb", "%C3%BC%20x", "q%3Fx%3D1"])
def test_a_list_is_the_servers(tmp_path: Path, server: str, user: str) -> None:
    app = create_page(load(bootstrap_servers=NOBODY, data_dir=tmp_path, server_url=f"{server}/"), CollectorRegistry())
    answer = ask(app, "GET", f"/api/recommend/{user}")
    assert (answer.status_code, answer.json()) == (200, {"asked": f"/v1/recommend/{unquote(user)}?k=10"})
    refused = ask(app, "GET", "/api/recommend/missing")
    assert (refused.status_code, refused.headers["content-type"]) == (404, "application/problem+json")


def test_a_server_that_is_away_is_named(app: FastAPI) -> None:
    answer = ask(app, "GET", "/api/recommend/u1")
    assert answer.status_code == 503
    assert answer.json()["detail"] == f"the server at http://{NOBODY} does not answer: Connection refused"


def test_a_server_that_hangs_costs_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "SERVER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        app = create_page(load(bootstrap_servers=NOBODY, data_dir=tmp_path, server_url=url), CollectorRegistry())
        assert "timed out" in ask(app, "GET", "/api/recommend/u1").json()["detail"]


# Events


class FakeProducer:
    """Remembers what is sent; hangs or fails where it is told to."""

    def __init__(self, failure: Exception | None = None, hangs: bool = False) -> None:
        self.failure, self.hangs = failure, hangs
        self.sent: list[tuple[str, bytes | None, bytes | None]] = []
        self.stopped = False

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        self.stopped = True

    async def send(self, topic: str, value: bytes | None, key: bytes | None, *_: object) -> "asyncio.Future[Any]":
        self.sent.append((topic, value, key))
        future = asyncio.get_running_loop().create_future()
        if self.failure:
            raise self.failure
        if not self.hangs:
            future.set_result(SimpleNamespace(topic=topic, partition=1, offset=7))
        return future


def test_an_event_goes_out_as_it_is(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeProducer()
    monkeypatch.setattr(events_module, "producer", lambda s: client)
    for value, key in (('{"ü": ', "u1"), ("", None), ("x", "")):
        answer = ask(app, "POST", "/api/events", json={"value": value, "key": key})
        assert answer.json() == {"topic": "events", "partition": 1, "offset": 7}
    assert client.sent == [("events", '{"ü": '.encode(), b"u1"), ("events", b"", None), ("events", b"x", None)]


@pytest.mark.parametrize(("client", "told"), [(FakeProducer(OSError("gone")), "gone"), (FakeProducer(hangs=True), "did not acknowledge")])
def test_a_send_that_fails_is_told_and_the_next_has_a_client_of_its_own(
    app: FastAPI, client: FakeProducer, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "SEND_SECONDS", 0.05)
    clients = [client, FakeProducer()]
    monkeypatch.setattr(events_module, "producer", lambda s: clients.pop(0))
    answer = ask(app, "POST", "/api/events", json={"value": "x"})
    assert (answer.status_code, client.stopped) == (503, True)
    assert told in answer.json()["detail"]
    assert ask(app, "POST", "/api/events", json={"value": "x"}).status_code == 200


def test_without_kafka_each_box_says_so(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_module, "KAFKA_SECONDS", 1.0)
    sent = ask(app, "POST", "/api/events", json={"value": "x"})
    letters = ask(app, "GET", "/api/dead-letters")
    assert (sent.status_code, letters.status_code) == (503, 503)
    assert NOBODY in sent.json()["detail"]
    assert NOBODY in letters.json()["detail"]
    assert ask(app, "GET", "/api/state").status_code == 200
