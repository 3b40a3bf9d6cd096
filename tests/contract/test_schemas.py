"""The published JSON Schemas say what the decoders do.

Valid and accepted are the same for every rule that a schema can state. It cannot state, so that the values here keep clear of it:
- bytes: `max_event_bytes` of a value, `max_id_bytes` of an id beyond ASCII (a schema counts characters);
- the time bound against the record's Kafka timestamp (`max_future_seconds`; here the record is from 2100);
- the calendar, and `min_ts_ms` to `max_ts_ms`, for times that are text (February 30; 1999);
- the depth of nesting, names that stand twice, and what the record's key adds (an item's id);
- text that is not JSON at all: a schema never sees it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import streams
from core.schemas import EVENT_TYPES
from streams.contract import EVENT_FIELDS, ITEM_FIELDS, Limits
from streams.decode import EventDecoder, ItemDecoder, RawMessage

FOLDER = Path(streams.__file__).parent / "schemas"
SCHEMAS = {name: json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")) for name in ("event", "item")}
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
DECODERS: dict[str, EventDecoder | ItemDecoder] = {"event": EventDecoder(Limits()), "item": ItemDecoder(Limits())}
YEAR_2100_MS = 4_102_444_800_000
TS = 1_714_564_800_123


def verdicts(name: str, text: str) -> tuple[bool, bool]:
    """(valid by the schema, accepted by the decoder)."""
    decoded = DECODERS[name].decode([RawMessage(b"key", text.encode(), (), YEAR_2100_MS, 0)])
    return VALIDATORS[name].is_valid(json.loads(text)), decoded.rows.height == 1


EVENT = {"type": "click", "user_id": "u", "item_id": "i", "ts": TS}
GOOD: dict[str, list[Any]] = {
    "type": list(EVENT_TYPES),
    "user_id": ["u", " ", "x" * 256, "é", "\U0001f600", "\n"],
    "item_id": ["i", "x" * 256],
    "ts": [
        TS, float(TS), 946_684_800_000, YEAR_2100_MS, "2024-05-01T12:00:00Z", "2024-05-01t12:00:00.123456789+05:30",
        "2024-05-01 12:00:00-0100", "2024-12-31T23:59:59z",
    ],
    "event_id": [None, "", "e", "\0"],
    "value": [None, 0, -1, 1.5, 1e308, -1.7976931348623157e308, 10**300, 5e-324],
    "request_id": [None, "", "r"],
    "context": [None, {}, {"a": [1, None, {"b": 1e9}]}],
    "unknown": [None, 1, "x", [[]], {"a": {}}],
}  # fmt: skip
BAD: dict[str, list[Any]] = {
    "type": [None, "", "clack", "Click", 1, [], True],
    "user_id": [None, "", "x" * 257, "a\0b", "\0", 1, [], {}, False],
    "item_id": [None, "", "x" * 257, "a\0", 1.5],
    "ts": [
        None, True, TS + 0.5, 946_684_799_999, YEAR_2100_MS + 1, TS // 1000, -TS, 1e300, 10**40, "", "now", str(TS), "2024-05-01T12:00:00",
        "2024-05-01", "2024-05-01T12:00:00Z\n", "2024-05-01T12:00:00Z ", "2024-05-01T12:00Z", "2024-05-01T12:00:00,5Z",
        "2024-05-01T12:00:00.Z", "2024-13-01T12:00:00Z", "2024-00-01T12:00:00Z", "2024-05-32T12:00:00Z",
        "2024-05-01T24:00:00Z", "2024-05-01T12:60:00Z", "2024-05-01T12:00:60Z", "2024-05-01T12:00:00+24:00", "2024-05-01T12:00:00+01",
        "2024-05-01_12:00:00Z", "\u0662\u0660\u0662\u0664-05-01T12:00:00Z", [], {},
    ],
    "event_id": [1, True, [], {}],
    "value": ["1", True, [], {}, 10**400],
    "request_id": [1, {}],
    "context": [[], "", "{}", 1, True],
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_valid_schemas(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schemas_name_the_decoders_fields_and_defaults() -> None:
    event, item, limits = SCHEMAS["event"], SCHEMAS["item"], Limits()
    assert sorted(event["properties"]) == sorted(field.name for field in EVENT_FIELDS)
    assert sorted(event["required"]) == sorted(field.name for field in EVENT_FIELDS if field.required)
    assert sorted(item["properties"]) == sorted(field.name for field in ITEM_FIELDS)
    assert event["properties"]["type"]["enum"] == list(limits.types)
    assert event["$defs"]["id"]["maxLength"] == item["properties"]["item_id"]["maxLength"] == limits.max_id_bytes
    for time in (event["properties"]["ts"]["anyOf"][0], item["$defs"]["time"]["anyOf"][1]):
        assert (time["minimum"], time["maximum"]) == (limits.min_ts_ms, limits.max_ts_ms)
    assert item["$defs"]["time"]["anyOf"][2]["pattern"] == event["$defs"]["rfc3339"]["pattern"]


@pytest.mark.parametrize("name", GOOD)
def test_good_event_fields(name: str) -> None:
    for value in GOOD[name]:
        assert verdicts("event", json.dumps(EVENT | {name: value})) == (True, True), value


@pytest.mark.parametrize("name", BAD)
def test_bad_event_fields(name: str) -> None:
    for value in BAD[name]:
        assert verdicts("event", json.dumps(EVENT | {name: value})) == (False, False), value


@pytest.mark.parametrize("name", EVENT)
def test_required_event_fields(name: str) -> None:
    assert verdicts("event", json.dumps({k: v for k, v in EVENT.items() if k != name})) == (False, False)


GOOD_ITEM: dict[str, list[Any]] = {
    "item_id": [None, "i", "x" * 256],
    "text": [None, "", "words"],
    "categories": [None, [], ["a", ""]],
    "tags": [None, [], ["a", "a"]],
    "author": [None, "", "x"],
    "numbers": [None, {}, {"": 1, "price": 1.5, "big": 1e308}],
    "embedding": [None, [], [0, 0.5, -1e308]],
    "start": [None, TS, "2024-05-01T12:00:00Z"],
    "end": [None, float(TS), YEAR_2100_MS],
    "unknown": [1, {"a": []}],
}
BAD_ITEM: dict[str, list[Any]] = {
    "item_id": ["", "x" * 257, "\0", 1, []],
    "text": [1, [], {}],
    "categories": ["a", {}, [1], [None], [["a"]]],
    "tags": ["a", [True]],
    "author": [1, ["x"]],
    "numbers": [[], 1, {"a": "1"}, {"a": None}, {"a": True}, {"a": [1]}, {"a": 10**400}],
    "embedding": [{}, 1, ["1"], [None], [True], [[1]], [10**400]],
    "start": [True, 5, TS + 0.5, "soon", []],
    "end": [YEAR_2100_MS + 1, "2024-05-01T12:00:00", {}],
}


@pytest.mark.parametrize("name", GOOD_ITEM)
def test_good_item_fields(name: str) -> None:
    for value in GOOD_ITEM[name]:
        assert verdicts("item", json.dumps({name: value})) == (True, True), value


@pytest.mark.parametrize("name", BAD_ITEM)
def test_bad_item_fields(name: str) -> None:
    for value in BAD_ITEM[name]:
        assert verdicts("item", json.dumps({name: value})) == (False, False), value


@pytest.mark.parametrize("name", SCHEMAS)
def test_values_that_are_no_object(name: str) -> None:
    for value in (None, 1, 1.5, "x", [], [EVENT], True):
        assert verdicts(name, json.dumps(value)) == (False, False), value
    assert verdicts(name, "{}") == ((False, False) if name == "event" else (True, True))


def test_numbers_that_overflow_are_neither_valid_nor_accepted() -> None:
    for literal in ("1e999", "-1e999"):
        assert verdicts("event", json.dumps(EVENT)[:-1] + f', "value": {literal}}}') == (False, False)
        assert verdicts("item", f'{{"embedding": [{literal}]}}') == (False, False)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def mixed(good: dict[str, list[Any]], bad: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of good values, some with a bad or an arbitrary one, or a field dropped."""
    right = {name: st.sampled_from(values) for name, values in good.items()}
    required = {name: right.pop(name) for name in EVENT} if good is GOOD else {}
    one_off = st.sampled_from(sorted(bad)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(bad[name]) | JUNK))
    base = st.fixed_dictionaries(required, optional=right)
    dropped = base.flatmap(lambda body: st.sampled_from([*body, ""]).map(lambda gone: {k: v for k, v in body.items() if k != gone}))
    return base | dropped | st.builds(lambda body, off: body | dict([off]), base, one_off)


@settings(max_examples=500, deadline=None)
@given(mixed(GOOD, BAD), st.booleans())
def test_valid_is_accepted_of_any_event(body: dict[str, Any], ascii_only: bool) -> None:
    valid, accepted = verdicts("event", json.dumps(body, ensure_ascii=ascii_only))
    assert valid == accepted


@settings(max_examples=500, deadline=None)
@given(mixed(GOOD_ITEM, BAD_ITEM), st.booleans())
def test_valid_is_accepted_of_any_item(body: dict[str, Any], ascii_only: bool) -> None:
    valid, accepted = verdicts("item", json.dumps(body, ensure_ascii=ascii_only))
    assert valid == accepted
