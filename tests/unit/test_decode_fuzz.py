"""The decoders against a slow obvious twin built on json.loads, over valid, nearly valid and arbitrary messages."""

import datetime
import json
import math
import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.schemas import EVENT_TYPES, decode, encode
from streams.contract import MAX_DEPTH, REASON_CHARS, Limits
from streams.decode import ROWS, EventDecoder, ItemDecoder, RawMessage

LIMITS = Limits(max_id_bytes=12, max_event_bytes=4_000)
SENT_MS = 1_714_564_800_123
EVENTS, ITEMS = EventDecoder(LIMITS), ItemDecoder(LIMITS)


class Bad(Exception):
    """The twin's rejection; its text is the category."""


# The twin: one rule after the other, nothing shared with the decoder.

RFC_3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))"
)


def loads(text: bytes) -> Any:
    def no_constant(name: str) -> None:
        raise Bad("malformed_json")

    try:
        value = json.loads(text.decode(), parse_constant=no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates do not encode
    except (ValueError, RecursionError) as error:
        raise Bad("malformed_json") from error
    if depth(value) > MAX_DEPTH:
        raise Bad("malformed_json")
    return value


def depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any, category: str) -> float:
    if not is_number(value):
        raise Bad("wrong_type")
    try:
        read = float(value)
    except OverflowError:
        read = math.inf
    if not math.isfinite(read):
        raise Bad(category)
    return read


def typed(value: Any, *types: type) -> Any:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise Bad("wrong_type")
    return value


def time_ms(value: Any) -> int:
    typed(value, int, float, str)
    ms = text_ms(value) if isinstance(value, str) else value
    if isinstance(ms, float) and not ms.is_integer():
        raise Bad("bad_timestamp")
    if not LIMITS.min_ts_ms <= ms <= LIMITS.max_ts_ms:
        raise Bad("bad_timestamp")
    return int(ms)


def text_ms(text: str) -> int:
    match = RFC_3339.fullmatch(text)
    if not match:
        raise Bad("bad_timestamp")
    *fields, fraction, sign, hours, minutes = match.groups()
    if sign and (int(hours) > 23 or int(minutes) > 59):
        raise Bad("bad_timestamp")
    try:
        local = datetime.datetime(*map(int, fields), tzinfo=datetime.UTC)
    except ValueError as error:
        raise Bad("bad_timestamp") from error
    seconds = (
        int(local.timestamp()) - (60 * int(hours) + int(minutes)) * 60 * (-1 if sign == "-" else 1) if sign else int(local.timestamp())
    )
    digits = (fraction or "").ljust(7, "0")
    microseconds = int(digits[:6]) + (digits[6] >= "5")
    return (seconds * 1_000_000 + microseconds) // 1_000


def optional(body: dict[str, Any], name: str, read: Callable[[Any], Any]) -> Any:
    return None if body.get(name) is None else read(body[name])


def string(value: Any) -> str:
    return str(typed(value, str))


def id_of(value: Any) -> str:
    text = string(value)
    if not 1 <= len(text.encode()) <= LIMITS.max_id_bytes or "\0" in text:
        raise Bad("bad_value")
    return text


def twin_event(raw: bytes) -> tuple[Any, ...]:
    """(ts_ms, event_id, type, user_id, item_id, value, request_id, context as an object)."""
    body = typed(loads(raw), dict)
    if any(name not in body for name in ("type", "user_id", "item_id", "ts")):
        raise Bad("missing_field")
    kind = string(body["type"])
    ts = time_ms(body["ts"])
    if kind not in EVENT_TYPES:
        raise Bad("unknown_type")
    if ts > SENT_MS + 300_000:
        raise Bad("bad_timestamp")
    return (
        ts,
        optional(body, "event_id", string) or None,
        kind,
        id_of(body["user_id"]),
        id_of(body["item_id"]),
        optional(body, "value", lambda v: number(v, "bad_value")),
        optional(body, "request_id", string) or None,
        optional(body, "context", lambda v: typed(v, dict)),
    )


def strings(value: Any) -> list[str]:
    return [string(v) for v in typed(value, list)]


def twin_item(raw: bytes, key: bytes | None) -> tuple[Any, ...]:
    """(item_id, entry as an object)."""
    body = typed(loads(raw), dict)
    readers: dict[str, Callable[[Any], Any]] = {
        "text": string,
        "categories": strings,
        "tags": strings,
        "author": string,
        "numbers": lambda v: {string(k): number(x, "wrong_type") for k, x in typed(v, dict).items()},
        "embedding": lambda v: [number(x, "wrong_type") for x in typed(v, list)],
        "start": time_ms,
        "end": time_ms,
    }
    entry = {name: read(body[name]) for name, read in readers.items() if body.get(name) is not None}
    item_id = optional(body, "item_id", string)
    if item_id is None and key is None:
        raise Bad("missing_field")
    return id_of(key.decode() if item_id is None and key is not None else item_id), entry


# Messages: mostly right, with one or two fields wrong, so that both outcomes are common.

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TWO = st.integers(0, 61).map("{:02d}".format)
NEAR_TIMES = st.builds(
    "{}-{}-{}{}{}:{}:{}{}{}".format,
    st.sampled_from(["2024", "2000", "1999", "2099", "2023", "0000", "9999", "202"]),
    st.integers(0, 13).map("{:02d}".format),
    st.integers(0, 32).map("{:02d}".format),
    st.sampled_from("TTTTt _"),
    st.integers(0, 24).map("{:02d}".format),
    TWO,
    TWO,
    st.sampled_from(["", ".", ".5", ".9999", ".9999999", ".1234565", ".12345649", ".00000000001", ",5"]),
    st.sampled_from(["Z", "Z", "z", "+00:00", "-00:00", "+23:59", "-0130", "+24:00", "+01", "", "Z ", "\n", "Z\n"]),
)
GOOD_TIMES = st.datetimes(datetime.datetime(2000, 1, 2), datetime.datetime(2024, 4, 30), timezones=st.timezones()).map(
    lambda at: at.replace(fold=0).isoformat()
)
TIMES = st.one_of(
    st.integers(SENT_MS - 400_000, SENT_MS + 400_000),
    st.integers(LIMITS.min_ts_ms - 2, LIMITS.min_ts_ms + 2),
    st.integers(LIMITS.max_ts_ms - 2, LIMITS.max_ts_ms + 2),
    st.integers(SENT_MS - 9, SENT_MS).map(float),
    st.just(SENT_MS + 0.5),
    GOOD_TIMES,
    NEAR_TIMES,
)
IDS = st.text(min_size=1, max_size=5) | st.text(max_size=14)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70) | st.just(10**400)


def bodies(required: dict[str, st.SearchStrategy[Any]], fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    right = st.fixed_dictionaries(required, optional={**fields, "unknown": JUNK})
    wrong = st.dictionaries(st.sampled_from([*required, *fields]), JUNK, max_size=1)
    dropped = st.sets(st.sampled_from([*required, *fields]), max_size=1) if required else st.just(set())
    return st.builds(lambda a, b, gone: {k: v for k, v in (a | b).items() if k not in gone}, right, wrong, st.just(set()) | dropped)


EVENT_BODIES = bodies(
    {"type": st.sampled_from([*EVENT_TYPES, "clack"]), "user_id": IDS, "item_id": IDS, "ts": TIMES},
    {
        "event_id": st.none() | st.text(max_size=5),
        "value": st.none() | NUMBERS,
        "request_id": st.none() | st.text(max_size=5),
        "context": st.none() | st.dictionaries(st.text(max_size=4), JUNK, max_size=3),
    },
)
TEXTS = st.lists(st.text(max_size=4), max_size=3)
ITEM_BODIES = bodies(
    {},
    {
        "item_id": IDS, "text": st.text(max_size=9), "categories": TEXTS, "tags": TEXTS, "author": st.text(max_size=5),
        "start": TIMES, "end": TIMES,
        "numbers": st.dictionaries(st.text(max_size=4), NUMBERS, max_size=3), "embedding": st.lists(NUMBERS, max_size=4),
    },
)  # fmt: skip
STYLES = st.builds(
    lambda ascii_only, gaps: {"ensure_ascii": ascii_only, "separators": gaps}, st.booleans(), st.sampled_from([(",", ":"), (" , ", " :\n")])
)


def text_of(bodies_: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda body, style: json.dumps(body, **style).encode(), bodies_, STYLES)


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> bytes:
    """A text with one stretch replaced by bytes that matter to JSON."""
    text = draw(texts)
    at = draw(st.integers(0, len(text)))
    piece = draw(st.sampled_from([b"", b"\0", b"\xff", b'"', b"\\", b"{", b"]", b",", b"NaN", b"\\ud800", b"\xed\xa0\x80", b"1e999", b"0"]))
    return text[:at] + piece + text[at + draw(st.integers(0, 3)) :]


def outcome(decoder: EventDecoder | ItemDecoder, value: bytes, key: bytes | None = None) -> tuple[dict[str, Any] | None, str | None]:
    """The row, or the category of the rejection; what holds for every message is checked on the way."""
    decoded = decoder.decode([RawMessage(key, value, (), SENT_MS, 7)])
    assert decoded.rows.height + len(decoded.dead) == 1
    assert decoded.rows.schema == ROWS
    if decoded.dead:
        assert 0 < len(decoded.dead[0].reason) <= REASON_CHARS
        return None, decoded.dead[0].category
    copy = decode(encode(decoded.rows))
    return copy.row(0, named=True), None


def event_row(row: dict[str, Any]) -> tuple[Any, ...]:
    context = None if row["context"] is None else json.loads(row["context"])
    return (*(row[n] for n in ("ts_ms", "event_id", "type", "user_id", "item_id", "value", "request_id")), context)


def check_event(value: bytes, exact_category: bool = True) -> None:
    row, category = outcome(EVENTS, value)
    try:
        expected = twin_event(value)
    except Bad as bad:
        assert row is None, f"accepted, the twin says {bad}"
        assert not exact_category or category == str(bad)
        return
    assert row is not None, f"refused: {category}"
    assert event_row(row) == expected


def check_item(value: bytes, key: bytes | None) -> None:
    row, category = outcome(ITEMS, value, key)
    try:
        item_id, entry = twin_item(value, key)
    except Bad:
        assert row is None
        return
    assert row is not None, f"refused: {category}"
    assert (row["item_id"], json.loads(row["item"])) == (item_id, entry)
    assert row["item"] == json.dumps(json.loads(row["item"]), sort_keys=True, separators=(",", ":"), ensure_ascii=False) or any(
        isinstance(v, float) for v in [*entry.get("embedding", ()), *entry.get("numbers", {}).values()]
    )  # floats have two spellings: 1e+16 and 1e16


@settings(max_examples=400, deadline=None)
@given(text_of(EVENT_BODIES))
def test_events_equal_the_twin(value: bytes) -> None:
    check_event(value, exact_category=False)


@settings(max_examples=400, deadline=None)
@given(NEAR_TIMES | GOOD_TIMES)
@example("2024-01-01T00:00:00.9999999Z")
@example("2023-12-31T23:59:59.9999995-00:00")
def test_times_equal_the_twin(text: str) -> None:
    check_event(json.dumps({"type": "click", "user_id": "u", "item_id": "i", "ts": text}).encode())


FIELDS = ["type", "user_id", "item_id", "ts", "event_id", "value", "request_id", "context"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), JUNK)
def test_one_wrong_field_has_the_twins_category(name: str, junk: Any) -> None:
    good = {"type": "click", "user_id": "u", "item_id": "i", "ts": SENT_MS}
    check_event(json.dumps(good | {name: junk}).encode())


@settings(max_examples=400, deadline=None)
@given(damaged(text_of(EVENT_BODIES)))
def test_damaged_events_equal_the_twin(value: bytes) -> None:
    if not repeats_a_name(value):
        check_event(value, exact_category=False)


def repeats_a_name(value: bytes) -> bool:
    """Of a name that stands twice the twin sees the last value only; the decoder may refuse the first."""

    def seen(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            raise KeyError

    try:
        json.loads(value, object_pairs_hook=seen)
    except KeyError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


@settings(max_examples=400, deadline=None)
@given(text_of(ITEM_BODIES), st.none() | IDS.map(str.encode))
def test_items_equal_the_twin(value: bytes, key: bytes | None) -> None:
    check_item(value, key)


@settings(max_examples=200, deadline=None)
@given(damaged(text_of(ITEM_BODIES)))
def test_damaged_items_equal_the_twin(value: bytes) -> None:
    if not repeats_a_name(value):
        check_item(value, b"key")


@settings(max_examples=100, deadline=None)
@given(ITEM_BODIES, st.randoms(use_true_random=False))
def test_an_items_text_does_not_depend_on_the_order_of_fields(body: dict[str, Any], random: Any) -> None:
    shuffled = dict(random.sample(list(body.items()), len(body)))
    assert outcome(ITEMS, json.dumps(body).encode(), b"k") == outcome(ITEMS, json.dumps(shuffled, indent=1).encode(), b"k")


KAFKA_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"]) | st.text(max_size=4),
        st.none()
        | st.binary(max_size=6)
        | st.sampled_from([b"1.0", b"application/cloudevents+json", b"application/cloudevents-batch", b"2024-01-01T00:00:00Z", b"a.click"]),
    ),
    max_size=7,
)
VALUES = st.none() | st.binary(max_size=40) | text_of(EVENT_BODIES) | damaged(text_of(ITEM_BODIES))
MESSAGES = st.builds(RawMessage, st.none() | st.binary(max_size=6), VALUES, KAFKA_HEADERS, st.integers(-1, 2**62), st.integers(0, 2**62))


@pytest.mark.parametrize("decoder", [EVENTS, ItemDecoder(LIMITS)], ids=["events", "items"])
@settings(max_examples=200, deadline=None)
@given(messages=st.lists(MESSAGES, max_size=6))
def test_no_message_breaks_a_batch_and_the_cut_does_not_matter(decoder: EventDecoder | ItemDecoder, messages: list[RawMessage]) -> None:
    whole = decoder.decode(messages)
    parts = [decoder.decode([message]) for message in messages]
    assert whole.rows.height + len(whole.dead) == len(messages)
    assert whole.dead == [letter for part in parts for letter in part.dead]
    assert (whole.foreign_keys, whole.missing_keys) == (sum(p.foreign_keys for p in parts), sum(p.missing_keys for p in parts))
    assert whole.rows.equals(pl.concat([ROWS.to_frame(), *(part.rows for part in parts)]))


@settings(max_examples=200, deadline=None)
@given(text_of(EVENT_BODIES), st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5))
def test_the_three_wire_forms_give_one_row(value: bytes, event_id: str, source: str) -> None:
    """Plain, binary and structured: the same fields, but that CloudEvents bring their own event_id."""
    named = [("ce_specversion", "1.0"), ("ce_id", event_id), ("ce_source", source), ("ce_type", "com.shop.click")]
    envelope = {name.removeprefix("ce_"): text for name, text in named}
    binary = [(name, text.encode()) for name, text in named]
    structured = json.dumps(envelope)[:-1].encode() + b', "data": ' + value + b"}"
    plain = EVENTS.decode([RawMessage(None, value, (), SENT_MS, 7)]).rows
    other = [
        EVENTS.decode([RawMessage(None, value, binary, SENT_MS, 7)]).rows,
        EVENTS.decode([RawMessage(None, structured, [("content-type", b"application/cloudevents+json")], SENT_MS, 7)]).rows,
    ]
    assert other[0].equals(other[1])
    if plain.height:
        assert other[0].equals(plain.with_columns(event_id=pl.lit(f"{source}#{event_id}")))
