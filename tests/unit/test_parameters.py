"""Publications as records of `parameters` and back, in parts and with parts missing."""

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from core.errors import FreshetError
from core.stage import Publication
from streams import parameters
from streams.parameters import Assembler, to_records
from streams.writer import Headers


def publication(version: int, rows: int = 3) -> Publication:
    table = pl.DataFrame(
        {"id": [f"u{i}" for i in range(rows)], "version": [version] * rows, "vector": [bytes([i % 256]) * 8 for i in range(rows)]}
    )
    return Publication({"users": table, "empty": table.clear()}, version, 77, np.array([5, -1, 2**60], dtype=np.int64), 40)


def same(found: Publication, expected: Publication) -> bool:
    assert list(found.tables) == list(expected.tables)
    for name in expected.tables:
        assert_frame_equal(found.tables[name], expected.tables[name], check_exact=True)
    sent_ms = found.sent_ms.tolist(), expected.sent_ms.tolist()
    return (found.version, found.clock_ms, found.learned, sent_ms[0]) == (expected.version, expected.clock_ms, expected.learned, sent_ms[1])


def collected(records: list[tuple[bytes, Headers]]) -> list[tuple[str, int]]:
    """(writer, version) of what a reader sees."""
    assembler = Assembler()
    found = [assembler.add(value, headers) for value, headers in records]
    return [(whole[0].writer, whole[1].version) for whole in found if whole is not None]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "PART_BYTES", 200)


def test_one_record_and_back() -> None:
    [(value, headers)] = to_records(publication(4), "learner/0", "id")
    whole = Assembler().add(value, headers)
    assert whole is not None
    part, found = whole
    assert (part.writer, part.lineage, part.version, part.index, part.parts) == ("learner/0", "id", 4, 0, 1)
    assert same(found, publication(4))


@pytest.mark.usefixtures("small_parts")
def test_parts_become_visible_with_the_last() -> None:
    records = to_records(publication(4, rows=500), "learner/0", "id")
    assert len(records) > 3
    assert max(len(value) for value, _ in records) == 200
    assembler = Assembler()
    found = [assembler.add(value, headers) for value, headers in records]
    assert found[:-1] == [None] * (len(records) - 1)
    assert found[-1] is not None
    assert same(found[-1][1], publication(4, rows=500))


@pytest.mark.usefixtures("small_parts")
def test_writers_take_turns() -> None:
    first, second = to_records(publication(1, 300), "features/0", "a"), to_records(publication(2, 300), "features/1", "a")
    mixed = [record for pair in zip(first, second, strict=False) for record in pair]
    assert sorted(collected(mixed)) == [("features/0", 1), ("features/1", 2)]


@pytest.mark.usefixtures("small_parts")
def test_a_writer_and_its_predecessor_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that was suspended past its session still sends when its successor does."""
    monkeypatch.setattr(parameters, "PROCESS", "predecessor")
    before = to_records(publication(1, 300), "learner/0", "a")
    monkeypatch.setattr(parameters, "PROCESS", "successor")
    after = to_records(publication(2, 300), "learner/0", "a")
    mixed = [record for pair in zip(before, after, strict=False) for record in pair]
    assert sorted(collected(mixed)) == [("learner/0", 1), ("learner/0", 2)]


@pytest.mark.usefixtures("small_parts")
def test_what_was_cut_off_is_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "MAX_OPEN", 2)
    cut = [to_records(publication(1, 300), f"w{i}", "a") for i in range(3)]
    assembler = Assembler()
    for records in cut:
        assembler.add(*records[0])
    rest = [assembler.add(*record) for records in cut for record in records[1:]]
    assert [whole[0].writer for whole in rest if whole] == ["w1", "w2"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_one_that_a_crash_cut_off_gives_way_to_the_next(kept: int) -> None:
    cut, following = to_records(publication(1, 300), "w", "a")[:kept], to_records(publication(2, 300), "w", "a")
    assert collected([*cut, *following]) == [("w", 2)]


@pytest.mark.usefixtures("small_parts")
def test_one_whose_first_parts_retention_took_is_passed_over() -> None:
    cut, following = to_records(publication(1, 300), "w", "a"), to_records(publication(2, 300), "w", "a")
    assert collected([*cut[1:], *following]) == [("w", 2)]
    assert collected(cut[1:]) == []


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_is_missing_spoils_only_its_own() -> None:
    torn, following = to_records(publication(1, 300), "w", "a"), to_records(publication(2, 300), "w", "a")
    assert collected([*torn[:1], *torn[2:], *following]) == [("w", 2)]


@pytest.mark.usefixtures("small_parts")
def test_a_part_sent_twice_counts_once() -> None:
    records = to_records(publication(1, 300), "w", "a")
    assert collected([*records[:2], *records[1:]]) == [("w", 1)]


def test_bytes_that_cannot_be_read_are_refused() -> None:
    [(value, headers)] = to_records(publication(4), "w", "a")
    with pytest.raises(FreshetError, match="cannot be read"):
        Assembler().add(value[:-1], headers)
    with pytest.raises(FreshetError, match="cannot be read"):
        Assembler().add(value, [(parameters.HEADER, b"[]")])


def test_records_of_others_are_refused() -> None:
    for headers in ([], [("other", b"{}")], [(parameters.HEADER, None)]):
        with pytest.raises(FreshetError, match="another program writes there"):
            Assembler().add(b"x", headers)


def test_bodies_hold_no_python(tmp_path: Path) -> None:
    """Any client that reads msgpack and Arrow can follow `parameters`."""
    [(value, _)] = to_records(publication(4), "learner/0", "id")
    body = msgspec.msgpack.decode(value)
    assert body.keys() == {"version", "clock_ms", "tables", "sent_ms", "learned"}
    assert np.frombuffer(body["sent_ms"], "<i8").tolist() == [5, -1, 2**60]
