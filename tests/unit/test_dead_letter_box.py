"""Dead letters without a broker: which are chosen, what counts as sent, what a terminal is shown."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from core.errors import SendError, SettingsError
from streams import dead_letter_box, dead_letters
from streams.cli import dlt
from streams.dead_letter_box import FOREIGN, MARK, Choice, Letter, Mark, Places
from streams.decode import DeadLetter, RawMessage


def record(headers: list[tuple[str, bytes | None]], value: bytes | None = b"value") -> Any:
    """A record as the client gives it."""
    return SimpleNamespace(key=b"key", value=value, headers=headers, timestamp=5, offset=9)


def buried(headers: list[tuple[str, bytes | None]], topic: str = "events", partition: int = 1, offset: int = 17) -> Any:
    """A message with these headers, as ingest writes it to the dead letters."""
    letter = DeadLetter(RawMessage(b"key", b"value", headers, 5, offset), "item_id is missing", "MissingField")
    return record(dead_letters.headers(letter, topic, partition, "ingest"))


def letter(headers: list[tuple[str, bytes | None]] | None = None, **where: Any) -> Letter:
    found = dead_letter_box.letter_of(buried(headers or [], **where), "events")
    assert found is not None
    return found


def test_places_are_a_set() -> None:
    chance, places, twin = random.Random(3), Places(), set[tuple[int, int]]()
    for _ in range(5_000):
        place = (chance.randrange(3), chance.choice((0, 511, 512, 1 << 40)) + chance.randrange(700))
        assert places.add(*place) == (place not in twin)
        twin.add(place)
    asked = [(p, start + n) for p in range(4) for start in (0, 511, 1 << 40) for n in range(-2, 1_300)]
    assert [place in places for place in asked] == [place in twin for place in asked]


def test_a_letter_has_the_producers_bytes_and_headers() -> None:
    own: list[tuple[str, bytes | None]] = [("trace", b"\xff"), ("trace", None), ("__connect.errors.topic", b"before")]
    found = letter(own)
    assert found.message == RawMessage(b"key", b"value", own, 5, 9)
    assert (found.reason, found.kind, found.error) == ("missing_field", "MissingField", "item_id is missing")


def test_what_is_no_letter_of_this_topic_is_foreign() -> None:
    for odd in (record([("a", b"b")]), buried([], topic="other")):
        found = dead_letter_box.letter_of(odd, "events")
        assert found is not None
        assert (found.context, found.reason, found.message.headers) == (None, FOREIGN, odd.headers)


def test_a_mark_is_no_letter_and_a_letter_no_mark() -> None:
    """Whatever headers a producer sends."""
    mark = Mark(((0, 3), (1, 4)), sent=False, ends=(9, 9))
    own = record([(MARK, b"1")], msgspec.json.encode(mark))
    assert dead_letter_box.letter_of(own, "events") is None
    assert dead_letter_box.mark_of(own) == mark
    odd = buried([(MARK, b"1")])
    assert dead_letter_box.mark_of(odd) is None
    assert letter([(MARK, b"1")]).message.headers == [(MARK, b"1")]


@pytest.mark.parametrize(
    ("choice", "takes"),
    [
        (Choice(), True),
        (Choice("missing_field"), True),
        (Choice("MissingField"), True),
        (Choice("malformed_json"), False),
        (Choice(FOREIGN), False),
        (Choice(partition=1), True),
        (Choice(partition=0), False),
        (Choice(offset=17), True),
        (Choice("missing_field", 1, 16), False),
        (Choice("missing_field", 1, 17), True),
    ],
)
def test_choice(choice: Choice, takes: bool) -> None:
    assert choice.takes(letter()) is takes


def test_a_foreign_record_is_chosen_by_its_reason_alone() -> None:
    found = dead_letter_box.letter_of(record([]), "events")
    assert found is not None
    assert all(choice.takes(found) for choice in (Choice(), Choice(FOREIGN)))
    assert not any(choice.takes(found) for choice in (Choice(partition=0), Choice(offset=9)))


def test_a_reason_that_no_letter_can_have_is_refused() -> None:
    assert dead_letter_box.checked(Choice("too_large", 0)) == Choice("too_large", 0)
    with pytest.raises(SettingsError, match=r"--reason to_large: .*too_large"):
        dead_letter_box.checked(Choice("to_large"))


def test_a_send_that_is_never_acknowledged_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the wait for it nor the end of its producer goes on for ever."""
    monkeypatch.setattr(dead_letter_box, "SEND_SECONDS", 0.1)
    monkeypatch.setattr(dead_letter_box, "STOP_SECONDS", 0.1)

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    async def go() -> None:
        await dead_letter_box._stopped(SimpleNamespace(stop=never))
        with pytest.raises(SendError, match="start the replay again"):
            await dead_letter_box._acknowledged([asyncio.ensure_future(never())])

    asyncio.run(asyncio.wait_for(go(), 10))


def test_marks_that_have_no_second_stay_open() -> None:
    marks = dead_letter_box._Marks()
    marks.take(Mark(((0, 1), (0, 2)), sent=False, ends=(5,)), 100)
    marks.take(Mark(((0, 3),), sent=False, ends=(6,)), 200)
    marks.take(Mark(((0, 1), (0, 2)), sent=True), 300)
    assert marks.open == {(0, 3): (6,)}
    assert marks.open_ms == 300
    assert [(0, n) in marks.sent for n in range(5)] == [False, True, True, False, False]
    marks.take(Mark(((0, 3),), sent=True), 400)
    assert (marks.open, marks.open_ms) == ({}, 0)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (None, "(null)"),
        (b"", ""),
        ("dünn".encode(), "dünn"),
        (b"\x1b[2J\r\n\x00", r"\x1b[2J\r\n\x00"),
        (b"\xff\xfea", r"\xff\xfea"),
        ("\u202e\u2028".encode(), r"\u202e\u2028"),  # turns a line round; ends one
        (b"x" * 2_003, "x" * 2_000 + "... and 3 bytes more"),
    ],
)
def test_a_terminal_is_shown_what_can_be_printed(raw: bytes | None, shown: str) -> None:
    assert dlt._safe(raw) == shown
