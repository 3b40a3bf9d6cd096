"""A recording on disk: Kafka's records as they were, in Parquet, by topic, partition and event hour.

    OUT/<topic>/partition=<p>/hour=<event hour, UTC>/<first offset>-<last offset>.parquet
    OUT/<topic>/partition=<p>/position.json      which of these files count

A round covers a stretch of offsets with a file per hour. Files are written under a temporary name, synced and renamed; then, in the same
way, the position. It is the one point at which a round begins to count: files at or above it are what a crash left. Readers pass them
over and the next start removes them, so that no record is lost or there twice, whenever the recorder died.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import polars as pl

from core.errors import FreshetError, SettingsError
from core.position import Upstream
from streams.checkpoints import sync
from streams.decode import RawMessage

FORMAT = 1
POSITION = "position.json"
TEMPORARY = ".tmp"
OTHER_HOURS = "various"  # in place of the hour, of a round with too many of them
LAST_MS = 253_402_300_799_999  # of the year 9999: what a date can hold

MESSAGES = pl.Schema(
    {
        "offset": pl.Int64(),
        "timestamp_ms": pl.Int64(),  # Kafka's
        "key": pl.Binary(),
        "value": pl.Binary(),
        "headers": pl.List(pl.Struct({"name": pl.String(), "value": pl.Binary()})),
    }
)


class Position(msgspec.Struct, frozen=True):
    """What of a topic partition is recorded: offsets [first_offset, next_offset), of which `records` held a record."""

    upstream: Upstream
    first_offset: int
    next_offset: int
    records: int = 0
    format: int = FORMAT


class RecordedPartition:
    """One topic partition of a recording. It knows nothing that is not on disk, so others may read while a recorder writes."""

    def __init__(self, root: Path, topic: str, partition: int) -> None:
        self.directory = root / topic / f"partition={partition}"
        self._path = self.directory / POSITION

    def position(self) -> Position | None:
        """Where it stands; None where nothing was ever begun here.

        Raises:
            SettingsError: there are files, but no position that this version can read.
        """
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Position)
        except FileNotFoundError:
            if any(self.directory.glob("hour=*/*.parquet")):
                raise SettingsError(f"{self._path} is missing, so nothing says which files count; record into a new folder") from None
            return None
        except msgspec.DecodeError as error:
            raise SettingsError(f"{self._path} cannot be read ({error}); record into a new folder") from error
        if found.format != FORMAT:
            raise SettingsError(f"{self._path} has format {found.format}, this version reads {FORMAT}; record into a new folder")
        return found

    def begun(self) -> Position:
        """As `position`, of a recording that must be there.

        Raises:
            SettingsError: it is not.
        """
        position = self.position()
        if position is None:
            raise SettingsError(f"{self.directory} holds no recording; name the folder that was given to `freshet record`")
        return position

    def begin(self, upstream: Upstream, first_offset: int) -> Position:
        """An empty recording that starts at this offset."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for directory in (self.directory.parent, self.directory.parent.parent):
            sync(directory)
        return self._set(Position(upstream, first_offset, first_offset))

    def sweep(self) -> None:
        """Remove what a crash left: temporary files, and files of a round that does not count."""
        position = self.begun()
        for path in self.directory.rglob(f"*{TEMPORARY}"):
            path.unlink()
        for path in self.directory.glob("hour=*/*.parquet"):
            if _offsets(path)[0] >= position.next_offset:
                path.unlink()

    def append(self, by_hour: Mapping[str, Sequence[RawMessage]], next_offset: int) -> Position:
        """Write a round: what [position, next_offset) of the partition held, in order of offset within each hour."""
        position = self.begun()
        written = [self._write(hour, messages, position.upstream) for hour, messages in sorted(by_hour.items())]
        for path in written:
            path.rename(path.with_suffix(""))
        for directory in {path.parent for path in written}:
            sync(directory)
        sync(self.directory)
        records = position.records + sum(map(len, by_hour.values()))
        return self._set(Position(position.upstream, position.first_offset, next_offset, records))

    def _write(self, hour: str, messages: Sequence[RawMessage], upstream: Upstream) -> Path:
        directory = self.directory / f"hour={hour}"
        directory.mkdir(exist_ok=True)
        path = directory / f"{messages[0].offset:020d}-{messages[-1].offset:020d}.parquet{TEMPORARY}"
        about = {"freshet": msgspec.json.encode(upstream).decode()}
        pl.DataFrame(list(map(_row, messages)), schema=MESSAGES, orient="row").write_parquet(path, metadata=about)
        sync(path)
        return path

    def _set(self, position: Position) -> Position:
        temporary = self._path.with_name(POSITION + TEMPORARY)
        temporary.write_bytes(msgspec.json.encode(position))
        sync(temporary)
        temporary.rename(self._path)
        sync(self.directory)
        return position

    def messages(self) -> Iterator[RawMessage]:
        """Every record, in order of offset; a round is in memory at a time.

        Raises:
            SettingsError: nothing was recorded here.
            FreshetError: a file cannot be read, or files are missing.
        """
        position, found = self.begun(), 0
        paths = [path for path in self.directory.glob("hour=*/*.parquet") if _offsets(path)[0] < position.next_offset]
        for together in _overlapping(sorted(paths, key=_offsets)):
            rows = _read(together)
            found += rows.height
            for offset, timestamp_ms, key, value, headers in rows.iter_rows():
                yield RawMessage(key, value, tuple((h["name"], h["value"]) for h in headers), timestamp_ms, offset)
        if found != position.records:
            raise FreshetError(f"{self.directory} holds {found:,} records of {position.records:,}: files were removed or added by hand")


def partitions(root: Path, topic: str) -> list[int]:
    """The partitions of a topic that a recording holds."""
    names = (path.parent.name for path in (root / topic).glob(f"partition=*/{POSITION}"))
    return sorted(int(name.partition("=")[2]) for name in names)


def hour_of(ms: int) -> str:
    """The folder of a time, such as 2017-10-02T08 (UTC). Times that no date can hold count as the first or the last."""
    seconds = min(max(ms, 0), LAST_MS) // 1000
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H")


def _row(message: RawMessage) -> tuple[object, ...]:
    headers = [{"name": name, "value": value} for name, value in message.headers]
    return message.offset, message.timestamp_ms, message.key, message.value, headers


def _offsets(path: Path) -> tuple[int, int]:
    first, _, last = path.name.partition(".")[0].partition("-")
    return int(first), int(last)


def _overlapping(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Runs of files whose offsets interleave; such files are of one round. `paths` in order of their first offset."""
    run: list[Path] = []
    end = -1
    for path in paths:
        first, last = _offsets(path)
        if run and first > end:
            yield run
            run = []
        run.append(path)
        end = max(end, last)
    if run:
        yield run


def _read(paths: Sequence[Path]) -> pl.DataFrame:
    try:
        return pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in paths]).sort("offset")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FreshetError(f"{', '.join(map(str, paths))} cannot be read: {error}") from error
