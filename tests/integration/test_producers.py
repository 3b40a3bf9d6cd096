"""The producers in docs/producers.md, run as they stand but for the address: Kafka has what they sent, and ingest accepts it."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition

from streams.broker import EmbeddedBroker
from streams.decode import EventDecoder, ItemDecoder, RawMessage
from streams.ingest import limits_of
from streams.reading import consumer, release, stretch
from streams.settings import Settings
from tests import live
from tests.programs import program

pytestmark = pytest.mark.kafka
PAGE = Path(__file__).parents[2] / "docs" / "producers.md"
BLOCK = re.compile(r"^```(python|sh) producer\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Example(NamedTuple):
    """A program of the page, and what it shall have sent."""

    events: Mapping[str, tuple[str, str]]  # event id -> type and user
    items: tuple[str, ...]

    def is_(self, text: str) -> bool:
        """Whether this is its program: the ids are in no other."""
        return all(id_.rpartition("#")[2] in text for id_ in self.events)


EXAMPLES = {
    "kafka-python": Example({"kafka-python-1": ("click", "u1")}, ("v7",)),
    "aiokafka": Example({"aiokafka-1": ("view", "u1")}, ("v7",)),
    "confluent-kafka": Example({"confluent-1": ("like", "u1")}, ("v7",)),
    "kcat": Example({"kcat-1": ("click", "u1"), "kcat-2": ("purchase", "u1")}, ("v7",)),
    "cloudevents": Example({"/app/web#structured-1": ("click", "u1"), "/app/web#binary-1": ("like", "u2")}, ()),
}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each program."""
    return [(found[1], found[2]) for found in BLOCK.finditer(PAGE.read_text())]


def run(language: str, text: str, bootstrap_servers: str, directory: Path) -> None:
    assert text.count("127.0.0.1:9092") >= 1
    command = [program("bash"), "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
    if language == "sh":
        program("kcat")
    code = text.replace("127.0.0.1:9092", bootstrap_servers)
    done = subprocess.run([*command, code], check=False, cwd=directory, env=dict(os.environ), capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def s(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The topics that the page names."""
    own = {"events_topic": "events", "items_topic": "items"}
    return live.settings(broker.bootstrap_servers, "t-producers.", tmp_path_factory.mktemp("producers"), **own)


def ends(s: Settings, topic: str) -> list[int]:
    return [live.end(s, upstream) for upstream in live.upstreams(s, topic)]


def sent(s: Settings, topic: str, before: list[int]) -> list[Any]:
    """The records behind those ends."""
    return asyncio.run(_sent(s, topic, before))


async def _sent(s: Settings, topic: str, before: list[int]) -> list[Any]:
    reader = consumer(s)
    await reader.start()
    try:
        return [record for p, start in enumerate(before) async for record in stretch(reader, TopicPartition(topic, p), start)]
    finally:
        await release(reader)


def test_every_program_of_the_page_is_run() -> None:
    found = [name for _, text in blocks() for name, example in EXAMPLES.items() if example.is_(text)]
    assert sorted(found) == sorted(EXAMPLES)
    assert len(blocks()) == len(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_program_sends_is_accepted(name: str, s: Settings, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    [(language, text)] = [block for block in blocks() if example.is_(block[1])]
    before = {topic: ends(s, topic) for topic in (s.events_topic, s.items_topic)}
    run(language, text, s.bootstrap_servers, tmp_path)

    for topic, decoder in ((s.events_topic, EventDecoder(limits_of(s))), (s.items_topic, ItemDecoder(limits_of(s)))):
        records = sent(s, topic, before[topic])
        raw = [RawMessage(r.key, r.value, r.headers, r.timestamp, r.offset) for r in records]
        decoded = decoder.decode(raw)
        assert [letter.reason for letter in decoded.dead] == []
        assert (decoded.foreign_keys, decoded.missing_keys) == (0, 0)
        rows = decoded.rows
        if topic == s.items_topic:
            assert tuple(rows["item_id"]) == example.items
            continue
        told = {id_: (type_, user) for id_, type_, user in rows.select("event_id", "type", "user_id").iter_rows()}
        assert told == example.events
        assert set(rows["item_id"]) == {"v7"}
