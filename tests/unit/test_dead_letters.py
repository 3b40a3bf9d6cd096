"""The headers of dead letters: nothing of the original changes, and what was added can be read and taken off."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import dead_letters
from streams.contract import CATEGORIES, OTHER, REJECTIONS, Limits, Rejected
from streams.decode import DeadLetter, EventDecoder, RawMessage

LETTER = DeadLetter(RawMessage(b"k", b"v", [("a", b"1"), ("a", None)], 10, 42), "ts is missing", "MissingField")


def sent_again(letter: DeadLetter, headers: list[tuple[str, bytes | None]], offset: int) -> DeadLetter:
    return letter._replace(message=letter.message._replace(headers=headers, offset=offset))


def test_the_block_follows_the_originals() -> None:
    assert dead_letters.headers(LETTER, "events", 3, "ingest") == [
        ("a", b"1"),
        ("a", None),
        ("__connect.errors.topic", b"events"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"42"),
        ("__connect.errors.stage", b"ingest"),
        ("__connect.errors.class.name", b"freshet.ingest"),
        ("__connect.errors.exception.class.name", b"MissingField"),
        ("__connect.errors.exception.message", b"ts is missing"),
    ]


def test_a_letter_that_is_nothing_at_all_can_be_sent() -> None:
    """Kafka takes a record without key and value, but clients do not send one: ingest would stop at it for good."""
    nothing = LETTER._replace(message=LETTER.message._replace(key=None, value=None))
    assert dead_letters.key_of(nothing) == b""
    assert dead_letters.key_of(nothing._replace(message=nothing.message._replace(value=b""))) is None
    assert dead_letters.key_of(LETTER) == b"k"


def test_the_newest_block_is_read_and_only_it_is_taken_off() -> None:
    first = dead_letters.headers(LETTER, "events", 3, "ingest")
    second = dead_letters.headers(sent_again(LETTER, first, 43), "events", 4, "ingest")
    found = dead_letters.read(second)
    assert found is not None
    assert (found.partition, found.offset, found.category) == (4, 43, "missing_field")
    assert dead_letters.original_headers(second) == first
    assert dead_letters.original_headers(first) == LETTER.message.headers


def test_headers_of_others_are_no_block() -> None:
    block = dead_letters.headers(LETTER, "events", 3, "ingest")
    for headers in ([], block[:-1], block[3:], [h if h[0] != dead_letters.OFFSET else (h[0], b"none") for h in block]):
        assert dead_letters.read(headers) is None
    assert dead_letters.read([*block, (dead_letters.TOPIC, b"\xff")]) is None
    assert dead_letters.read([*block, (dead_letters.PARTITION, None)]) is None
    for headers in ([], block[:-1], [*block, ("trace", b"1")]):
        assert dead_letters.original_headers(headers) == headers


def test_topic_and_categories() -> None:
    assert dead_letters.topic_of("events") == "events-dlt"
    assert [dead_letters.category(rejection.__name__) for rejection in REJECTIONS] == list(CATEGORIES[:-1])
    assert dead_letters.category("ValueError") == OTHER == CATEGORIES[-1]
    assert len(set(CATEGORIES)) == len(CATEGORIES)
    assert set(REJECTIONS) == set(Rejected.__subclasses__())


def test_a_reason_is_one_bounded_line() -> None:
    reason = REJECTIONS[0]("a\r\n\x1b[31m\u2028" + "x" * 10_000).reason
    assert reason.startswith("a???[31m?x")
    assert len(reason) == 300


NAMES = st.sampled_from([*dead_letters.NAMES, "a", "traceparent", "content-type", ""]) | st.text(max_size=5)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=5)), max_size=12)


@given(HEADERS, st.text(max_size=20), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_any_headers_survive(headers: list[tuple[str, bytes | None]], topic: str, partition: int, offset: int) -> None:
    letter = sent_again(LETTER, headers, offset)
    sent = dead_letters.headers(letter, topic, partition, "ingest")
    assert sent[: len(headers)] == headers
    assert dead_letters.original_headers(sent) == headers
    expected = dead_letters.Context(topic, partition, offset, "ingest", "freshet.ingest", letter.exception, letter.reason)
    assert dead_letters.read(sent) == expected


@pytest.mark.parametrize("headers", [[], [("content-type", b"application/json"), ("x", None)]], ids=["bare", "with headers"])
def test_a_replayed_letter_fails_again_with_the_same_bytes(headers: list[tuple[str, bytes | None]]) -> None:
    sent = RawMessage(b"k", json.dumps({"type": "clack"}).encode(), headers, 10, 42)
    [letter] = EventDecoder(Limits()).decode([sent]).dead
    restored = letter.message._replace(headers=dead_letters.original_headers(dead_letters.headers(letter, "events", 0, "ingest")))
    assert restored == sent
    assert EventDecoder(Limits()).decode([restored]).dead == [letter]
