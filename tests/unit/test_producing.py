"""What `produce` reads from files, and that a message that did not arrive is told."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from core.errors import SendError, SettingsError
from streams import producing
from streams.producing import Message, Sender, read_log, send_all
from streams.settings import load


def test_lines_go_out_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    path.write_bytes(b'{"user_id":  "u1", "x": 1}\r\n\n{"user_id": 7}\n{broken\n[1]\n{"user_id": "\\u00e9"}')
    assert list(read_log(path)) == [
        (b"u1", b'{"user_id":  "u1", "x": 1}'),
        (None, b'{"user_id": 7}'),
        (None, b"{broken"),
        (None, b"[1]"),
        ("é".encode(), b'{"user_id": "\\u00e9"}'),
    ]


def test_rows_become_events(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    rows = {
        "type": ["click", "view"],
        "user_id": ["u1", "u2"],
        "item_id": ["i", "i"],
        "ts_ms": [5, 6],
        "value": [None, 1.5],
        "other": [1, 2],
    }
    pl.DataFrame(rows).write_parquet(path)
    found = [(key, json.loads(value or b"")) for key, value in read_log(path)]
    assert found == [
        (b"u1", {"type": "click", "user_id": "u1", "item_id": "i", "ts": 5}),
        (b"u2", {"type": "view", "user_id": "u2", "item_id": "i", "ts": 6, "value": 1.5}),
    ]


@pytest.mark.parametrize("name", ["missing.ndjson", "log.csv"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b")
    with pytest.raises(SettingsError, match=name):
        read_log(tmp_path / name)


class Future:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def add_callback(self, told: Any) -> "Future":
        if self.error is None:
            told(None)
        return self

    def add_errback(self, told: Any) -> "Future":
        if self.error is not None:
            told(self.error)
        return self


class Client:
    """Stands for KafkaProducer: the n-th message fails, through its future or at once."""

    def __init__(self, failing: int = 0, raised: bool = False) -> None:
        self.failing, self.raised = failing, raised
        self.sent: list[tuple[str, bytes | None, bytes | None]] = []
        self.flushed = 0

    def send(self, topic: str, value: bytes | None, key: bytes | None) -> Future:
        self.sent.append((topic, value, key))
        failed = len(self.sent) == self.failing
        if failed and self.raised:
            raise MessageSizeTooLargeError("too large")
        return Future(KafkaTimeoutError("timed out") if failed else None)

    def flush(self, timeout: float) -> None:
        self.flushed += 1

    def close(self, timeout: float) -> None:
        pass


def sender(client: Client, monkeypatch: pytest.MonkeyPatch) -> Sender:
    monkeypatch.setattr(producing, "KafkaProducer", lambda **_: client)
    return Sender(load(bootstrap_servers="unused:1"))


MESSAGES: list[Message] = [(f"k{n}".encode(), f"v{n}".encode()) for n in range(250)]


def test_all_are_sent_in_order_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    client, told = Client(), list[int]()
    assert send_all(sender(client, monkeypatch), "events", MESSAGES, sent=told.append) == 250
    assert client.sent == [("events", value, key) for key, value in MESSAGES]
    assert client.flushed == 1
    assert sum(told) == 250


@pytest.mark.parametrize("raised", [True, False])
@pytest.mark.parametrize("failing", [1, 100, 250])
def test_one_that_did_not_arrive_is_told(failing: int, raised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(failing, raised)
    with pytest.raises(SendError, match="too large" if raised else "timed out"):
        send_all(sender(client, monkeypatch), "events", MESSAGES)
    assert len(client.sent) == failing


class Slow(Client):
    """Acknowledges a message at each flush that times out, as long as there are some; then it is done, or silent."""

    def __init__(self, queued: int, silent: bool) -> None:
        super().__init__()
        self.queued, self.silent, self.told = queued, silent, list[Any]()

    def send(self, topic: str, value: bytes | None, key: bytes | None) -> Any:
        class Waiting(Future):
            def add_callback(own, told: Any) -> "Future":
                self.told.append(told)
                return own

        return Waiting(None)

    def flush(self, timeout: float) -> None:
        super().flush(timeout)
        if self.queued:
            self.queued -= 1
            self.told.pop()(None)
            raise KafkaTimeoutError("timed out")
        if self.silent:
            raise KafkaTimeoutError("timed out")


@pytest.mark.parametrize("silent", [True, False])
def test_a_long_queue_is_waited_for_and_a_broker_that_is_gone_is_not(silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Slow(3, silent)
    with pytest.raises(SendError, match="acknowledged nothing for") if silent else nullcontext():
        send_all(sender(client, monkeypatch), "events", MESSAGES[:4])
    assert client.flushed == 4


def test_a_close_without_acknowledgements_tells_and_does_not_hide_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def close(self: Client, timeout: float) -> None:
        raise KafkaTimeoutError("timed out")

    monkeypatch.setattr(Client, "close", close)
    sender(Client(), monkeypatch).close()
    assert "did not acknowledge the last messages" in caplog.text


def test_a_rate_spreads_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("streams.producing.time.monotonic", lambda: 1_000.0)  # a clock that stands still: all of the wait is asked for
    monkeypatch.setattr("streams.producing.time.sleep", slept.append)
    send_all(sender(Client(), monkeypatch), "events", MESSAGES[:4], rate=10.0)
    assert slept == pytest.approx([0.1, 0.2, 0.3, 0.4])
