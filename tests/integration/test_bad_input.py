"""What producers send wrong, through the running processes: refused ones are kept whole with the reason, the rest goes on."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from core.schemas import EVENT, ITEM
from streams import dead_letters
from streams.broker import EmbeddedBroker
from streams.processes import free_port
from streams.settings import Settings
from streams.supervisor import Child
from tests import live, streams_support
from tests.streams_support import Sent

pytestmark = pytest.mark.kafka
NOW_MS = int(time.time() * 1000) - 60_000
HEADERS: list[tuple[str, bytes | None]] = [("trace", b"\x00\xff"), ("trace", b""), ("traceparent", b"00-1")]


def _event(**changes: Any) -> bytes:
    body = {"type": "click", "user_id": "u", "item_id": "bad", "ts": NOW_MS} | changes
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


BAD_EVENTS: dict[str, tuple[bytes | None, str]] = {
    "cut off": (b'{"type": "click", "user_id": "u', "malformed_json"),
    "no bytes": (b"", "malformed_json"),
    "not UTF-8": (_event().replace(b"bad", b"\xff\xfe"), "malformed_json"),
    "NaN": (_event(value=float("nan")), "malformed_json"),
    "nested": (b"[" * 100_000, "malformed_json"),
    "user_id is a number": (_event(user_id=7), "wrong_type"),
    "value is a string": (_event(value="7"), "wrong_type"),
    "context is an array": (_event(context=[]), "wrong_type"),
    "an array": (b"[1, 2]", "wrong_type"),
    "no user_id": (_event(user_id=...), "missing_field"),
    "no ts": (_event(ts=...), "missing_field"),
    "2 MB": (_event(context={"padding": "x" * (2 << 20)}), "too_large"),
    "Confluent": (b"\x00\x00\x00\x00\x07" + _event(), "confluent_framing"),
    "tombstone": (None, "tombstone"),
    "1970": (_event(ts=1), "bad_timestamp"),
    "2200": (_event(ts="2200-01-01T00:00:00Z"), "bad_timestamp"),
    "ahead of Kafka": (_event(ts=NOW_MS + 3_600_000), "bad_timestamp"),
    "no zone": (_event(ts="2024-05-01T12:00:00"), "bad_timestamp"),
    "infinite": (_event().replace(b'"ts"', b'"value": 1e999, "ts"'), "bad_value"),
    "empty user_id": (_event(user_id=""), "bad_value"),
    "unknown type": (_event(type="clack"), "unknown_type"),
}
BAD_ITEMS: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "cut off": (b"i1", b'{"item_id": ', "malformed_json"),
    "tags is a string": (b"i2", b'{"item_id": "i2", "tags": "a"}', "wrong_type"),
    "2 MB": (b"i3", json.dumps({"item_id": "i3", "text": "x" * (2 << 20)}).encode(), "too_large"),
}


def _alternating() -> list[Sent]:
    """Each bad event, then a good one; then the odd ones that are accepted, and one event twice."""
    sent: list[Sent] = []
    for index, (value, _) in enumerate(BAD_EVENTS.values()):
        sent.append((b"key", value, HEADERS, NOW_MS + len(sent)))
        sent.append((b"u", _event(item_id=f"after-{index}"), [], NOW_MS + len(sent)))
    sent.append((None, _event(item_id="no-key"), [], NOW_MS + len(sent)))
    sent.append((b"\xffother", _event(item_id="foreign-key"), [], NOW_MS + len(sent)))
    sent += [(b"u", _event(item_id=f"twice-{n}", event_id="once"), [], NOW_MS + len(sent) + n) for n in range(2)]
    return sent


def _accepted() -> list[str]:
    return [*(f"after-{index}" for index in range(len(BAD_EVENTS))), "no-key", "foreign-key", "twice-0"]


def test_bad_input(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    s = live.settings(broker.bootstrap_servers, namespace, tmp_path, events_partitions=1, batches_partitions=2)
    items: list[Sent] = [(key, value, HEADERS, NOW_MS + n) for n, (key, value, _) in enumerate(BAD_ITEMS.values())]
    ports = {"ingest": free_port(), "features": free_port()}
    with live.Processes(s, ()) as processes:
        processes.children = {name: Child(name, s, tmp_path / "logs", port) for name, port in ports.items()}
        for child in processes.children.values():
            child.start()
        streams_support.send(s, s.items_topic, [*items, (b"other", b'{"item_id": "good"}', [], NOW_MS)])
        events = _alternating()
        streams_support.send(s, s.events_topic, events)
        live.wait(lambda: live.ingested(s), "ingest", check=processes.check)
        live.wait(lambda: len(_examples(s, EVENT)) >= len(_accepted()), "every good event in examples", check=processes.check)
        live.wait(lambda: _judged(ports["features"]) >= len(_accepted()) + 1, "the last duplicate", check=processes.check)
        _check_counts(s, ports)
    assert _examples(s, EVENT) == _accepted()
    assert _examples(s, ITEM) == ["good"]
    _check_letters(s, s.events_topic, events[: 2 * len(BAD_EVENTS) : 2], [category for _, category in BAD_EVENTS.values()], stride=2)
    _check_letters(s, s.items_topic, items, [category for _, _, category in BAD_ITEMS.values()], stride=1)


def _examples(s: Settings, kind: int) -> list[str]:
    """Items of the rows of this kind in `examples`, in order."""
    [upstream] = live.upstreams(s, s.examples_topic)
    taken = live.once(live.retained(s, upstream), upstream)
    return [item for _, rows in taken for item in rows.filter(pl.col("kind") == kind)["item_id"]]


def _check_letters(s: Settings, topic: str, sent: list[Sent], categories: list[str], stride: int) -> None:
    """Bytes, headers and time as they were sent; the block behind them says where the letter was and what is wrong."""
    found = streams_support.letters(s, dead_letters.topic_of(topic))
    assert [(r.key, r.value, dead_letters.original_headers(r.headers), r.timestamp) for r in found] == sent
    contexts = [dead_letters.read(r.headers) for r in found]
    assert [c.category for c in contexts if c] == categories
    assert [(c.topic, c.partition, c.offset) for c in contexts if c] == [(topic, 0, stride * n) for n in range(len(sent))]
    assert all(c is not None and c.stage == "ingest" and c.class_name == "freshet.ingest" and c.reason for c in contexts)


def _check_counts(s: Settings, ports: dict[str, int]) -> None:
    ingest, features = _samples(ports["ingest"]), _samples(ports["features"])
    topic = s.events_topic
    assert ingest[f'freshet_missing_keys_total{{topic="{topic}"}}'] == 1
    assert ingest[f'freshet_foreign_keys_total{{topic="{topic}"}}'] == 1
    assert ingest[f'freshet_messages_total{{outcome="dead_letter",topic="{topic}"}}'] == len(BAD_EVENTS)
    assert ingest[f'freshet_dead_letters_total{{category="bad_timestamp",topic="{topic}"}}'] == 4
    outcomes = {name: features[f'freshet_events_total{{outcome="{name}"}}'] for name in ("accepted", "duplicate", "late", "future")}
    assert outcomes == {"accepted": len(_accepted()), "duplicate": 1, "late": 0, "future": 0}


def _judged(port: int) -> float:
    return sum(value for name, value in _samples(port).items() if name.startswith("freshet_events_total"))


def _samples(port: int) -> dict[str, float]:
    """The process's own metrics: sample -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}
