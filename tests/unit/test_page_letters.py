"""Dead letters on the live page: what is read of them, what is counted, and sending them back."""

import asyncio
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from core.errors import FreshetError, SettingsError
from streams import dead_letter_box
from streams.contract import MalformedJson, UnknownType
from streams.dead_letter_box import MARK, Choice, Mark, Sent
from streams.dead_letters import DeadLetter, headers
from streams.decode import RawMessage
from streams.page import letters as letters_module
from streams.page.app import create_page
from streams.page.letters import KEPT, SHOWN, TAIL, Box, Letters, Replay
from streams.settings import Settings, load
from tests.asking import NOBODY, ask


def record(offset: int, value: bytes, error: type = MalformedJson, of: str = "events", at: int | None = None, **more: Any) -> Any:
    """A record of a dead-letter topic; `at`: where its message was."""
    message = RawMessage(b"u1", value, (), 1_000 + offset, offset if at is None else at)
    letter = DeadLetter(message=message, exception=error.__name__, reason="not JSON: <b>bold</b>")
    block = headers(letter, of, 0, "ingest")
    return SimpleNamespace(offset=offset, key=b"u1", value=value, headers=block, timestamp=1_000 + offset, **more)


def mark(offset: int, *places: tuple[int, int], sent: bool = True) -> Any:
    value = f'{{"letters": {json.dumps(places)}, "sent": {json.dumps(sent)}}}'.encode()
    return SimpleNamespace(offset=offset, key=None, value=value, headers=[(MARK, b"1")], timestamp=2_000)


def groups(box: Box) -> list[Any]:
    return list(box.groups())


def test_letters_are_grouped_with_the_newest_first_and_values_cut() -> None:
    box = Box("events")
    for offset in range(SHOWN + 2):
        box.take(record(offset, b"\x00<script>" + b"x" * 5_000))
    box.take(record(50, b"{}", UnknownType))
    one, other = groups(box)
    assert (one["reason"], one["kind"], one["letters"], one["last_ms"]) == ("malformed_json", "MalformedJson", SHOWN + 2, 1_000 + SHOWN + 1)
    assert [letter["offset"] for letter in one["newest"]] == [6, 5, 4, 3, 2]
    assert one["newest"][0]["value"].startswith("\\x00<script>x")
    assert len(one["newest"][0]["value"]) < 1_100
    assert (other["reason"], other["letters"]) == ("unknown_type", 1)


def test_what_was_written_twice_is_one_and_what_was_sent_back_is_marked() -> None:
    box = Box("events")
    for offset, at in ((0, 10), (1, 10), (2, 11)):
        box.take(record(offset, b"{", at=at))
    box.take(mark(3, (0, 10), sent=False))
    assert groups(box)[0]["sent_back"] == 0
    box.take(mark(4, (0, 10)))
    [group] = groups(box)
    assert (group["letters"], group["sent_back"]) == (2, 1)
    assert [(letter["offset"], letter["sent_back"]) for letter in group["newest"]] == [(11, False), (10, True)]


def test_letters_of_another_topic_are_not_ours() -> None:
    box = Box("events")
    box.take(record(0, b"{", of="elsewhere"))
    box.take(SimpleNamespace(offset=1, key=None, value=b"x", headers=[], timestamp=1))
    box.take(SimpleNamespace(offset=2, key=None, value=b"no mark", headers=[(MARK, b"1")], timestamp=1))
    assert groups(box) == []


def test_what_is_counted_is_bounded() -> None:
    box = Box("events")
    for offset in range(KEPT + 5):
        box.take(record(offset, b"{"))
    assert (groups(box)[0]["letters"], box.whole) == (KEPT, False)


class FakeReader:
    """A dead-letter topic with one partition, read through `stretch`."""

    def __init__(self, records: list[Any], first: int = 0) -> None:
        self.records, self.first = records, first
        self.read: list[tuple[int, int]] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def unsubscribe(self) -> None: ...

    async def beginning_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(tps, self.first)

    async def end_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return {tp: len(self.records) if tp.topic == "events-dlt" else 0 for tp in tps}

    async def stretch(self, reader: object, tp: object, start: int, stop: int) -> Any:
        self.read.append((start, stop))
        for found in self.records[start:stop]:
            yield found


@pytest.fixture
def s(tmp_path: Path) -> Settings:
    return load(bootstrap_servers=NOBODY, data_dir=tmp_path)


def followed(s: Settings, reader: FakeReader, monkeypatch: pytest.MonkeyPatch) -> Letters:
    monkeypatch.setattr(letters_module, "consumer", lambda s: reader)
    monkeypatch.setattr(letters_module, "stretch", reader.stretch)
    monkeypatch.setattr(letters_module, "FRESH_SECONDS", -1.0)
    letters = Letters(s)
    monkeypatch.setattr(letters, "_partitions", lambda topic: [SimpleNamespace(topic=topic, partition=0)])
    return letters


def test_only_the_tail_is_read_and_then_what_is_new(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FakeReader([record(offset, b"{") for offset in range(TAIL + 500)])

    async def run() -> list[dict[str, Any]]:
        letters = followed(s, reader, monkeypatch)
        answers = [await letters.answer() for _ in range(2)]
        reader.records.append(record(len(reader.records), b"{"))
        return [*answers, await letters.answer()]

    answers: list[Any] = asyncio.run(run())
    assert [answer["groups"][0]["letters"] for answer in answers] == [TAIL, TAIL, TAIL + 1]
    assert reader.read == [(500, TAIL + 500), (TAIL + 500, TAIL + 501)]
    assert [(answer["whole"], answer["read_all"]) for answer in answers] == [(False, True)] * 3


def test_a_look_that_costs_too_much_goes_on_with_the_next(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters_module, "LOOK_BYTES", 25)
    reader = FakeReader([record(offset, b"x" * 10) for offset in range(5)])

    async def run() -> list[Any]:
        letters = followed(s, reader, monkeypatch)
        return [await letters.answer() for _ in range(2)]

    first, second = asyncio.run(run())
    assert (first["groups"][0]["letters"], first["read_all"]) == (3, False)
    assert (second["groups"][0]["letters"], second["read_all"], second["whole"]) == (5, True, True)


def test_a_topic_that_was_made_anew_is_read_again(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FakeReader([record(offset, b"{") for offset in range(3)])

    async def run() -> Any:
        letters = followed(s, reader, monkeypatch)
        await letters.answer()
        reader.records = reader.records[:1]
        with pytest.raises(FreshetError, match="made anew"):
            await letters.answer()
        return await letters.answer()

    assert asyncio.run(run())["groups"][0]["letters"] == 1


def test_many_who_look_cost_one_look(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FakeReader([record(0, b"{")])

    async def run() -> None:
        letters = followed(s, reader, monkeypatch)
        monkeypatch.setattr(letters_module, "FRESH_SECONDS", 60.0)
        await asyncio.gather(*(letters.answer() for _ in range(5)))

    asyncio.run(run())
    assert reader.read == [(0, 1)]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"topic": "parameters", "reason": "malformed_json"}, "topic 'parameters'"),
        ({"topic": "events", "reason": "bad luck"}, "there is none of that name"),
        ({"topic": "events"}, "give a `reason`"),
        ({"topic": "events", "partition": 1}, "give a `reason`"),
        ({"topic": "events", "reason": "malformed_json", "partition": 1, "offset": 1}, "give a `reason`"),
    ],
)
def test_a_replay_needs_one_choice(s: Settings, asked: dict[str, Any], told: str) -> None:
    answer = ask(create_page(s, CollectorRegistry()), "POST", "/api/dead-letters/replay", json=asked)
    assert answer.status_code == 409
    assert told in answer.json()["detail"]


def test_a_replay_says_what_it_did_and_runs_alone(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Choice]] = []
    began, release = threading.Event(), threading.Event()

    async def send_back(s: Settings, topic: str, choice: Choice, limit: int) -> Sent:
        asked.append((topic, choice))
        began.set()
        await asyncio.to_thread(release.wait)
        return Sent(topic, 3, 1, 0)

    monkeypatch.setattr(dead_letter_box, "send_back", send_back)

    async def run() -> dict[str, object]:
        letters = Letters(s)
        running = asyncio.create_task(letters.send_back(Replay("events", partition=2, offset=9)))
        await asyncio.to_thread(began.wait)
        with pytest.raises(SettingsError, match="a replay runs already"):
            await letters.send_back(Replay("items", reason="malformed_json"))
        release.set()
        return await running

    assert asyncio.run(run()) == {"topic": "events", "sent": 3, "sent_before": 1, "foreign": 0}
    assert asked == [("events", Choice(None, 2, 9))]


def test_a_replay_that_takes_for_ever_is_broken_off(s: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def send_back(*_: object, **__: object) -> Sent:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(dead_letter_box, "send_back", send_back)
    monkeypatch.setattr(letters_module, "REPLAY_SECONDS", 0.05)
    with pytest.raises(FreshetError, match="freshet dlt replay"):
        asyncio.run(Letters(s).send_back(Replay("events", reason="malformed_json")))


def test_the_mark_is_the_boxes_own(s: Settings) -> None:
    """What this file makes of a mark, `freshet dlt` would write."""
    found = dead_letter_box.mark_of(mark(0, (0, 10)))
    assert found == Mark(((0, 10),), True)
