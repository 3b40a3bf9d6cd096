"""What to do with dead letters: count them, look at them, send them back to the topic that they came from.

A letter is told by the position that its message had; one that a crash of ingest wrote twice is one letter. No letter is sent back twice:
before some are sent, a mark with their positions is durable in partition 0 of the dead-letter topic, and a second mark follows once Kafka
has them. The marks stand among the letters, so they are kept as long, and a filter or another machine makes no difference; the offset of
a consumer group could not say which letters of a partition are gone. After a crash between the two marks, the letters of the first are
looked for where they were sent to: each carries its position in a header.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from core.errors import FreshetError, SendError, SettingsError
from streams.contract import REJECTIONS
from streams.dead_letters import Context, original_headers, read, topic_of
from streams.decode import RawMessage
from streams.reading import consumer, release, stretch
from streams.settings import Settings
from streams.topics import Admin, admin
from streams.writer import Producer, producer

log = logging.getLogger(__name__)

POSITION = "freshet-dead-letter"  # header of what was sent back: topic/partition/offset of the letter's message
MARK = "freshet-dead-letter-mark"  # header of a mark: msgspec JSON of `Mark`
FOREIGN = "foreign"  # the reason of a record that is no letter of ours
CHUNK_LETTERS, CHUNK_BYTES = 200, 4 << 20  # sent under one mark
SEND_SECONDS, STOP_SECONDS = 15.0, 5.0
SETTLE_SECONDS = 2 * SEND_SECONDS  # a mark as old as that is nobody's who still sends
STRETCH = 512


class Letter(NamedTuple):
    """A dead letter: why, and the message as its producer sent it. Without a context it is none of ours."""

    context: Context | None
    message: RawMessage

    @property
    def reason(self) -> str:
        return self.context.category if self.context else FOREIGN

    @property
    def kind(self) -> str:
        return self.context.exception if self.context else ""

    @property
    def error(self) -> str:
        return self.context.reason if self.context else "no dead letter of Freshet's"


class Choice(NamedTuple):
    """Which letters: of a reason (a category or a kind), and of a position of their messages; None leaves it open."""

    reason: str | None = None
    partition: int | None = None
    offset: int | None = None

    def takes(self, letter: Letter) -> bool:
        if self.reason not in (None, letter.reason, letter.kind):
            return False
        place = (letter.context.partition, letter.context.offset) if letter.context else (None, None)
        wanted = (self.partition, self.offset)
        return all(want in (None, found) for want, found in zip(wanted, place, strict=True))


class Count(NamedTuple):
    """Letters of one reason; times are Kafka's, of their messages, in ms."""

    topic: str
    reason: str
    kind: str
    letters: int
    sent_back: int
    first_ms: int
    last_ms: int


class Sent(NamedTuple):
    """What a replay did, in letters."""

    topic: str
    sent: int
    sent_before: int  # left out, as they were sent back by an earlier replay
    foreign: int  # left out, as nobody knows where they came from


class Mark(msgspec.Struct, frozen=True):
    """Letters that are about to be sent back, or (`sent`) that are. `ends`: what their topic's partitions held before."""

    letters: tuple[tuple[int, int], ...]  # partition and offset of their messages
    sent: bool
    ends: tuple[int, ...] = ()


class Places:
    """A set of positions. A stretch of 512 offsets is one integer: a topic of nothing but dead letters costs half a byte a message."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], int] = defaultdict(int)

    def add(self, partition: int, offset: int) -> bool:
        """Whether it was not in it."""
        new = (partition, offset) not in self
        self._held[partition, offset // STRETCH] |= 1 << offset % STRETCH
        return new

    def __contains__(self, place: tuple[int, int]) -> bool:
        partition, offset = place
        return bool(self._held.get((partition, offset // STRETCH), 0) >> offset % STRETCH & 1)


class _Marks:
    """What the marks of a dead-letter topic say."""

    def __init__(self) -> None:
        self.sent = Places()
        self.open: dict[tuple[int, int], tuple[int, ...]] = {}  # begun and not ended: at most a chunk per crash; place -> ends
        self.open_ms = 0  # Kafka's timestamp of the newest mark, while any has no second
        self.next_offset = 0

    def take(self, mark: Mark, timestamp_ms: int) -> None:
        for partition, offset in mark.letters:
            if mark.sent:
                self.sent.add(partition, offset)
                self.open.pop((partition, offset), None)
            else:
                self.open[partition, offset] = mark.ends
        self.open_ms = timestamp_ms if self.open else 0


class DeadLetterBox:
    """The dead letters of one topic. Letters are read one fetch at a time, however many there are."""

    def __init__(self, topic: str, cluster: Admin, reader: AIOKafkaConsumer, finder: AIOKafkaConsumer) -> None:
        """`reader` goes through the letters; `finder` looks for marks meanwhile."""
        self.topic, self._reader, self._finder = topic, reader, finder
        self._letters = [TopicPartition(u.topic, u.partition) for u in cluster.upstreams(topic_of(topic))]
        self._sources = [TopicPartition(u.topic, u.partition) for u in cluster.upstreams(topic)]
        self._own_mark = -1  # offset of our last mark of letters that are sent

    async def letters(self, choice: Choice, limit: int = 0) -> AsyncIterator[Letter]:
        """Each chosen letter once, in the order of the dead-letter topic's partitions; at most `limit` (0: all)."""
        seen, left = Places(), limit
        ends = await self._reader.end_offsets(self._letters)  # of all before the first: what is sent back may be refused again meanwhile
        for tp in self._letters:
            async for record in stretch(self._reader, tp, stop=ends[tp]):
                letter = letter_of(record, self.topic)
                if letter is None or not choice.takes(letter):
                    continue
                if letter.context is None or seen.add(letter.context.partition, letter.context.offset):
                    yield letter
                    left -= 1
                    if left == 0:
                        return

    async def counts(self) -> list[Count]:
        """Letters by reason."""
        marks, found = await self._marks(), dict[tuple[str, str], Count]()
        async for letter in self.letters(Choice()):
            ms, key = letter.message.timestamp_ms, (letter.reason, letter.kind)
            count = found.get(key, Count(self.topic, *key, 0, 0, ms, ms))
            back = letter.context is not None and _place(letter.context) in marks.sent
            count = count._replace(letters=count.letters + 1, sent_back=count.sent_back + back)
            found[key] = count._replace(first_ms=min(count.first_ms, ms), last_ms=max(count.last_ms, ms))
        return [count for _, count in sorted(found.items())]

    async def send_back(self, client: Producer | None, choice: Choice, again: bool = False, limit: int = 0) -> Sent:
        """Send the chosen letters to their topic, at most `limit` of them (0: all); without a client only count them.

        Args:
            again: those that were sent back before, too.

        Raises:
            SettingsError: another replay runs, or ran a moment ago.
            SendError: a send failed; a new replay goes on without sending twice.
        """
        marks = await self._marks()
        await self._settle(marks, client)
        chunk, sent, before, foreign = list[Letter](), 0, 0, 0
        async for letter in self.letters(choice):
            if letter.context is None:
                foreign += 1
            elif _place(letter.context) in marks.sent and not again:
                before += 1
            else:
                chunk.append(letter)
                sent += 1
            if chunk and (len(chunk) >= CHUNK_LETTERS or sum(map(_bytes, chunk)) >= CHUNK_BYTES or sent == limit):
                await self._send(client, chunk, marks)
                chunk = []
            if sent and sent == limit:
                break
        await self._send(client, chunk, marks)
        return Sent(self.topic, sent, before, foreign)

    async def _send(self, client: Producer | None, chunk: Sequence[Letter], marks: _Marks) -> None:
        """Mark, send, mark."""
        if client is None or not chunk:
            return
        ends = await self._finder.end_offsets(self._sources)
        places = tuple(_place(letter.context) for letter in chunk if letter.context)
        offset = await self._mark(client, Mark(places, False, tuple(ends[tp] for tp in self._sources)))
        await self._only_ours(marks, offset)
        await _acknowledged([await self._hand_over(client, letter) for letter in chunk])
        marks.next_offset = offset + 1
        self._own_mark = await self._mark(client, Mark(places, True))

    async def _only_ours(self, marks: _Marks, offset: int) -> None:
        """The order of the marks decides between two replays: what another one may have begun to send is left to it."""
        async for record in stretch(self._finder, self._letters[0], marks.next_offset, offset):
            if record.offset != self._own_mark and mark_of(record):
                raise SettingsError(f"another `freshet dlt replay` sends letters of {self.topic}: let it end, then start this one again")

    async def _hand_over(self, client: Producer, letter: Letter) -> "asyncio.Future[Any]":
        """To the partition that the message was in; the time is now, or a bound on its age would refuse it for ever."""
        assert letter.context is not None
        key, value, headers = letter.message.key, letter.message.value, letter.message.headers
        partition = letter.context.partition if letter.context.partition < len(self._sources) else None
        own = [(name, content) for name, content in headers if name != POSITION]
        position = f"{self.topic}/{letter.context.partition}/{letter.context.offset}"
        return await client.send(self.topic, value, key, partition, None, [*own, (POSITION, position.encode())])

    async def _mark(self, client: Producer, mark: Mark) -> int:
        """Make a mark durable; its offset."""
        tp = self._letters[0]
        sent = await client.send(tp.topic, msgspec.json.encode(mark), None, tp.partition, None, [(MARK, b"1")])
        [offset] = await _acknowledged([sent])
        return offset

    async def _marks(self) -> _Marks:
        marks = _Marks()
        async for record in stretch(self._finder, self._letters[0]):
            if mark := mark_of(record):
                marks.take(mark, record.timestamp)
            marks.next_offset = record.offset + 1
        return marks

    async def _settle(self, marks: _Marks, client: Producer | None) -> None:
        """Letters that a replay was about to send when it ended: those that are in their topic count as sent."""
        if not marks.open:
            return
        wait_seconds = marks.open_ms / 1000 + SETTLE_SECONDS - time.time()
        if wait_seconds > 0:
            raise SettingsError(f"a replay runs, or ended unfinished a moment ago: start this one in {wait_seconds:.0f} s")
        found = tuple(sorted(await self._arrived(marks)))
        if found and client is not None:
            self._own_mark = await self._mark(client, Mark(found, True))
        marks.take(Mark(found, True), 0)

    async def _arrived(self, marks: _Marks) -> set[tuple[int, int]]:
        wanted = {f"{self.topic}/{partition}/{offset}".encode(): (partition, offset) for partition, offset in marks.open}
        found = set()
        for index, tp in enumerate(self._sources):
            start = min(ends[index] if index < len(ends) else 0 for ends in marks.open.values())
            async for record in stretch(self._finder, tp, start):
                found |= {wanted[value] for name, value in record.headers if name == POSITION and value in wanted}
        return found


@asynccontextmanager
async def opened(s: Settings, topic: str) -> AsyncIterator[DeadLetterBox]:
    """The dead letters of a producers' topic.

    Raises:
        SettingsError: the topic, or its dead-letter topic, is not there.
        FreshetError: Kafka does not answer, or fails.
    """
    reader, finder = consumer(s), consumer(s)
    try:
        with admin(s) as cluster:
            await reader.start()
            await finder.start()
            yield DeadLetterBox(topic, cluster, reader, finder)
    except KafkaError as error:
        raise FreshetError(f"Kafka failed: {error!r}") from error
    finally:
        await release(reader)
        await release(finder)


async def send_back(s: Settings, topic: str, choice: Choice, again: bool = False, limit: int = 0, dry_run: bool = False) -> Sent:
    """`DeadLetterBox.send_back` with a producer of its own; a dry run only counts."""
    async with opened(s, topic) as box:
        if dry_run:
            return await box.send_back(None, choice, again, limit)
        client = producer(s)
        await client.start()
        try:
            return await box.send_back(client, choice, again, limit)
        finally:
            await _stopped(client)


def checked(choice: Choice) -> Choice:
    """The choice, if its reason is one that a letter can have.

    Raises:
        SettingsError: it is none.
    """
    known = {name for rejection in REJECTIONS for name in (rejection.category, rejection.__name__)} | {FOREIGN}
    if choice.reason is not None and choice.reason not in known:
        raise SettingsError(f"--reason {choice.reason}: there is none of that name; give one of {', '.join(sorted(known))}")
    return choice


def readable(raw: bytes | None, most_bytes: int) -> str:
    """Text that a terminal can do nothing odd with: what cannot be printed is escaped, what is long is cut."""
    if raw is None:
        return "(null)"
    text = raw[:most_bytes].decode("utf-8", "backslashreplace")
    rest = f"... and {len(raw) - most_bytes:,} bytes more" if len(raw) > most_bytes else ""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + rest


def letter_of(record: Any, topic: str) -> Letter | None:
    """A record of a dead-letter topic as a letter; None of a mark."""
    context = read(record.headers)
    if context is None and any(name == MARK for name, _ in record.headers):
        return None
    ours = context if context is not None and context.topic == topic else None
    headers = original_headers(record.headers) if ours else list(record.headers)
    return Letter(ours, RawMessage(record.key, record.value, headers, record.timestamp, record.offset))


def mark_of(record: Any) -> Mark | None:
    """A record as a mark; None of a letter, whatever headers its message had."""
    marked = any(name == MARK for name, _ in record.headers) and read(record.headers) is None
    return msgspec.json.decode(record.value, type=Mark) if marked else None


def _place(context: Context) -> tuple[int, int]:
    return context.partition, context.offset


def _bytes(letter: Letter) -> int:
    return len(letter.message.key or b"") + len(letter.message.value or b"")


async def _acknowledged(sent: Iterable["asyncio.Future[Any]"]) -> list[int]:
    """The offsets of what was sent."""
    try:
        async with asyncio.timeout(SEND_SECONDS):  # an idempotent producer alone would try for ever
            return [(await future).offset for future in sent]
    except (KafkaError, TimeoutError) as error:
        raise SendError(f"a send failed ({error!r}); start the replay again, it sends none twice") from error


async def _stopped(client: Producer) -> None:
    """What was sent is acknowledged, or was given up: nothing is waited for that Kafka may never answer."""
    try:
        await asyncio.wait_for(client.stop(), STOP_SECONDS)
    except TimeoutError:
        log.warning("Kafka did not answer as the producer stopped")
