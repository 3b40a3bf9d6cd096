"""Logs as files: their order is kept or refused, any row is a place to go on, and memory follows the batch."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from core.errors import SettingsError
from streams.logs.mapping import load_mapping
from streams.logs.parts import Part, Place, parts
from streams.logs.reader import BATCH_ROWS, Log, LogBatch, LogOrderError, MemoryLog, Span, open_log
from streams.producing import Message

FRESHET, KUAIRAND = load_mapping("freshet"), load_mapping("kuairand")


def rows(count: int, first_ms: int = 1_700_000_000_000) -> pl.DataFrame:
    """Events of our own form, a second apart."""
    at = np.arange(count)
    return pl.DataFrame(
        {
            "event_id": [f"e{n}" for n in at],
            "type": ["click"] * count,
            "user_id": [f"u{n % 7}" for n in at],
            "item_id": [f"i{n % 11}" for n in at],
            "ts": first_ms + 1_000 * at,
        }
    )


def kuairand(count: int) -> pl.DataFrame:
    """Impressions, of which every third is a click and every ninth liked too."""
    at = np.arange(count)
    flags = ("is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms")
    columns = {
        "ts_ms": 1_650_000_000_000 + at,
        "user": at % 5,
        "item": at % 3,
        "is_click": at % 3 == 0,
        "is_like": at % 9 == 0,
        "tab": at * 0,
    }
    return pl.DataFrame({**columns, **dict.fromkeys(flags, at * 0)}).with_columns(pl.col("is_click", "is_like").cast(pl.Int8))


def write(frame: pl.DataFrame, path: Path) -> Path:
    writers = {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".ndjson": frame.write_ndjson}
    if path.suffix == ".tsv":
        frame.write_csv(path, separator="\t")
    else:
        writers[path.suffix](path)
    return path


def messages(log: Log, first_row: int = 0) -> list[Message]:
    return [message for batch in log.batches(first_row) for message in batch.messages]


def ids(found: list[Message]) -> list[str]:
    return [json.loads(value or b"")["event_id"] for _, value in found]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".ndjson"])
def test_the_same_events_come_out_of_every_format(suffix: str, tmp_path: Path) -> None:
    frame = rows(30)
    log = open_log(write(frame, tmp_path / f"log{suffix}"), FRESHET)
    assert log.rows == 30
    found = [json.loads(value or b"") for _, value in messages(log)]
    assert found == [{**row, "ts": row["ts"]} for row in frame.iter_rows(named=True)]
    assert np.concatenate([batch.ts_ms for batch in log.batches()]).tolist() == frame["ts"].to_list()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson"])
def test_the_files_of_a_directory_are_one_log_in_the_order_of_their_names(suffix: str, tmp_path: Path) -> None:
    frame = rows(30)
    for name, part in (("b", frame[10:20]), ("a", frame[:10]), ("c", frame[20:])):
        write(part, tmp_path / f"{name}{suffix}")
    (tmp_path / "README").write_text("not a log")
    assert ids(messages(open_log(tmp_path, FRESHET))) == frame["event_id"].to_list()


def test_lines_of_our_own_go_out_byte_for_byte(tmp_path: Path) -> None:
    lines = [
        b'{"ts":  1700000000000, "user_id": "u1", "x": {"kept": [1, 2]}}',
        b"{broken",
        b'{"user_id": 7, "ts": "2023-11-14T22:13:21Z"}',
        b'{"user_id": "\\u00e9", "ts": 1700000002000, "value": 1e0}',
    ]
    path = tmp_path / "log.ndjson"
    path.write_bytes(b"\r\n".join(lines) + b"\n\n")
    [batch] = open_log(path, FRESHET).batches()
    assert batch.messages == list(zip([b"u1", None, None, "é".encode()], lines, strict=True))
    assert batch.ts_ms.tolist() == [1_700_000_000_000, -1, 1_700_000_001_000, 1_700_000_002_000]
    assert batch.next_row == 4


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson"])
@pytest.mark.parametrize("broken", [1, 17, BATCH_ROWS, BATCH_ROWS + 5])
def test_a_log_out_of_order_is_refused_with_the_row(suffix: str, broken: int, tmp_path: Path) -> None:
    count = max(40, broken + 20)
    frame = rows(count).with_columns(ts=pl.when(pl.int_range(count) == broken).then(pl.col("ts") - 5_000).otherwise(pl.col("ts")))
    path = write(frame, tmp_path / f"log{suffix}")
    with pytest.raises(LogOrderError, match=rf"row {broken} is of 2023-.*, the row before it of 2023-.*give --sort"):
        messages(open_log(path, FRESHET))
    found = [json.loads(value or b"")["ts"] for _, value in messages(open_log(path, FRESHET, sort=True))]
    assert found == sorted(frame["ts"].to_list())


def test_sorting_keeps_the_order_of_rows_of_one_time(tmp_path: Path) -> None:
    frame = pl.concat([rows(10), rows(10).with_columns(event_id=pl.col("event_id") + "x")])
    found = ids(messages(open_log(write(frame, tmp_path / "log.parquet"), FRESHET, sort=True)))
    assert found == [id_ for n in range(10) for id_ in (f"e{n}", f"e{n}x")]


def test_a_row_without_a_time_breaks_no_order(tmp_path: Path) -> None:
    frame = rows(6).with_columns(ts=pl.when(pl.int_range(6) == 3).then(None).otherwise(pl.col("ts")))
    batches = list(open_log(write(frame, tmp_path / "log.parquet"), FRESHET).batches())
    assert [ts for batch in batches for ts in batch.ts_ms.tolist()] == [-1 if ts is None else ts for ts in frame["ts"].to_list()]
    late = frame.with_columns(ts=pl.when(pl.int_range(6) == 4).then(1).otherwise(pl.col("ts")))
    with pytest.raises(LogOrderError, match="row 4 is of 1970"):
        messages(open_log(write(late, tmp_path / "late.parquet"), FRESHET))


SPANS = [Span(None, 5_000), Span(5_000, None), Span(3_000, 8_000), Span(100_000, None), Span(None, 0)]


@pytest.mark.parametrize("suffix", [".parquet", ".ndjson", "memory"])
@pytest.mark.parametrize("span", SPANS)
def test_from_and_to_are_a_half_open_span_of_event_time(suffix: str, span: Span, tmp_path: Path) -> None:
    frame = rows(12, first_ms=0)
    if suffix == "memory":
        found = ids(messages(MemoryLog(messages(open_log(write(frame, tmp_path / "log.ndjson"), FRESHET)), span)))
    else:
        found = ids(messages(open_log(write(frame, tmp_path / f"log{suffix}"), FRESHET, span)))
    low, high = (span.from_ms or 0), (10**12 if span.to_ms is None else span.to_ms)
    assert found == [f"e{n}" for n in range(12) if low <= 1_000 * n < high]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson", "memory", "sorted"])
def test_reading_goes_on_at_any_row(suffix: str, tmp_path: Path) -> None:
    frame = rows(40)
    if suffix == "sorted":
        log: Log = open_log(write(frame.reverse(), tmp_path / "log.parquet"), FRESHET, sort=True)
    elif suffix == "memory":
        log = MemoryLog(messages(open_log(write(frame, tmp_path / "log.ndjson"), FRESHET)))
    else:
        log = open_log(write(frame, tmp_path / f"log{suffix}"), FRESHET)
    for row in (0, 1, 17, 39, 40):
        assert ids(messages(log, row)) == frame["event_id"].to_list()[row:]


@pytest.mark.parametrize("row", [0, 1, 8, 9, 100, 199])
def test_ids_are_those_of_the_row_wherever_reading_starts(row: int, tmp_path: Path) -> None:
    """What is sent again after a kill must have the ids it had."""
    log = open_log(write(kuairand(200), tmp_path / "log.parquet"), KUAIRAND)
    whole = messages(log)
    assert len(set(ids(whole))) == len(whole) == 200 + 67 + 23
    assert messages(log, row) == [message for message in whole if int(ids([message])[0].split("-")[1]) >= row]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("log.parquet", "no parquet", "log.parquet cannot be read as parquet"),
        ("log.xml", "<a/>", r"log.xml is neither .parquet, .ndjson, .csv"),
        ("log.csv", "a,b\n1,2\n", "mapping freshet does not fit: .*the log has a, b"),
    ],
)
def test_a_file_that_is_no_log_is_named(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=told):
        open_log(tmp_path / name, FRESHET)


def test_a_fault_that_shows_only_where_it_is_read_is_named(tmp_path: Path) -> None:
    lines = [f"{at},click,u,i,{1_700_000_000_000 + at},1.5" for at in range(50_000)]
    lines[40_000] = '"open quote'
    (tmp_path / "log.csv").write_text("event_id,type,user_id,item_id,ts,value\n" + "\n".join(lines))
    with pytest.raises(SettingsError, match=r"log\.csv cannot be read as csv"):
        messages(open_log(tmp_path / "log.csv", FRESHET))


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.parquet", tmp_path):
        with pytest.raises(SettingsError, match=r"there is no log|is neither"):
            open_log(path, FRESHET)


class Cut:
    """A log of one message a row that comes in batches of these sizes, from any row."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.rows = sizes, sum(sizes)

    def batches(self, first_row: int = 0) -> Any:
        row = 0
        for size in self.sizes:
            taken = [n for n in range(row, row + size) if n >= first_row]
            row += size
            if row > first_row:
                yield LogBatch([(None, b"%d" % n) for n in taken], row, np.array(taken, dtype=np.int64))


def flat(found: list[Part]) -> list[bytes | None]:
    return [value for part in found for _, value in part.messages]


@pytest.mark.parametrize("size", [1, 3, 10, 25, 100])
@pytest.mark.parametrize("limit", [0, 1, 24, 50, 1_000])
def test_parts_are_the_log_whatever_its_batches_and_wherever_it_goes_on(size: int, limit: int) -> None:
    log = Cut([10, 0, 7, 25, 8])
    whole = list(parts(log, Place(), size, limit))
    expected = [b"%d" % n for n in range(min(limit or 50, 50))]
    assert flat(whole) == expected
    assert all(part.place.events % size == 0 for part in whole[:-1])
    assert [len(part.ts_ms) for part in whole] == [len(part.messages) for part in whole]
    for at, part in enumerate(whole):
        for other in (log, Cut([50]), Cut([1] * 50)):
            assert flat(list(parts(other, part.place, size, limit))) == flat(whole[at + 1 :])
        middle = (whole[at - 1].place if at else Place()).after(len(part.messages) // 2)
        on = list(parts(log, middle, size, limit))
        assert flat(on) == expected[middle.events :]
        assert [p.place.events for p in on] == [p.place.events for p in whole[at:]]


def test_parts_tell_how_much_of_the_log_is_behind_them(tmp_path: Path) -> None:
    log = open_log(write(kuairand(900), tmp_path / "log.parquet"), KUAIRAND)  # 1,300 events
    found = list(parts(log, Place(), 130))
    assert [part.rows for part in found] == [(90 * n, 90 * (n + 1)) for n in range(10)]
    assert found[3].row(13) == 279


LAZY = """
    import sys
    from pathlib import Path
    from streams.logs.mapping import load_mapping
    from streams.logs.reader import open_log

    def resident_mib() -> int:
        return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) >> 10

    log, most = open_log(Path(sys.argv[1]), load_mapping("taobao_cml")), 0
    before = resident_mib()
    for at, batch in enumerate(log.batches()):
        most = max(most, resident_mib() - before)
        if at == 20:
            break
    print(most)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_follows_the_batch_not_the_file(tmp_path: Path) -> None:
    """5 million rows are 1.5 GB as messages, and 350 MB as columns with their text."""
    count = 5_000_000
    at = np.arange(count)
    frame = pl.DataFrame({"user": at % 99_991, "item": at % 77_777, "ts": 1_511_539_200 + at})
    behavior = pl.Series("behavior", ["buy of something with a long name"], pl.String).new_from_index(0, count)
    path = write(frame.with_columns(behavior), tmp_path / "log.parquet")
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LAZY), str(path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert int(told.stdout) < 300
