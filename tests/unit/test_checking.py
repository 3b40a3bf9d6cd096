"""`freshet produce --check` and `freshet schema`: each fault by its line, as ingest would find it, without a broker."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import polars as pl
import pytest
from typer.testing import CliRunner

from core.errors import SettingsError
from streams.checking import CHUNK, Check
from streams.cli import app
from streams.contract import REJECTIONS
from streams.settings import load

GOOD = '{"type": "click", "user_id": "u1", "item_id": "v7", "ts": 1767225600000}'
FAULTS = {
    "MalformedJson": '{"type": "click", ',
    "ConfluentFraming": "\\x00\\x00\\x00\\x00\\x01rest",
    "TooLarge": '{"context": {"pad": "%s"}}' % ("x" * 2_000),
    "MissingField": '{"type": "click", "user_id": "u1", "ts": 1767225600000}',
    "WrongType": '{"type": "click", "user_id": 7, "item_id": "v7", "ts": 1767225600000}',
    "BadTimestamp": '{"type": "click", "user_id": "u1", "item_id": "v7", "ts": 1}',
    "BadValue": '{"type": "click", "user_id": "", "item_id": "v7", "ts": 1767225600000}',
    "UnknownType": '{"type": "clic", "user_id": "u1", "item_id": "v7", "ts": 1767225600000}',
}
NOT_IN_FILES = {"Tombstone", "BadCloudEvent"}  # a line has a value, and no headers
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Status and lines of standard output of a command, in a directory of its own, with no cluster anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRESHET_MAX_EVENT_BYTES", "1000")

    def call(*arguments: str, input: str | None = None) -> tuple[int, list[str]]:
        result = CliRunner().invoke(app, arguments, input=input)
        if isinstance(result.exception, SettingsError):
            raise result.exception
        return result.exit_code, result.stdout.splitlines()

    return call


def write(name: str, *lines: str) -> None:
    Path(name).write_bytes(b"\n".join(line.encode().replace(b"\\x00", b"\x00").replace(b"\\x01", b"\x01") for line in lines) + b"\n")


def test_every_kind_of_fault_is_told_by_its_line(run: Run) -> None:
    assert set(FAULTS) | NOT_IN_FILES == {rejection.__name__ for rejection in REJECTIONS}
    write("log.ndjson", GOOD, "", *FAULTS.values(), GOOD)
    status, told = run("produce", "--check", "log.ndjson")
    assert status == 1
    assert [line.split(": ")[:2] for line in told[:-1]] == [[f"log.ndjson:{3 + at}", kind] for at, kind in enumerate(FAULTS)]
    assert all(len(line.split(": ", 2)[2]) > 5 for line in told[:-1]), "each with a reason"
    assert told[-1].startswith("log.ndjson: 2 would be accepted, 8 refused (")
    assert "1 BadTimestamp" in told[-1]


def test_a_good_file_is_status_0(run: Run) -> None:
    write("log.ndjson", GOOD, GOOD)
    assert run("produce", "--check", "log.ndjson") == (0, ["log.ndjson: 2 would be accepted, 0 refused"])


def test_standard_input(run: Run) -> None:
    status, told = run("produce", "--check", "-", input=f"{GOOD}\n{{broken\n")
    assert (status, told[0].split(": ")[:2], told[-1]) == (
        1,
        ["-:2", "MalformedJson"],
        "-: 1 would be accepted, 1 refused (1 MalformedJson)",
    )


def test_rows_of_parquet(run: Run) -> None:
    rows = {"type": ["click", "clic"], "user_id": ["u", "u"], "item_id": ["v", "v"], "ts_ms": [1_767_225_600_000] * 2}
    pl.DataFrame(rows).write_parquet("log.parquet")
    status, told = run("produce", "--check", "log.parquet")
    assert status == 1
    assert told[0].startswith("log.parquet:row 2: UnknownType: ")


def test_a_catalogue(run: Run) -> None:
    write("items.ndjson", '{"item_id": "v7", "tags": ["a"]}', '{"text": "nameless"}', '{"item_id": "v8", "tags": "a"}')
    status, told = run("produce", "--check", "--items", "items.ndjson")
    assert status == 1
    assert [line.split(": ")[:2] for line in told[:-1]] == [["items.ndjson:2", "MissingField"], ["items.ndjson:3", "WrongType"]]


def test_what_is_not_shown_is_counted(run: Run) -> None:
    write("log.ndjson", *["{broken"] * (CHUNK + 10))
    status, told = run("produce", "--check", "log.ndjson", "--shown", "3")
    assert status == 1
    assert [line.partition(" ")[0] for line in told[:3]] == ["log.ndjson:1:", "log.ndjson:2:", "log.ndjson:3:"]
    assert told[3] == f"{CHUNK + 7:,} more faults are not shown; --shown {CHUNK + 10} shows all"
    assert len(told) == 5


def test_the_settings_are_those_of_ingest() -> None:
    checking = Check(load(event_types=("clic",)))
    [faults] = checking.faults([(1, (b"u", FAULTS["UnknownType"].encode())), (2, (b"u", GOOD.encode()))])
    assert [(fault.line, fault.kind) for fault in faults] == [(2, "UnknownType")]
    assert (checking.accepted, dict(checking.refused)) == (1, {"UnknownType": 1})


def test_only_what_was_read_is_held() -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield taken, (b"u", GOOD.encode())

    next(Check(load()).faults(endless()))
    assert taken == CHUNK


@pytest.mark.parametrize("arguments", [["--check"], ["--check", "--demo"], ["--check", "missing.ndjson"], ["--check", "log.csv"]])
def test_what_cannot_be_checked_is_one_sentence(run: Run, arguments: list[str]) -> None:
    Path("log.csv").write_text("a,b")
    with pytest.raises(SettingsError):
        run("produce", *arguments)


@pytest.mark.parametrize("name", ["event", "item"])
def test_the_schema_is_printed_with_the_settings_in_it(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_EVENT_TYPES", '["click", "zap"]')
    monkeypatch.setenv("FRESHET_MAX_ID_BYTES", "4")
    status, told = run("schema", name)
    schema = json.loads("\n".join(told))
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = jsonschema.Draft202012Validator(schema).is_valid
    entry = {"type": "zap", "user_id": "u1", "item_id": "v7", "ts": 1_767_225_600_000} if name == "event" else {"item_id": "v7"}
    assert status == 0
    assert valid(entry)
    assert not valid({**entry, "item_id": "longer"})
    assert name == "item" or not valid({**entry, "type": "view"})


def test_an_unknown_schema_is_named(run: Run) -> None:
    with pytest.raises(SettingsError, match=r"'user': give one of event, item"):
        run("schema", "user")
