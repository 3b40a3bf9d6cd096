"""The contract with producers: its limits, its fields, and every way in which a message can break it.

A class of `Rejected` is one way; its `category` is a label value in the metrics, its name goes into the dead letter. Reasons are
one line, quote at most `QUOTED_CHARS` characters of data, and do not depend on the wording of the JSON library for valid JSON.
"""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import msgspec

from core.errors import FreshetError, SettingsError
from core.schemas import EVENT_TYPES

REASON_CHARS = 300
QUOTED_CHARS = 60
MAX_DEPTH = 64  # of nested arrays and objects; fixed, as the interpreter's own limit depends on who calls
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What ingest accepts. The bounds of event time are inclusive.

    Raises:
        SettingsError: a bound leaves nothing to accept.
    """

    types: tuple[str, ...] = EVENT_TYPES
    max_id_bytes: int = 256  # UTF-8, of user_id and of item_id
    max_event_bytes: int = MIB  # of a message's value, events and items
    min_ts_ms: int = 946_684_800_000  # 2000-01-01T00:00:00Z
    max_ts_ms: int = 4_102_444_800_000  # 2100-01-01T00:00:00Z
    max_future_seconds: int = 300  # event time after the record's Kafka timestamp

    def __post_init__(self) -> None:
        if not self.types or not all(self.types):
            raise SettingsError("`types` must name at least one event type, and none may be empty")
        for name in ("max_id_bytes", "max_event_bytes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if not 0 < self.min_ts_ms <= self.max_ts_ms:  # 0 is a clock that is not set
            raise SettingsError(f"`min_ts_ms` must be in 1..`max_ts_ms`, got {self.min_ts_ms} and {self.max_ts_ms}")
        if self.max_future_seconds < 0:
            raise SettingsError(f"`max_future_seconds` must not be negative, got {self.max_future_seconds}")


class Rejected(FreshetError):
    """A message that breaks the contract; the text is the reason given in its dead letter."""

    category: ClassVar[str]

    @property
    def reason(self) -> str:
        """One printable line of at most `REASON_CHARS` characters."""
        return "".join(c if c.isprintable() else "?" for c in str(self)[:REASON_CHARS])


class MalformedJson(Rejected):
    """Not JSON: syntax, NaN, invalid UTF-8, lone surrogates, nested deeper than `MAX_DEPTH`, or no bytes at all."""

    category = "malformed_json"


class ConfluentFraming(Rejected):
    """The value starts with the magic byte of a schema registry's wire format."""

    category = "confluent_framing"


class TooLarge(Rejected):
    """The value is larger than `max_event_bytes`."""

    category = "too_large"


class Tombstone(Rejected):
    """No value where one is needed."""

    category = "tombstone"


class MissingField(Rejected):
    """A required field is absent."""

    category = "missing_field"


class WrongType(Rejected):
    """A field has another JSON type than the contract's."""

    category = "wrong_type"


class BadTimestamp(Rejected):
    """A time that cannot be read or lies outside the bounds."""

    category = "bad_timestamp"


class BadValue(Rejected):
    """The right JSON type, but empty, too long, or not a finite number."""

    category = "bad_value"


class UnknownType(Rejected):
    """The event's type is none of `types`."""

    category = "unknown_type"


class BadCloudEvent(Rejected):
    """The CloudEvents envelope or headers break CloudEvents 1.0, or use a mode that is not supported."""

    category = "cloudevents"


REJECTIONS: tuple[type[Rejected], ...] = (
    MalformedJson, ConfluentFraming, TooLarge, Tombstone, MissingField, WrongType, BadTimestamp, BadValue, UnknownType, BadCloudEvent,
)  # fmt: skip
_CATEGORY_OF = {rejection.__name__: rejection.category for rejection in REJECTIONS}
OTHER = "other"
CATEGORIES = (*_CATEGORY_OF.values(), OTHER)


def category(exception: str) -> str:
    """The label value of an exception's name, one of `CATEGORIES`; names that are not ours share `OTHER`."""
    return _CATEGORY_OF.get(exception, OTHER)


Timestamp = int | float | Annotated[datetime.datetime, msgspec.Meta(tz=True)]
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_KINDS = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def quoted(text: str) -> str:
    """The text on one line, cut to `QUOTED_CHARS`."""
    line = repr(text[:QUOTED_CHARS])
    return line if len(text) <= QUOTED_CHARS and len(line) <= QUOTED_CHARS + 2 else f"{line[:QUOTED_CHARS]}..."


def json_kind(raw: bytes) -> str:
    """The JSON type that the text starts as; "number" for what is no other."""
    return _KINDS.get(raw.lstrip(b" \t\r\n")[:1].decode("latin-1"), "number")


def epoch_ms(ts: int | float | datetime.datetime, name: str) -> int:
    """Milliseconds since 1970 UTC. A time of day is rounded to microseconds, then cut to whole milliseconds.

    Raises:
        BadTimestamp: a number with a fraction.
    """
    if isinstance(ts, datetime.datetime):
        since = ts - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000
    if isinstance(ts, float) and not ts.is_integer():
        raise BadTimestamp(f"{name} is {ts}: epoch milliseconds must be whole")
    return int(ts)


class Field(NamedTuple):
    """What a field may hold, for saying what is wrong once decoding has failed."""

    name: str
    read_as: object  # the Python type that msgspec reads
    kinds: tuple[str, ...]  # JSON types
    expected: str
    required: bool = False
    broken: type[Rejected] = WrongType  # the JSON type is right, the content is not

    def fault(self, raw: bytes | None) -> Rejected | None:
        """What is wrong with the field's JSON text (None: absent)."""
        if raw is None:
            return MissingField(f"{self.name} is missing") if self.required else None
        kind = json_kind(raw)
        if kind == "null" and not self.required:
            return None
        if kind not in self.kinds:
            return WrongType(f"{self.name} is a JSON {kind}, expected {self.expected}")
        try:
            msgspec.json.decode(raw, type=self.read_as)
        except msgspec.ValidationError:
            return self.broken(f"{self.name} is {quoted(raw.decode())}, expected {self.expected}")
        return None


def _string(name: str, required: bool = False) -> Field:
    return Field(name, str, ("string",), "a string", required)


def _strings(name: str) -> Field:
    return Field(name, list[str], ("array",), "an array of strings")


def _time(name: str, required: bool = False) -> Field:
    expected = "whole epoch milliseconds or an RFC 3339 time with a zone"
    return Field(name, Timestamp, ("number", "string"), expected, required, BadTimestamp)


CONTEXT = Field("context", dict[str, msgspec.Raw], ("object",), "an object")
_BODY_FIELDS = (
    _string("user_id", required=True),
    _string("item_id", required=True),
    Field("value", float, ("number",), "a finite number", broken=BadValue),
    _string("request_id"),
    CONTEXT,
)
EVENT_FIELDS = (_string("type", required=True), _time("ts", required=True), _string("event_id"), *_BODY_FIELDS)
CLOUD_DATA_FIELDS = (_string("type"), _time("ts"), *_BODY_FIELDS)
ENVELOPE_FIELDS = (*(_string(name, required=True) for name in ("specversion", "id", "source", "type")), _string("time"))
ITEM_FIELDS = (
    _string("item_id"),
    _string("text"),
    _strings("categories"),
    _strings("tags"),
    _string("author"),
    Field("numbers", dict[str, float], ("object",), "an object of finite numbers"),
    Field("embedding", list[float], ("array",), "an array of finite numbers"),
    _time("start"),
    _time("end"),
)


class EventBody(msgspec.Struct, kw_only=True, gc=False):
    """What plain events and the data of CloudEvents share."""

    user_id: str
    item_id: str
    value: float | None = None
    request_id: str | None = None
    context: msgspec.Raw = msgspec.Raw(b"null")  # kept as sent


class PlainEvent(EventBody, kw_only=True, gc=False):
    """An event as most producers send it."""

    type: str
    ts: Timestamp
    event_id: str | None = None


class CloudData(EventBody, kw_only=True, gc=False):
    """The data of a CloudEvent. An event_id in it is ignored: CloudEvents are told apart by source and id."""

    type: str | None = None
    ts: Timestamp | None = None


class Envelope(msgspec.Struct, kw_only=True, gc=False):
    """A structured CloudEvent. Attributes that are not named here, extensions among them, are ignored."""

    specversion: str
    id: str
    source: str
    type: str
    time: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: msgspec.Raw = msgspec.Raw(b"null")


class Item(msgspec.Struct, kw_only=True, gc=False):
    """A catalogue entry."""

    item_id: str | None = None
    text: str | None = None
    categories: list[str] | None = None
    tags: list[str] | None = None
    author: str | None = None
    numbers: dict[str, float] | None = None
    embedding: list[float] | None = None
    start: Timestamp | None = None
    end: Timestamp | None = None


def not_json(value: bytes, why: str) -> Rejected:
    """The rejection of bytes that are no JSON text."""
    if value[:1] == b"\0":
        return ConfluentFraming("the value looks Confluent-framed (first byte 0x00); expected plain JSON or CloudEvents as JSON")
    return MalformedJson(f"not JSON: {why}" if value else "the value is empty; expected a JSON object")


def diagnose(raw: bytes, fields: tuple[Field, ...], error: msgspec.DecodeError) -> Rejected:
    """Why `raw` could not be read as an object of `fields`, found by looking at one field after the other.

    The good path pays nothing for clear reasons: they are worked out here, from the JSON types, not from the library's text.
    """
    if not isinstance(error, msgspec.ValidationError):
        return not_json(raw, str(error))
    if (kind := json_kind(raw)) != "object":
        return WrongType(f"the value is a JSON {kind}, expected an object")
    try:
        members = _MEMBERS.decode(raw)  # field name -> its JSON text
    except msgspec.DecodeError as malformed:  # behind the place where typed decoding stopped
        return not_json(raw, str(malformed))
    return next(_faults(members, fields), MalformedJson("a field stands twice, once with a wrong type"))


def _faults(members: dict[str, msgspec.Raw], fields: tuple[Field, ...]) -> Iterator[Rejected]:
    for field in fields:
        raw = members.get(field.name)
        if fault := field.fault(None if raw is None else bytes(raw)):
            yield fault


_TOKENS = re.compile(rb'"(?:[^"\\]+|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)  # strings, which may hold brackets, and brackets


def _depth_exceeds(text: bytes, depth: int) -> bool:
    level = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in b"[{":
            level += 1
            if level > depth:
                return True
        elif first in b"]}":
            level -= 1
    return False


def check_text(value: bytes, max_bytes: int) -> None:
    """Size, encoding and depth, before any parsing: msgspec does not look at the encoding of what it skips.

    Raises:
        Rejected: one of them is out of bounds.
    """
    if len(value) > max_bytes:
        raise TooLarge(f"the value has {len(value)} bytes, more than max_event_bytes ({max_bytes})")
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise not_json(value, f"{error.reason} in UTF-8 (byte {error.start})") from error
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise MalformedJson(f"nested deeper than {MAX_DEPTH} arrays and objects")


def id_bytes(id_: str, name: str, max_bytes: int) -> bytes:
    """The id as UTF-8: not empty, in bounds, and without NUL, which would end it early wherever C reads it.

    Raises:
        BadValue: it is none of that.
    """
    raw = id_.encode()
    if not 0 < len(raw) <= max_bytes or 0 in raw:
        raise BadValue(f"{name} has {len(raw)} bytes, expected 1 to {max_bytes} (max_id_bytes) and no NUL; got {quoted(id_)}")
    return raw


def check_time(ts_ms: int, name: str, limits: Limits) -> None:
    """Raises `BadTimestamp` where the time is outside the absolute bounds."""
    if not limits.min_ts_ms <= ts_ms <= limits.max_ts_ms:
        given = str(ts_ms) if abs(ts_ms) < 10**20 else "more than 20 digits long"
        raise BadTimestamp(f"{name} is {given}, outside min_ts_ms {limits.min_ts_ms} to max_ts_ms {limits.max_ts_ms}")
