"""What the decoders accept, what they refuse and why, message by message."""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from core.errors import SettingsError
from core.schemas import BATCHES, EVENT, ITEM, decode, encode
from streams.contract import MAX_DEPTH, REASON_CHARS, Limits
from streams.decode import Decoded, EventDecoder, ItemDecoder, RawMessage

TS = 1_714_564_800_123  # 2024-05-01T12:00:00.123Z
EVENT_BODY = {"type": "click", "user_id": "u1", "item_id": "i1", "ts": TS}
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
ENVELOPE = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "com.shop.click", "time": "2024-05-01T12:00:00.123Z"}
BINARY = [(f"ce_{name}", text.encode()) for name, text in ENVELOPE.items()]
DATA = {"user_id": "u1", "item_id": "i1"}

Headers = Sequence[tuple[str, bytes | None]]


def message(value: object, key: bytes | None = b"u1", headers: Headers = (), timestamp_ms: int = TS, offset: int = 5) -> RawMessage:
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return RawMessage(key, raw, headers, timestamp_ms, offset)


def event(value: object, headers: Headers = (), limits: Limits | None = None, key: bytes = b"u1", timestamp_ms: int = TS) -> Decoded:
    return EventDecoder(limits or Limits()).decode([message(value, key, headers, timestamp_ms)])


def item(value: object, key: bytes | None = b"i1", headers: Headers = ()) -> Decoded:
    return ItemDecoder(Limits()).decode([message(value, key, headers)])


def row(decoded: Decoded) -> dict[str, object]:
    assert decoded.dead == []
    return decoded.rows.row(0, named=True)


def refused(decoded: Decoded) -> tuple[str, str]:
    assert decoded.rows.is_empty()
    assert decoded.rows.schema == ROWS
    [letter] = decoded.dead
    assert len(letter.reason) <= REASON_CHARS
    assert letter.reason.isprintable()
    return letter.category, letter.reason


ROWS = pl.Schema({name: dtype for name, dtype in BATCHES.items() if name != "source"})


def test_a_full_event_becomes_a_row() -> None:
    body = {"type": "view", "user_id": "u1", "item_id": "i1", "ts": TS, "event_id": "e", "value": 3, "request_id": "r"}
    sent = json.dumps(body).encode()[:-1] + b', "context":  { "a" : [1, "\\u00e9"] } }'
    assert row(event(sent, timestamp_ms=TS + 9)) == {
        "kind": EVENT, "offset": 5, "sent_ms": TS + 9, "ts_ms": TS, "event_id": "e", "type": "view", "user_id": "u1", "item_id": "i1",
        "value": 3.0, "request_id": "r", "context": '{ "a" : [1, "\\u00e9"] }', "item": None,
    }  # fmt: skip


def test_optional_fields_may_be_absent_null_or_an_empty_id() -> None:
    optional = ("event_id", "value", "request_id", "context")
    bare = row(event(EVENT_BODY))
    assert [bare[name] for name in optional] == [None] * 4
    assert row(event(EVENT_BODY | dict.fromkeys(optional))) == bare
    assert row(event(EVENT_BODY | {"event_id": "", "request_id": ""})) == bare
    assert row(event(EVENT_BODY | {"colour": {"deep": [1]}})) == bare


def test_rows_and_letters_keep_the_order_of_the_log() -> None:
    messages = [message(b"{" if n % 3 == 0 else EVENT_BODY | {"user_id": f"u{n}"}, offset=n) for n in range(10)]
    decoded = EventDecoder(Limits()).decode(messages)
    assert decoded.rows["offset"].to_list() == [1, 2, 4, 5, 7, 8]
    assert decoded.rows["user_id"].to_list() == [f"u{n}" for n in (1, 2, 4, 5, 7, 8)]
    assert [letter.message for letter in decoded.dead] == messages[::3]
    assert decoded.rows.schema == ROWS


def test_no_messages_give_no_rows() -> None:
    for decoder in (EventDecoder(Limits()), ItemDecoder(Limits())):
        decoded = decoder.decode([])
        assert (decoded.rows.schema, decoded.rows.height, decoded.dead) == (ROWS, 0, [])


def test_foreign_and_missing_keys_are_counted_on_accepted_rows_only() -> None:
    keys = [b"u1", None, b"other", b"\xff", b"", None]
    values = [EVENT_BODY] * 5 + [b"broken"]
    decoded = EventDecoder(Limits()).decode([message(v, k) for v, k in zip(values, keys, strict=True)])
    assert (decoded.rows.height, decoded.foreign_keys, decoded.missing_keys) == (5, 3, 1)


TIMES = {
    "2024-05-01T12:00:00.123Z": TS,
    "2024-05-01t12:00:00.123z": TS,
    "2024-05-01 12:00:00.123Z": TS,
    "2024-05-01T14:30:00.123+02:30": TS,
    "2024-05-01T14:30:00.123+0230": TS,
    "2024-05-01T07:00:00.123-05:00": TS,
    "2024-05-01T12:00:00.123-00:00": TS,
    "2024-05-01T12:00:00.123999Z": TS,
    "2024-05-01T12:00:00.1Z": TS - 23,
    "2024-05-01T12:00:00Z": TS - 123,
    "2024-02-29T00:00:00Z": 1_709_164_800_000,
    "1999-12-31T23:00:00-01:00": 946_684_800_000,
}


@pytest.mark.parametrize("text", TIMES)
def test_rfc_3339_times(text: str) -> None:
    assert row(event(EVENT_BODY | {"ts": text}))["ts_ms"] == TIMES[text]


def test_a_float_without_a_fraction_is_a_time() -> None:
    assert row(event(b'{"type":"click","user_id":"u1","item_id":"i1","ts":1.714564800123E12}'))["ts_ms"] == TS


BAD_TIMES = [
    "2024-05-01T12:00:00", "2024-05-01", "2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z", "2024-05-01T24:00:00Z", "2016-12-31T23:59:60Z",
    "2024-05-01T12:00:00,5Z", "2024-05-01T12:00:00.Z", "2024-05-01T12:00:00+24:00", " 2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z\n",
    str(TS), "", "now", "1999-12-31T23:59:59.999Z", "0000-01-01T00:00:00Z", TS + 0.5, 0, -1, TS // 1000, 946_684_799_999, 4_102_444_800_001,
    10**30, 10**400, 1e300, -1e300, TS + 300_001,
]  # fmt: skip


@pytest.mark.parametrize("ts", BAD_TIMES, ids=lambda ts: str(ts)[:40])
def test_bad_times(ts: object) -> None:
    category, reason = refused(event(EVENT_BODY | {"ts": ts}))
    assert category == "bad_timestamp"
    assert "ts" in reason


def test_the_bounds_of_time_are_inclusive() -> None:
    for ts in (946_684_800_000, 4_102_444_800_000, "2100-01-01T00:00:00Z"):
        assert len(event(EVENT_BODY | {"ts": ts}, timestamp_ms=4_102_444_800_000).dead) == 0
    assert len(event(EVENT_BODY | {"ts": TS + 300_000}).dead) == 0
    assert refused(event(EVENT_BODY, limits=Limits(max_future_seconds=0), timestamp_ms=TS - 1))[1].startswith("ts is 0.001 s after")


def nested(depth: int) -> bytes:
    """An event whose value nests `depth` deep, the event itself counted."""
    return b'{"type":"click","user_id":"u1","item_id":"i1","ts":%d,"x":%s1%s}' % (TS, b"[" * (depth - 1), b"]" * (depth - 1))


BODY = json.dumps(EVENT_BODY).encode()[:-1]
REFUSED = [
    ("malformed_json", "empty", b""),
    ("malformed_json", "not JSON", b"{"),
    ("malformed_json", "not JSON", BODY),
    ("malformed_json", "not JSON", BODY + b"} x"),
    ("malformed_json", "not JSON", b"\xef\xbb\xbf" + BODY + b"}"),
    ("malformed_json", "not JSON", BODY + b',"value":NaN}'),
    ("malformed_json", "not JSON", BODY + b',"context":{"a":Infinity}}'),
    ("malformed_json", "not JSON", BODY + b',"value":01}'),
    ("malformed_json", "not JSON", BODY + b',"x":"a\x00b"}'),
    ("malformed_json", "not JSON", BODY + b',"x":"\\ud800"}'),
    ("malformed_json", "not JSON", BODY + b',"context":{"\\udc00":1}}'),
    ("malformed_json", "not JSON", BODY.replace(b'"u1"', b'"\\ud83d"') + b"}"),
    ("malformed_json", "UTF-8", BODY.replace(b'"u1"', b'"\xff"') + b"}"),
    ("malformed_json", "UTF-8", BODY + b',"x":"\xed\xa0\x80"}'),
    ("malformed_json", "UTF-8", BODY + b',"\xff":1}'),
    ("malformed_json", "nested deeper", nested(MAX_DEPTH + 1)),
    ("malformed_json", "nested deeper", nested(300_000)),
    ("malformed_json", "nested deeper", b"[" * 1_000_000),
    ("malformed_json", "nested deeper", b'{"context":' * 90_000),
    ("malformed_json", "twice", BODY.replace(b'"u1"', b'1,"user_id":"u1"') + b"}"),
    ("malformed_json", "not JSON", BODY.replace(b'"u1"', b"1")),
    ("confluent_framing", "Confluent-framed", b"\0\0\0\0\7" + BODY + b"}"),
    ("confluent_framing", "Confluent-framed", b"\0\0\0\0\7\xfe\xff"),
    ("wrong_type", "the value is a JSON array", b"[]"),
    ("wrong_type", "the value is a JSON null", b" null "),
    ("wrong_type", "the value is a JSON number", b"12"),
    ("wrong_type", "the value is a JSON string", b'"text"'),
    ("wrong_type", "user_id is a JSON number", EVENT_BODY | {"user_id": 5}),
    ("wrong_type", "user_id is a JSON null", EVENT_BODY | {"user_id": None}),
    ("wrong_type", "item_id is a JSON array", EVENT_BODY | {"item_id": []}),
    ("wrong_type", "type is a JSON boolean", EVENT_BODY | {"type": True}),
    ("wrong_type", "ts is a JSON boolean", EVENT_BODY | {"ts": True}),
    ("wrong_type", "ts is a JSON null", EVENT_BODY | {"ts": None}),
    ("wrong_type", "value is a JSON string", EVENT_BODY | {"value": "1"}),
    ("wrong_type", "value is a JSON boolean", EVENT_BODY | {"value": False}),
    ("wrong_type", "event_id is a JSON number", EVENT_BODY | {"event_id": 1}),
    ("wrong_type", "request_id is a JSON object", EVENT_BODY | {"request_id": {}}),
    ("wrong_type", "context is a JSON string", EVENT_BODY | {"context": "{}"}),
    ("wrong_type", "context is a JSON array", EVENT_BODY | {"context": []}),
    ("missing_field", "type is missing", {k: v for k, v in EVENT_BODY.items() if k != "type"}),
    ("missing_field", "ts is missing", {k: v for k, v in EVENT_BODY.items() if k != "ts"}),
    ("missing_field", "type is missing", {}),
    ("bad_value", "value", BODY + b',"value":1e999}'),
    ("bad_value", "value", BODY + b',"value":1' + b"0" * 400 + b"}"),
    ("bad_value", "user_id has 0 bytes", EVENT_BODY | {"user_id": ""}),
    ("bad_value", "item_id has 0 bytes", EVENT_BODY | {"item_id": ""}),
    ("bad_value", "user_id has 257 bytes", EVENT_BODY | {"user_id": "x" * 257}),
    ("bad_value", "item_id has 258 bytes", EVENT_BODY | {"item_id": "é" * 129}),
    ("bad_value", "NUL", EVENT_BODY | {"user_id": "a\0b"}),
    ("unknown_type", "'clack'", EVENT_BODY | {"type": "clack"}),
    ("unknown_type", "...", EVENT_BODY | {"type": "\n\x1b" + "é" * 10_000}),
    ("too_large", "1048577 bytes", b"\0" * ((1 << 20) + 1)),
    ("tombstone", "no value", None),
]  # fmt: skip


@pytest.mark.parametrize(("category", "says", "value"), REFUSED, ids=[f"{n}-{c}" for n, (c, _, _) in enumerate(REFUSED)])
def test_refused_events(category: str, says: str, value: object) -> None:
    found, reason = refused(event(value))
    assert (found, says in reason) == (category, True), reason


def test_a_reason_never_echoes_much_data() -> None:
    secret = "S" * 5_000
    for value in ({"type": secret}, {"user_id": secret}, {"ts": secret}, {"value": secret}, {secret: 1, "ts": secret}):
        assert refused(event(EVENT_BODY | value))[1].count("S") <= 100


def test_brackets_in_strings_are_not_depth() -> None:
    brackets = "[{" * 1_000 + '\\"' * 7
    assert row(event(EVENT_BODY | {"context": {"a": brackets, "b": [[]] * 500}}))["context"] == json.dumps({"a": brackets, "b": [[]] * 500})
    assert len(event(nested(MAX_DEPTH)).dead) == 0


def test_quotes_and_backslashes_without_end_take_linear_time() -> None:
    for unit in (b'\\"', b'"', b"\\", b'"[', b'[\\"'):
        assert refused(event(b"[" * 65 + unit * (1_000_000 // len(unit))))[0] == "malformed_json"
        assert refused(event(b"{}" * 65 + unit * (1_000_000 // len(unit))))[0] == "malformed_json"


def test_what_is_accepted_does_not_depend_on_the_callers_stack() -> None:
    def deep(frames: int) -> int:
        return len(event(nested(MAX_DEPTH)).dead) if frames == 0 else deep(frames - 1)

    assert deep(0) == deep(500) == 0


def test_duplicate_keys_take_the_last() -> None:
    assert row(event(BODY + b',"user_id":"u2"}'))["user_id"] == "u2"


@pytest.mark.parametrize("text", ["é", "\U0001f600", "a\u2028b", "\x7f", "'\"\\", "x" * 256, "é" * 128, "\ufeff", "\uffff", "\U0010ffff"])
def test_every_accepted_string_round_trips_through_arrow(text: str) -> None:
    body = EVENT_BODY | {"user_id": text, "item_id": text, "event_id": text + "\0", "request_id": text, "context": {text: "\0"}}
    copy = decode(encode(event(body, key=text.encode()).rows))
    found = copy.row(0, named=True)
    assert (found["user_id"], found["item_id"], found["event_id"], found["request_id"]) == (text, text, text + "\0", text)
    assert json.loads(found["context"]) == {text: "\0"}


def test_structured_cloud_event() -> None:
    sent = ENVELOPE | {"data": DATA | {"value": 2, "event_id": "ignored", "context": {"a": 1}}, "extension": "x"}
    for headers in (STRUCTURED, [("Content-Type", b"Application/CloudEvents+JSON")], [("content-type", b"application/cloudevents")]):
        found = row(event(sent, headers))
        assert (found["event_id"], found["type"], found["ts_ms"], found["value"]) == ("/shop#7", "click", TS, 2.0)
        assert (found["user_id"], found["context"]) == ("u1", '{"a": 1}')


def test_binary_cloud_event_equals_the_structured_one() -> None:
    structured = row(event(ENVELOPE | {"data": DATA}, STRUCTURED))
    assert row(event(DATA, [*BINARY, ("content-type", b"application/json"), ("trace", None)])) == structured


def test_the_data_has_the_last_word_on_type_and_time() -> None:
    for data in (DATA | {"type": "like", "ts": TS - 5}, DATA | {"type": "like", "ts": "2024-05-01T12:00:00.118Z"}):
        found = row(event(data, [h for h in BINARY if h[0] != "ce_time"]))
        assert (found["type"], found["ts_ms"]) == ("like", TS - 5)
    assert row(event(DATA | {"type": None, "ts": None}, BINARY))["type"] == "click"
    assert row(event(DATA, [*BINARY, ("ce_type", b"view")]))["type"] == "view"


def without(name: str, headers: Headers = BINARY, *more: tuple[str, bytes | None]) -> Headers:
    return [*(h for h in headers if h[0] != name), *more]


REFUSED_CLOUD = [
    ("cloudevents", "one event per record", [ENVELOPE], [("content-type", b"application/cloudevents-batch+json")]),
    ("cloudevents", "not supported", ENVELOPE, [("content-type", b"application/cloudevents+avro")]),
    ("cloudevents", "data_base64", ENVELOPE | {"data_base64": "e30="}, STRUCTURED),
    ("cloudevents", "no data", ENVELOPE, STRUCTURED),
    ("cloudevents", "specversion is '0.3'", ENVELOPE | {"specversion": "0.3", "data": DATA}, STRUCTURED),
    ("cloudevents", "specversion is missing", {k: v for k, v in ENVELOPE.items() if k != "specversion"}, STRUCTURED),
    ("cloudevents", "id is a JSON number", ENVELOPE | {"id": 7, "data": DATA}, STRUCTURED),
    ("cloudevents", "source is missing or empty", ENVELOPE | {"source": "", "data": DATA}, STRUCTURED),
    ("cloudevents", "the value is a JSON array", b"[]", STRUCTURED),
    ("cloudevents", "specversion is '0.3'", DATA, without("ce_specversion", BINARY, ("ce_specversion", b"0.3"))),
    ("cloudevents", "specversion is ''", DATA, without("ce_specversion", BINARY, ("ce_specversion", None))),
    ("cloudevents", "id is missing", DATA, without("ce_id")),
    ("cloudevents", "source is missing", DATA, without("ce_source")),
    ("cloudevents", "type is missing", DATA, without("ce_type")),
    ("cloudevents", "not UTF-8", DATA, [*BINARY, ("ce_id", b"\xff")]),
    ("missing_field", "neither data.ts nor", DATA, without("ce_time")),
    ("missing_field", "user_id is missing", {"item_id": "i1"}, BINARY),
    ("bad_timestamp", "CloudEvents time", DATA, [*BINARY, ("ce_time", b"yesterday")]),
    ("bad_timestamp", "CloudEvents time", DATA, [*BINARY, ("ce_time", b"1714564800123")]),
    ("unknown_type", "'clack'", DATA, [*BINARY, ("ce_type", b"com.shop.clack")]),
    ("wrong_type", "the value is a JSON array", ENVELOPE | {"data": [1]}, STRUCTURED),
    ("wrong_type", "type is a JSON number", DATA | {"type": 1}, BINARY),
    ("malformed_json", "not JSON", b"{", STRUCTURED),
    ("malformed_json", "not JSON", b"{", BINARY),
    ("confluent_framing", "Confluent", b"\0\0\0\0\1{}", STRUCTURED),
    ("tombstone", "no value", None, BINARY),
]


@pytest.mark.parametrize(
    ("category", "says", "value", "headers"), REFUSED_CLOUD, ids=[f"{n}-{c}" for n, (c, *_) in enumerate(REFUSED_CLOUD)]
)
def test_refused_cloud_events(category: str, says: str, value: object, headers: Headers) -> None:
    found, reason = refused(event(value, headers))
    assert (found, says in reason) == (category, True), reason


FULL_ITEM = {
    "item_id": "i1", "text": "t", "tags": ["b", "a"], "categories": [], "author": "x", "embedding": [1, 0.1], "numbers": {"z": 1, "a": 2.5},
    "start": "2024-05-01T12:00:00.123Z", "end": TS + 1, "unknown": [1],
}  # fmt: skip
FULL_TEXT = (
    '{"author":"x","categories":[],"embedding":[1.0,0.1],"end":1714564800124,"numbers":{"a":2.5,"z":1.0},'
    '"start":1714564800123,"tags":["b","a"],"text":"t"}'
)


def test_an_item_becomes_canonical_json() -> None:
    expected = dict.fromkeys(ROWS) | {"kind": ITEM, "offset": 5, "sent_ms": TS, "ts_ms": 0, "item_id": "i1", "item": FULL_TEXT}
    assert row(item(FULL_ITEM)) == expected
    assert row(item(dict(reversed(FULL_ITEM.items())))) == expected
    assert row(item(dict.fromkeys(FULL_ITEM) | {"item_id": "i1"}))["item"] == "{}"


def test_a_tombstone_removes_the_item_of_its_key() -> None:
    for headers in ((), STRUCTURED, BINARY):
        found = row(item(None, "é".encode(), headers))
        assert (found["kind"], found["item_id"], found["item"]) == (ITEM, "é", None)


def test_the_items_id_is_the_values_or_else_the_keys() -> None:
    decoded = [item({"item_id": "i1"}, key) for key in (b"i1", b"other", None, b"\xff")] + [item({}, b"k")]
    assert [row(d)["item_id"] for d in decoded] == ["i1", "i1", "i1", "i1", "k"]
    assert [(d.foreign_keys, d.missing_keys) for d in decoded] == [(0, 0), (1, 0), (0, 1), (1, 0), (0, 0)]


def test_items_as_cloud_events() -> None:
    for value, headers in ((ENVELOPE | {"data": FULL_ITEM}, STRUCTURED), (FULL_ITEM, without("ce_time"))):
        assert row(item(value, headers=headers))["item"] == FULL_TEXT


REFUSED_ITEMS = [
    ("tombstone", None, None),
    ("bad_value", None, b"\xff"),
    ("bad_value", None, b""),
    ("bad_value", {}, b"\xff"),
    ("bad_value", {}, b"a\0"),
    ("bad_value", {"item_id": ""}, b"i1"),
    ("bad_value", None, b"x" * 257),
    ("missing_field", {}, None),
    ("missing_field", {"item_id": None}, None),
    ("wrong_type", {"item_id": 5}, b"i1"),
    ("wrong_type", [], b"i1"),
    ("wrong_type", {"tags": "a"}, b"i1"),
    ("wrong_type", {"tags": [1]}, b"i1"),
    ("wrong_type", {"categories": [None]}, b"i1"),
    ("wrong_type", {"numbers": {"price": "1"}}, b"i1"),
    ("wrong_type", {"numbers": []}, b"i1"),
    ("wrong_type", {"embedding": [True]}, b"i1"),
    ("wrong_type", b'{"embedding":[1e999]}', b"i1"),
    ("wrong_type", {"text": 1}, b"i1"),
    ("bad_timestamp", {"start": 5}, b"i1"),
    ("bad_timestamp", {"end": "soon"}, b"i1"),
    ("bad_timestamp", {"end": 1e12 + 0.5}, b"i1"),
    ("malformed_json", b"", b"i1"),
    ("malformed_json", b'{"embedding":[NaN]}', b"i1"),
    ("too_large", b"{" + b" " * (1 << 20) + b"}", b"i1"),
    ("confluent_framing", b"\0\0\0\0\1", b"i1"),
]


@pytest.mark.parametrize(("category", "value", "key"), REFUSED_ITEMS, ids=[f"{n}-{c}" for n, (c, *_) in enumerate(REFUSED_ITEMS)])
def test_refused_items(category: str, value: object, key: bytes | None) -> None:
    assert refused(item(value, key))[0] == category


def test_limits_are_settings() -> None:
    limits = Limits(types=("clack",), max_id_bytes=3, max_event_bytes=100, min_ts_ms=1, max_ts_ms=10, max_future_seconds=1)
    body = {"type": "clack", "user_id": "abc", "item_id": "abc", "ts": 10}
    assert len(event(body, limits=limits).dead) == 0
    changes = [{"type": "click"}, {"user_id": "abcd"}, {"pad": "x" * 100}, {"ts": 11}, {"ts": 0}]
    categories = [refused(event(body | change, limits=limits))[0] for change in changes]
    assert categories == ["unknown_type", "bad_value", "too_large", "bad_timestamp", "bad_timestamp"]


NOTHING_LEFT = [
    ("types", ()), ("types", ("",)), ("max_id_bytes", 0), ("max_event_bytes", 0), ("min_ts_ms", 0), ("max_ts_ms", 5),
    ("max_future_seconds", -1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), NOTHING_LEFT)
def test_limits_that_accept_nothing_are_an_error(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=name):
        Limits(**{name: value})
