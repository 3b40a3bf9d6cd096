"""The producer side: kafka-python behind the `produce`, `replay` and `demo` commands."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from core.errors import SendError, SettingsError
from streams.settings import Settings
from streams.topics import EVENT_RECORD_BYTES, security

log = logging.getLogger(__name__)
Message = tuple[bytes | None, bytes | None]
CLOSE_SECONDS = 10.0
SILENT_SECONDS = 60.0  # without an acknowledgement: the client itself waits for a broker that is gone for ever
ROWS = 50_000  # of a Parquet file, read at once
EVENT_COLUMNS = ("event_id", "type", "user_id", "item_id", "ts", "value", "request_id", "context")


class Sender:
    """Sends messages and knows when Kafka has them; the first failure is raised."""

    def __init__(self, s: Settings) -> None:
        self._producer = KafkaProducer(**security(s), acks="all", linger_ms=5, max_request_size=EVENT_RECORD_BYTES)
        self._failure: BaseException | None = None
        self._acknowledged = 0

    def send(self, topic: str, message: Message) -> Any:
        """Hand over one message; the client's future of its acknowledgement.

        Raises:
            SendError: an earlier one did not arrive.
        """
        if self._failure is not None:
            raise SendError(f"a message did not reach {topic}: {self._failure!r}")
        key, value = message
        try:
            return self._producer.send(topic, value, key).add_callback(self._arrived).add_errback(self._failed)
        except KafkaError as error:
            raise SendError(f"a message cannot be sent to {topic}: {error!r}") from error

    def _arrived(self, _: object) -> None:
        self._acknowledged += 1

    def _failed(self, error: BaseException) -> None:
        self._failure = error

    def flush(self) -> None:
        """Wait until Kafka has all of them.

        Raises:
            SendError: one did not arrive, or for SILENT_SECONDS none was acknowledged.
        """
        while not self._flushed():
            pass
        if self._failure is not None:
            raise SendError(f"a message did not arrive: {self._failure!r}")

    def _flushed(self) -> bool:
        """Whether all are acknowledged; a long queue may take several goes."""
        before = self._acknowledged
        try:
            self._producer.flush(timeout=SILENT_SECONDS)
        except KafkaTimeoutError as error:
            if self._acknowledged == before:
                raise SendError(f"Kafka acknowledged nothing for {SILENT_SECONDS:.0f} s: is the broker still there?") from error
            return False
        return True

    def close(self) -> None:
        """Waits a little for what `flush` did not wait for; what is left then is told of, and lost."""
        try:
            self._producer.close(timeout=CLOSE_SECONDS)
        except KafkaTimeoutError:
            log.warning("Kafka did not acknowledge the last messages: they may or may not have arrived")


def send_all(
    sender: Sender, topic: str, messages: Iterable[Message], rate: float = 0.0, sent: Callable[[int], None] = lambda count: None
) -> int:
    """Send in order, at `rate` messages a second (0: as fast as it goes), reporting each hundred; returns how many."""
    count, started = 0, time.monotonic()
    for count, message in enumerate(messages, 1):
        sender.send(topic, message)
        if rate and (ahead := started + count / rate - time.monotonic()) > 0:
            time.sleep(ahead)
        if count % 100 == 0:
            sent(100)
    sender.flush()
    sent(count % 100)
    return count


Numbered = Iterator[tuple[int, Message]]  # each message with its line, from 1; of a Parquet file its row


def read_log(path: Path) -> Iterator[Message]:
    """(key = user_id, value) of each line or row, in the file's order. NDJSON lines go out as they are; Parquet rows as JSON.

    Raises:
        SettingsError: the file is missing or neither.
    """
    return (message for _, message in numbered_log(path))


def read_items(path: Path) -> Iterator[Message]:
    """(key = item_id, value) of each line of an NDJSON catalogue.

    Raises:
        SettingsError: the file is missing or no NDJSON, or a line has no item_id: Kafka takes no entry without a key.
    """
    for number, (key, value) in numbered_items(path):
        if not key:
            raise SettingsError(f"{path}, line {number}, has no item_id, which is the key of a catalogue entry")
        yield key, value


def numbered_log(path: Path) -> Numbered:
    """What `read_log` reads, with lines. Raises as it does."""
    return _rows_of(path) if path.suffix == ".parquet" and path.exists() else _from_ndjson(path, "user_id")


def numbered_items(path: Path) -> Numbered:
    """The lines of an NDJSON catalogue, those without an item_id too.

    Raises:
        SettingsError: the file is missing or no NDJSON.
    """
    return _from_ndjson(path, "item_id")


def _from_ndjson(path: Path, key: str) -> Numbered:
    if not path.exists():
        raise SettingsError(f"there is no file {path}")
    if path.suffix not in (".ndjson", ".jsonl", ".json"):
        raise SettingsError(f"{path} is neither .parquet (events only) nor .ndjson")
    return _lines_of(path, key)


def _lines_of(path: Path, key: str) -> Numbered:
    with path.open("rb") as file:
        yield from numbered_lines(file, key)


def lines(file: Iterable[bytes], key: str) -> Iterator[Message]:
    """(the field `key`, the line as it is) of each line that is not blank."""
    return (message for _, message in numbered_lines(file, key))


def numbered_lines(file: Iterable[bytes], key: str) -> Numbered:
    """What `lines` reads, with lines: blank ones count."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, (_key(line, key), line.rstrip(b"\r\n"))


def _rows_of(path: Path) -> Numbered:
    """Some row groups at a time."""
    log = pl.scan_parquet(path)
    for start in range(0, log.select(pl.len()).collect().item(), ROWS):
        yield from enumerate(_rows(log.slice(start, ROWS).collect()), start + 1)


def _key(line: bytes, field: str) -> bytes | None:
    """What is malformed goes to Kafka all the same, without a key, and from there to the dead letters."""
    try:
        id_ = msgspec.json.decode(line, type=dict[str, Any]).get(field)
    except msgspec.DecodeError:
        return None
    return id_.encode() if isinstance(id_, str) else None


def _rows(log: pl.DataFrame) -> Iterator[Message]:
    rows = log.rename({"ts_ms": "ts"}) if "ts_ms" in log.columns else log
    encode = msgspec.json.Encoder().encode
    for row in rows.select([name for name in EVENT_COLUMNS if name in rows.columns]).iter_rows(named=True):
        event = {name: value for name, value in row.items() if value is not None}
        yield str(event.get("user_id", "")).encode() or None, encode(event)
