"""Reads a logged stream in its order, a batch of rows at a time: Parquet, NDJSON or CSV, of any size.

files -> rows -> [order checked] -> events (mapping) -> messages, as a producer would send them
"""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import polars as pl

from core.errors import FreshetError, SettingsError
from streams.logs.mapping import CatalogueRule, Expander, Mapping
from streams.producing import Message, lines

BATCH_ROWS = 16_384
SUFFIXES = {".parquet": "parquet", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}


class LogOrderError(FreshetError):
    """A row of a log is older than the one before it."""


class LogBatch(NamedTuple):
    """A stretch of a log: what it makes a producer send, and where it ends."""

    messages: list[Message]
    next_row: int  # row to go on at
    ts_ms: np.ndarray  # int64 [messages], -1 where there is no time


class Log(Protocol):
    """A log that can be read from any row on."""

    rows: int  # in the whole log; about, where `from` and `to` leave some out

    def batches(self, first_row: int = 0) -> Iterator[LogBatch]:
        """From this row on.

        Raises:
            LogOrderError: a row is older than the one before it.
        """


class Span(NamedTuple):
    """Event times [from_ms, to_ms); None: open."""

    from_ms: int | None = None
    to_ms: int | None = None


EVERYTHING = Span()


class _Event(msgspec.Struct, omit_defaults=True):
    """The producer's JSON of one event; what is null is left out."""

    event_id: str | None
    type: str | None
    user_id: str | None
    item_id: str | None
    ts: int | None
    value: float | None = None
    request_id: str | None = None
    context: msgspec.Raw | None = None


COLUMNS = ("event_id", "type", "user_id", "item_id", "ts_ms", "value", "request_id", "context")
_encode = msgspec.json.Encoder().encode


def messages(events: pl.DataFrame) -> list[Message]:
    """(key = user_id, JSON) of each event."""
    columns = [events[name].to_list() for name in COLUMNS[:-1]]
    contexts = [None if text is None else msgspec.Raw(text.encode()) for text in events["context"].to_list()]
    keys = [None if user is None else user.encode() for user in columns[2]]
    return list(zip(keys, (_encode(_Event(*row)) for row in zip(*columns, contexts, strict=True)), strict=True))


class TableLog:
    """Rows of Parquet, NDJSON or CSV files, read lazily: memory follows the batch, not the file (but where `sort` is asked for)."""

    def __init__(self, path: Path, mapping: Mapping, span: Span = EVERYTHING, sort: bool = False) -> None:
        """`path`: a file, or a directory whose files are one log in the order of their names.

        Raises:
            SettingsError: there is no such file, it cannot be read, or the mapping does not fit it.
        """
        self._path, self._mapping, self._span = path, mapping, span
        frame = scan(path, mapping)
        try:
            schema = dict(frame.collect_schema())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SettingsError(f"{path} cannot be read as {_format(path, mapping)}: {error}") from error
        self._expander = Expander(_own_time(mapping, schema), schema)
        self.rows = int(frame.select(pl.len()).collect().item())
        ordered = frame.sort(self._expander.ts_ms, maintain_order=True, nulls_last=True) if sort else frame
        self._frame = ordered.with_row_index("row")

    def batches(self, first_row: int = 0) -> Iterator[LogBatch]:
        last_ms = np.iinfo(np.int64).min
        for numbered in self._read(first_row):
            rows = numbered.with_columns(pl.col("row").cast(pl.Int64))
            last_ms = self._check(rows, last_ms)
            events = within(self._expander.expand(rows), self._span)
            yield LogBatch(messages(events), int(rows["row"][-1]) + 1, events["ts_ms"].fill_null(-1).to_numpy())
            if self._span.to_ms is not None and last_ms >= self._span.to_ms:
                return

    def _read(self, first_row: int) -> Iterator[pl.DataFrame]:
        """Numbered rows; some faults of a file show only where it is read."""
        try:
            for rows in self._frame.slice(first_row).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
                if not rows.is_empty():
                    yield rows
        except pl.exceptions.PolarsError as error:
            raise SettingsError(f"{self._path} cannot be read as {_format(self._path, self._mapping)}: {error}") from error

    def _check(self, rows: pl.DataFrame, last_ms: int) -> int:
        """The time of the last row."""
        told = rows.select(self._expander.ts_ms).to_series()
        known = told.is_not_null().to_numpy()
        times = np.concatenate([[last_ms], told.drop_nulls().to_numpy()])
        broken = np.flatnonzero(times[1:] < times[:-1])
        if broken.size:
            row = int(rows["row"].to_numpy()[known][broken[0]])
            raise _disorder(self._path, row, times[broken[0] + 1], times[broken[0]])
        return int(times[-1])


def _disorder(path: Path, row: int, ts_ms: int, before_ms: int) -> LogOrderError:
    return LogOrderError(
        f"{path}: row {row} is of {_told(ts_ms)}, the row before it of {_told(before_ms)}; a log must be in order of time: "
        "give --sort to have it sorted (in memory), or sort the file"
    )


def _told(ts_ms: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(int(ts_ms) / 1000, datetime.UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # a log may hold any number
        return f"{ts_ms} ms"


def within(events: pl.DataFrame, span: Span) -> pl.DataFrame:
    """Events inside the span; those without a time stay, or nobody would count them."""
    kept = pl.lit(True)
    if span.from_ms is not None:
        kept &= pl.col("ts_ms").is_null() | (pl.col("ts_ms") >= span.from_ms)
    if span.to_ms is not None:
        kept &= pl.col("ts_ms").is_null() | (pl.col("ts_ms") < span.to_ms)
    return events if span == EVERYTHING else events.filter(kept)


def _own_time(mapping: Mapping, schema: dict[str, pl.DataType]) -> Mapping:
    """Our own logs may lack optional columns, or call the time `ts_ms`."""
    if mapping.name != "freshet":
        return mapping
    [rule] = mapping.events
    kept = {name: value for name in ("value", "event_id", "request_id") if (value := getattr(rule, name)) in schema}
    ts, context = ("ts_ms" if "ts_ms" in schema else mapping.ts), (mapping.context if "context" in schema else None)
    event = msgspec.structs.replace(rule, **{**dict.fromkeys(("value", "event_id", "request_id")), **kept})
    return msgspec.structs.replace(mapping, ts=ts, context=context, events=(event,))


class LineLog:
    """NDJSON of our own events: each line goes out as it is, byte for byte, what is malformed included."""

    def __init__(self, path: Path, span: Span = EVERYTHING) -> None:
        self._path, self._span = path, span
        with path.open("rb") as file:
            self.rows = sum(1 for line in file if line.strip())

    def batches(self, first_row: int = 0) -> Iterator[LogBatch]:
        last_ms, found, times = -1, list[Message](), list[int]()
        with self._path.open("rb") as file:
            for row, message in enumerate(lines(file, "user_id")):
                if row < first_row:
                    continue
                ts_ms = time_of(message[1])
                if 0 <= ts_ms < last_ms:
                    raise _disorder(self._path, row, ts_ms, last_ms)
                last_ms = max(last_ms, ts_ms)
                if ts_ms < 0 or _inside(ts_ms, self._span):
                    found.append(message)
                    times.append(ts_ms)
                if len(found) == BATCH_ROWS:
                    yield LogBatch(found, row + 1, np.array(times, dtype=np.int64))
                    found, times = [], []
        if found:
            yield LogBatch(found, self.rows, np.array(times, dtype=np.int64))


def _inside(ts_ms: int, span: Span) -> bool:
    return (span.from_ms is None or ts_ms >= span.from_ms) and (span.to_ms is None or ts_ms < span.to_ms)


def time_of(value: bytes | None) -> int:
    """Event time of a plain event, ms; -1 where it cannot be read."""
    try:
        ts = msgspec.json.decode(value or b"", type=_Timed).ts
        return ts if isinstance(ts, int) else round(ts.timestamp() * 1000)
    except msgspec.MsgspecError:
        return -1


class _Timed(msgspec.Struct):
    ts: int | datetime.datetime


class MemoryLog:
    """Messages that are there already, such as the bundled log's."""

    def __init__(self, found: list[Message], span: Span = EVERYTHING) -> None:
        times = [time_of(value) for _, value in found]
        kept = [at for at, ts_ms in enumerate(times) if ts_ms < 0 or _inside(ts_ms, span)]
        self._messages, self._times = [found[at] for at in kept], np.array([times[at] for at in kept], dtype=np.int64)
        self.rows = len(kept)

    def batches(self, first_row: int = 0) -> Iterator[LogBatch]:
        for at in range(first_row, self.rows, BATCH_ROWS):
            stop = min(at + BATCH_ROWS, self.rows)
            yield LogBatch(self._messages[at:stop], stop, self._times[at:stop])


def open_log(path: Path, mapping: Mapping, span: Span = EVERYTHING, sort: bool = False) -> Log:
    """The log in a file or a directory of files.

    Raises:
        SettingsError: it is not there, or cannot be read with this mapping.
    """
    if mapping.name == "freshet" and _format(path, mapping) == "ndjson" and not sort and path.is_file():
        return LineLog(path, span)
    return TableLog(path, mapping, span, sort)


def scan(path: Path, mapping: Mapping) -> pl.LazyFrame:
    """The rows of a log's files."""
    files = files_of(path)
    kind = _format(files[0], mapping)
    if kind == "parquet":
        return pl.scan_parquet(files, glob=False)
    if kind == "ndjson":
        return pl.scan_ndjson(files)
    names = list(mapping.read.columns)
    separator = "\t" if files[0].suffix == ".tsv" and mapping.read.separator == "," else mapping.read.separator
    return pl.scan_csv(files, separator=separator, has_header=not names, new_columns=names or None, glob=False)


def files_of(path: Path) -> list[Path]:
    """The file, or those of a directory, in the order of their names.

    Raises:
        SettingsError: there is none.
    """
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or not all(file.exists() for file in files):
        raise SettingsError(f"there is no log {path}")
    return files


def _format(path: Path, mapping: Mapping) -> str:
    found = mapping.read.format or SUFFIXES.get(path.suffix)
    if found is None and path.is_dir():
        found = next((SUFFIXES[file.suffix] for file in sorted(path.iterdir()) if file.suffix in SUFFIXES), None)
    if found is None:
        raise SettingsError(f"{path} is neither .parquet, .ndjson, .csv, .tsv nor .txt; a mapping can say `format` under [read]")
    return found


def read_catalogue(path: Path, mapping: Mapping) -> list[Message]:
    """(key = item_id, JSON) of each catalogue entry: of NDJSON lines in our own form as they are, else by the mapping's [catalogue].

    Raises:
        SettingsError: the file is not there, or the mapping has no [catalogue], or it does not fit.
    """
    if not path.exists():
        raise SettingsError(f"there is no catalogue {path}")
    if SUFFIXES.get(path.suffix) == "ndjson" and mapping.catalogue is None:
        with path.open("rb") as file:
            return list(lines(file, "item_id"))
    if mapping.catalogue is None:
        raise SettingsError(f"mapping {mapping.name} has no [catalogue], so --catalogue must be NDJSON entries, not {path}")
    whole = msgspec.structs.replace(mapping, read=msgspec.structs.replace(mapping.read, format=None, columns=()))
    return _entries(scan(path, whole).collect(), mapping, mapping.catalogue)


def _entries(rows: pl.DataFrame, mapping: Mapping, rule: CatalogueRule) -> list[Message]:
    names = ("text", "author", "categories", "tags", "start", "end")
    texts = {name: text for name in names if (text := getattr(rule, name)) is not None}
    try:
        fields = {name: _expression(rows, text) for name, text in {"item_id": rule.item, **texts}.items()}
        numbers = {name: _expression(rows, text).cast(pl.Float64, strict=False) for name, text in rule.numbers.items()}
        frame = rows.select(**fields, **{f"number:{name}": value for name, value in numbers.items()})
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError(f"[catalogue] of mapping {mapping.name} does not fit: {reason}; it has {', '.join(rows.columns)}") from error
    return [_entry(row, mapping, rule) for row in frame.iter_rows(named=True)]


def _expression(rows: pl.DataFrame, text: str) -> pl.Expr:
    return pl.col(text) if text in rows.columns else pl.sql_expr(text)


def _entry(row: dict[str, Any], mapping: Mapping, rule: CatalogueRule) -> Message:
    entry: dict[str, Any] = {"item_id": f"{mapping.item_prefix}{row['item_id']}"}
    for name in ("text", "start", "end"):
        if row.get(name) is not None:
            entry[name] = row[name]
    if row.get("author") is not None:
        entry["author"] = f"{rule.author_prefix}{row['author']}"
    for name in ("categories", "tags"):
        if row.get(name) is not None:
            entry[name] = [word for word in str(row[name]).split(rule.list_separator) if word]
    numbers = {name.removeprefix("number:"): value for name, value in row.items() if name.startswith("number:") and value is not None}
    return entry["item_id"].encode(), _encode(entry | ({"numbers": numbers} if numbers else {}))
