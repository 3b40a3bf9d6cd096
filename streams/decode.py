"""Decodes what producers send: plain JSON or CloudEvents 1.0, events or catalogue entries, into columns and dead letters.

The path of a good message is one straight line; a bad one leaves it through an exception that becomes its dead letter. What is
accepted depends on the message and the limits alone, never on the clock, the batch or the caller's stack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import msgspec
import polars as pl

from core.schemas import BATCHES, EVENT, ITEM
from streams.contract import (
    CLOUD_DATA_FIELDS,
    CONTEXT,
    ENVELOPE_FIELDS,
    EVENT_FIELDS,
    ITEM_FIELDS,
    BadCloudEvent,
    BadTimestamp,
    BadValue,
    CloudData,
    ConfluentFraming,
    Envelope,
    EventBody,
    Field,
    Item,
    Limits,
    MalformedJson,
    MissingField,
    PlainEvent,
    Rejected,
    Timestamp,
    Tombstone,
    UnknownType,
    category,
    check_text,
    check_time,
    diagnose,
    epoch_ms,
    id_bytes,
    quoted,
)

Headers = Sequence[tuple[str, bytes | None]]  # Kafka lets a header's value be null

ROWS = pl.Schema({name: dtype for name, dtype in BATCHES.items() if name != "source"})  # the caller knows the source


class RawMessage(NamedTuple):
    """A record as Kafka gave it. A null value is a tombstone."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    offset: int


class DeadLetter(NamedTuple):
    """A message that was not accepted, with a one-line reason and the name of the `Rejected` class."""

    message: RawMessage
    reason: str
    exception: str

    @property
    def category(self) -> str:
        """Label value for metrics, one of `streams.contract.CATEGORIES`."""
        return category(self.exception)


@dataclass(frozen=True)
class Decoded:
    """One batch: every message is either a row or a dead letter, both in log order."""

    rows: pl.DataFrame  # schema `ROWS`
    dead: list[DeadLetter]
    foreign_keys: int  # accepted rows whose record key is another id
    missing_keys: int  # accepted rows whose record has no key


SAME_KEY, MISSING_KEY, FOREIGN_KEY = 0, 1, 2
Row = tuple[object, ...]  # what differs between rows, then the state of the key


class CloudEvent(NamedTuple):
    """The attributes that matter, whichever mode carried them; `data` is JSON text, not yet looked at."""

    id: str
    source: str
    type: str
    time: str | None
    data: bytes


T = TypeVar("T")


def _read(decode: Callable[[bytes], T], raw: bytes, fields: tuple[Field, ...]) -> T:
    """The typed object, or the exception that says which of `fields` is wrong."""
    try:
        return decode(raw)
    except msgspec.DecodeError as error:
        raise diagnose(raw, fields, error) from error


def _key_state(key: bytes | None, expected: bytes) -> int:
    if key == expected:
        return SAME_KEY
    return MISSING_KEY if key is None else FOREIGN_KEY


class _Decoder:
    """The loop that events and items share; `_row` reads one message or raises `Rejected`."""

    kind: int
    columns: tuple[str, ...]  # of a `_row`, the state of the key left out

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def decode(self, messages: Sequence[RawMessage]) -> Decoded:
        """Rows and dead letters of the messages, in their order. No message makes it raise."""
        rows: list[Row] = []
        dead: list[DeadLetter] = []
        read = self._row
        for message in messages:
            try:
                rows.append(read(message))
            except Rejected as error:
                dead.append(DeadLetter(message, error.reason, type(error).__name__))
        return self._decoded(rows, dead)

    def _decoded(self, rows: list[Row], dead: list[DeadLetter]) -> Decoded:
        if not rows:
            return Decoded(ROWS.to_frame(), dead, 0, 0)
        *columns, keys = zip(*rows, strict=True)
        given = dict(zip(self.columns, columns, strict=True))
        series = [pl.Series(name, given[name], dtype) if name in given else self._constant(name, len(rows)) for name, dtype in ROWS.items()]
        return Decoded(pl.DataFrame(series), dead, keys.count(FOREIGN_KEY), keys.count(MISSING_KEY))  # [n, 12]

    def _constant(self, name: str, height: int) -> pl.Series:
        """A column that this topic does not give: the kind of the rows, event time 0 of items, or nulls."""
        value = {"kind": self.kind, "ts_ms": 0}.get(name)
        return pl.Series(name, [value], ROWS[name]).new_from_index(0, height)

    def _row(self, message: RawMessage) -> Row:
        raise NotImplementedError


class EventDecoder(_Decoder):
    """Decodes the topic of events. An accepted event has every field in bounds; an empty event_id or request_id is none.

    The record's key is counted where it is not the user_id, never refused: ingest keys anew.
    """

    kind = EVENT
    columns = ("offset", "sent_ms", "ts_ms", "event_id", "type", "user_id", "item_id", "value", "request_id", "context")

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._types = frozenset(limits.types)
        self._max_future_ms = limits.max_future_seconds * 1_000
        self._plain = msgspec.json.Decoder(PlainEvent).decode
        self._cloud = msgspec.json.Decoder(CloudData).decode

    def _row(self, message: RawMessage) -> Row:
        if message.value is None:
            raise Tombstone("the event has no value; a tombstone means nothing on this topic")
        value = message.value
        check_text(value, self.limits.max_event_bytes)
        if message.headers and (cloud := cloud_event(message.headers, value)) is not None:
            return self._cloud_row(message, cloud)
        event = _read(self._plain, value, EVENT_FIELDS)
        return self._accepted(message, event, event.type, event.ts, event.event_id or None)

    def _cloud_row(self, message: RawMessage, cloud: CloudEvent) -> Row:
        data = _read(self._cloud, cloud.data, CLOUD_DATA_FIELDS)
        event_type = cloud.type.rpartition(".")[2] if data.type is None else data.type
        ts = _cloud_time(cloud.time) if data.ts is None else data.ts
        return self._accepted(message, data, event_type, ts, f"{cloud.source}#{cloud.id}")

    def _accepted(self, message: RawMessage, body: EventBody, event_type: str, ts: Timestamp, event_id: str | None) -> Row:
        """The checks that the types do not make, then the row."""
        limits = self.limits
        if event_type not in self._types:
            raise UnknownType(f"type {quoted(event_type)} is not one of the configured `types`")
        ts_ms = ts if type(ts) is int else epoch_ms(ts, "ts")
        check_time(ts_ms, "ts", limits)
        if ts_ms > message.timestamp_ms + self._max_future_ms:
            raise _ahead(ts_ms, message.timestamp_ms, limits)
        key = id_bytes(body.user_id, "user_id", limits.max_id_bytes)
        id_bytes(body.item_id, "item_id", limits.max_id_bytes)
        return (
            message.offset, message.timestamp_ms, ts_ms, event_id, event_type, body.user_id, body.item_id,
            body.value, body.request_id or None, _context(body.context), _key_state(message.key, key),
        )  # fmt: skip


def _ahead(ts_ms: int, sent_ms: int, limits: Limits) -> BadTimestamp:
    bound = f"max_future_seconds ({limits.max_future_seconds})"
    return BadTimestamp(f"ts is {(ts_ms - sent_ms) / 1_000:.3f} s after the record's Kafka timestamp, more than {bound}")


def _context(raw: msgspec.Raw) -> str | None:
    """The object's JSON text as sent; None where it is absent or null."""
    text = str(raw, "utf-8")
    if text[0] == "{":
        return text
    if fault := CONTEXT.fault(bytes(raw)):
        raise fault
    return None


def _cloud_time(time: str | None) -> Timestamp:
    if time is None:
        raise MissingField("ts is missing: the CloudEvent has neither data.ts nor the attribute time")
    try:
        read: Timestamp = msgspec.convert(time, Timestamp)
    except msgspec.ValidationError as error:
        raise BadTimestamp(f"the CloudEvents time is {quoted(time)}, expected an RFC 3339 time with a zone") from error
    return read


_STRUCTURED = "application/cloudevents"
_envelope = msgspec.json.Decoder(Envelope).decode


def cloud_event(headers: Headers, value: bytes) -> CloudEvent | None:
    """The CloudEvent that a record carries (Kafka protocol binding 1.0, sections 3.2 and 3.3); None for plain JSON.

    Of a header that stands twice the last counts. `data_base64` is not supported: data is a JSON object here.

    Raises:
        Rejected: the envelope breaks CloudEvents 1.0, or is batched or in a format other than JSON.
    """
    found = {name.lower(): raw or b"" for name, raw in headers}
    media_type = found.get("content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if media_type.startswith(_STRUCTURED):
        return _structured(media_type, value)
    return _binary(found, value) if "ce_specversion" in found else None


def _structured(media_type: str, value: bytes) -> CloudEvent:
    if media_type not in (_STRUCTURED, f"{_STRUCTURED}+json"):
        raise BadCloudEvent(f"content-type {quoted(media_type)} is not supported: send one event per record, as {_STRUCTURED}+json")
    envelope = _read_envelope(value)
    if bytes(envelope.data_base64) != b"null":
        raise BadCloudEvent("data_base64 is not supported: send data as a JSON object")
    _check_attributes(envelope.specversion, envelope.id, envelope.source, envelope.type)
    data = bytes(envelope.data)
    if data == b"null":
        raise BadCloudEvent("the CloudEvent has no data")
    return CloudEvent(envelope.id, envelope.source, envelope.type, envelope.time, data)


def _read_envelope(value: bytes) -> Envelope:
    try:
        return _read(_envelope, value, ENVELOPE_FIELDS)
    except (MalformedJson, ConfluentFraming):
        raise
    except Rejected as error:
        raise BadCloudEvent(f"CloudEvents envelope: {error}") from error


def _binary(found: dict[str, bytes], value: bytes) -> CloudEvent:
    try:
        text = {name: found[name].decode() for name in ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time") if name in found}
    except UnicodeDecodeError as error:
        raise BadCloudEvent("a ce_ header is not UTF-8") from error
    id_, source, type_ = (text.get(name, "") for name in ("ce_id", "ce_source", "ce_type"))
    _check_attributes(text["ce_specversion"], id_, source, type_)
    return CloudEvent(id_, source, type_, text.get("ce_time"), value)


def _check_attributes(specversion: str, id_: str, source: str, type_: str) -> None:
    if specversion != "1.0":
        raise BadCloudEvent(f"CloudEvents specversion is {quoted(specversion)}, expected '1.0'")
    for name, attribute in (("id", id_), ("source", source), ("type", type_)):
        if not attribute:
            raise BadCloudEvent(f"the CloudEvents attribute {name} is missing or empty")


class ItemDecoder(_Decoder):
    """Decodes the catalogue topic: one entry a message, a tombstone removes.

    The id is the value's item_id, or else the key. `item` is canonical JSON: the contract's fields that are there, names sorted,
    times as epoch ms; equal entries give equal text. A removal has `item` null.
    """

    kind = ITEM
    columns = ("offset", "sent_ms", "item_id", "item")

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._plain = msgspec.json.Decoder(Item).decode

    def _row(self, message: RawMessage) -> Row:
        if message.value is None:
            absent = Tombstone("the tombstone has no key: nothing says what to remove")
            return self._accepted(message, self._id_of_key(message.key, absent), None)
        value = message.value
        check_text(value, self.limits.max_event_bytes)
        if message.headers and (cloud := cloud_event(message.headers, value)) is not None:
            value = cloud.data
        item = _read(self._plain, value, ITEM_FIELDS)
        item_id = item.item_id
        if item_id is None:
            item_id = self._id_of_key(message.key, MissingField("item_id is missing, and the record has no key"))
        return self._accepted(message, item_id, self._normalised(item))

    def _id_of_key(self, key: bytes | None, absent: Rejected) -> str:
        if key is None:
            raise absent
        try:
            return key.decode()
        except UnicodeDecodeError as error:
            raise BadValue("the key, which stands for item_id, is not UTF-8") from error

    def _accepted(self, message: RawMessage, item_id: str, item: str | None) -> Row:
        key = id_bytes(item_id, "item_id", self.limits.max_id_bytes)
        return message.offset, message.timestamp_ms, item_id, item, _key_state(message.key, key)

    def _normalised(self, item: Item) -> str:
        kept = {name: value for name in item.__struct_fields__[1:] if (value := getattr(item, name)) is not None}
        for name in ("start", "end"):
            if name in kept:
                kept[name] = self._time_in_bounds(kept[name], name)
        return msgspec.json.encode(kept, order="sorted").decode()

    def _time_in_bounds(self, ts: Timestamp, name: str) -> int:
        ts_ms = epoch_ms(ts, name)
        check_time(ts_ms, name, self.limits)
        return ts_ms
