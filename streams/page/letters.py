"""The dead letters that the page shows: the newest of each partition, followed from there, never the whole topic.

A look costs one request for the ends of the partitions, and reads only what is new behind them.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from core.errors import FreshetError, SettingsError
from core.position import Upstream
from streams import dead_letter_box
from streams.dead_letter_box import Choice, Letter, Places, letter_of, mark_of, readable
from streams.dead_letters import topic_of
from streams.page.threads import Threads
from streams.reading import consumer, release, stretch
from streams.settings import Settings
from streams.topics import admin

log = logging.getLogger(__name__)
TAIL = 2_000  # records of each partition that the first look reads
KEPT = 10_000  # letters of each topic that are counted
SHOWN, SHOWN_BYTES = 5, 1_000  # letters of each reason, and bytes of each value
LOOK_SECONDS, LOOK_BYTES = 2.0, 16 << 20  # a look that costs more is broken off, and the next one goes on
FRESH_SECONDS = 1.0  # an answer as young as that is given again
KAFKA_SECONDS = 6.0
REPLAY_SECONDS, REPLAY_LETTERS = 120.0, 10_000


class Replay(msgspec.Struct, forbid_unknown_fields=True):
    """Which letters to send back: those of a reason, or the one of a position."""

    topic: str
    reason: str | None = None
    partition: int | None = None
    offset: int | None = None


class Known(NamedTuple):
    """A letter as it is counted."""

    partition: int
    offset: int
    reason: str


class Box:
    """What was read of one topic's dead letters."""

    def __init__(self, topic: str) -> None:
        self.topic, self.dead_topic = topic, topic_of(topic)
        self.next: dict[TopicPartition, int] = {}
        self.whole = True  # no letter is older than those that were read
        self.read_all = False
        self._places, self._sent = Places(), Places()
        self._known: deque[Known] = deque()
        self._newest: dict[str, list[Letter]] = {}

    def start(self, tp: TopicPartition, first: int, end: int) -> None:
        """Where to begin with a partition."""
        self.next[tp] = max(first, end - TAIL)
        self.whole = self.whole and self.next[tp] == first

    def take(self, record: Any) -> None:
        try:
            mark, letter = mark_of(record), letter_of(record, self.topic)
        except msgspec.MsgspecError:  # another program's, which `freshet dlt` will complain of: what is behind it is shown all the same
            return
        if mark is not None and mark.sent:
            for partition, offset in mark.letters:
                self._sent.add(partition, offset)
        elif letter is not None and letter.context is not None and self._places.add(letter.context.partition, letter.context.offset):
            self._count(letter, letter.context.partition, letter.context.offset)

    def _count(self, letter: Letter, partition: int, offset: int) -> None:
        self._known.append(Known(partition, offset, letter.reason))
        if len(self._known) > KEPT:
            self._known.popleft()
            self.whole = False
        newest = sorted([*self._newest.get(letter.reason, ()), letter], key=lambda one: one.message.timestamp_ms)
        self._newest[letter.reason] = newest[-SHOWN:]

    def groups(self) -> Iterator[dict[str, object]]:
        """Letters by reason, with the newest of each."""
        letters, sent_back = Counter[str](), Counter[str]()
        for known in self._known:
            letters[known.reason] += 1
            sent_back[known.reason] += (known.partition, known.offset) in self._sent
        for reason, newest in sorted(self._newest.items()):
            yield {
                "topic": self.topic,
                "reason": reason,
                "kind": newest[-1].kind,
                "letters": letters[reason],
                "sent_back": sent_back[reason],
                "last_ms": newest[-1].message.timestamp_ms,
                "newest": [self._shown(letter) for letter in reversed(newest)],
            }

    def _shown(self, letter: Letter) -> dict[str, object]:
        assert letter.context is not None
        place = letter.context.partition, letter.context.offset
        return {
            "partition": place[0],
            "offset": place[1],
            "error": letter.error,
            "timestamp_ms": letter.message.timestamp_ms,
            "key": readable(letter.message.key, SHOWN_BYTES),
            "value": readable(letter.message.value, SHOWN_BYTES),
            "sent_back": place in self._sent,
        }


class Letters:
    """The dead letters of events and items, as far as the page shows them."""

    def __init__(self, s: Settings) -> None:
        self._s = s
        self._reader: AIOKafkaConsumer | None = None
        self._forget()
        self._looked_at, self._failure = float("-inf"), ""
        self._looking, self._replaying = asyncio.Lock(), asyncio.Lock()
        self._topics, self._replays = Threads("topics", 1), Threads("replay", 1)

    def _forget(self) -> None:
        self._boxes = [Box(topic) for topic in (self._s.events_topic, self._s.items_topic)]

    async def answer(self) -> dict[str, object]:
        """Groups by topic and reason; `whole`: none is left out; `read_all`: none is still to be read.

        Raises:
            FreshetError: Kafka does not answer, or fails.
        """
        async with self._looking:
            if time.monotonic() - self._looked_at > FRESH_SECONDS:
                self._failure = await self._try_to_look()
                self._looked_at = time.monotonic()
        if self._failure:
            raise FreshetError(self._failure)
        groups = [group for box in self._boxes for group in box.groups()]
        return {"groups": groups, "whole": all(box.whole for box in self._boxes), "read_all": all(box.read_all for box in self._boxes)}

    async def _try_to_look(self) -> str:
        """What went wrong, or nothing. A reader that failed is closed, and the next look opens another one."""
        try:
            async with asyncio.timeout(KAFKA_SECONDS):
                await self._look()
            return ""
        except FreshetError as error:
            return str(error)
        except TimeoutError:
            failure = f"did not answer within {KAFKA_SECONDS:.0f} s"
        except (KafkaError, OSError) as error:
            failure = f"failed: {error!r}"
        await self._close()
        return f"Kafka at {self._s.bootstrap_servers} {failure}"

    async def _look(self) -> None:
        reader = await self._opened()
        budget = Budget()
        try:
            for box in self._boxes:
                await self._follow(reader, box, budget)
        finally:
            reader.unsubscribe()  # an assigned reader asks for records all the time

    async def _opened(self) -> AIOKafkaConsumer:
        if self._reader is None:
            self._reader = consumer(self._s)
            await self._reader.start()
        return self._reader

    async def _follow(self, reader: AIOKafkaConsumer, box: Box, budget: "Budget") -> None:
        if not box.next:
            await self._begin(reader, box)
        ends = await reader.end_offsets(list(box.next))
        for tp, end in ends.items():
            if end < box.next[tp]:
                self._forget()
                raise FreshetError(f"{tp.topic} was made anew: it is read again")
            if end > box.next[tp] and not budget.spent:
                await self._read(reader, box, tp, end, budget)
        box.read_all = all(box.next[tp] >= end for tp, end in ends.items())

    async def _begin(self, reader: AIOKafkaConsumer, box: Box) -> None:
        found = await self._topics.run(lambda: self._partitions(box.dead_topic), KAFKA_SECONDS)
        tps = [TopicPartition(upstream.topic, upstream.partition) for upstream in found]
        first, ends = await reader.beginning_offsets(tps), await reader.end_offsets(tps)
        for tp in tps:
            box.start(tp, first[tp], ends[tp])

    def _partitions(self, topic: str) -> list[Upstream]:
        with admin(self._s) as cluster:
            return cluster.upstreams(topic)

    async def _read(self, reader: AIOKafkaConsumer, box: Box, tp: TopicPartition, end: int, budget: "Budget") -> None:
        async for record in stretch(reader, tp, box.next[tp], end):
            box.take(record)
            box.next[tp] = record.offset + 1
            budget.take(len(record.value or b""))
            if budget.spent:
                return
        box.next[tp] = end

    async def send_back(self, replay: Replay) -> dict[str, object]:
        """Send letters back to their topic, at most REPLAY_LETTERS; how many were.

        Raises:
            SettingsError: this is no choice, or another replay runs.
            FreshetError: Kafka does not answer, or a send failed.
        """
        choice = self._choice(replay)
        if self._replaying.locked():
            raise SettingsError("a replay runs already: let it end, then start this one again")
        async with self._replaying:
            sent = await self._replays.run(lambda: asyncio.run(self._send_back(replay.topic, choice)), 2 * REPLAY_SECONDS)
        self._looked_at = float("-inf")
        return sent._asdict()

    def _choice(self, replay: Replay) -> Choice:
        if replay.topic not in (self._s.events_topic, self._s.items_topic):
            raise SettingsError(f"topic {replay.topic!r}: give one of {self._s.events_topic}, {self._s.items_topic}")
        choice = dead_letter_box.checked(Choice(replay.reason, replay.partition, replay.offset))
        if (choice.reason is None) == (choice.partition is None or choice.offset is None):
            raise SettingsError("give a `reason`, or a `partition` and an `offset`")
        return choice

    async def _send_back(self, topic: str, choice: Choice) -> dead_letter_box.Sent:
        try:
            async with asyncio.timeout(REPLAY_SECONDS):
                return await dead_letter_box.send_back(self._s, topic, choice, limit=REPLAY_LETTERS)
        except TimeoutError as error:
            raise FreshetError(f"not done in {REPLAY_SECONDS:.0f} s: go on with `freshet dlt replay --topic ...`") from error

    async def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await release(reader)

    async def close(self) -> None:
        await self._close()
        self._topics.close()
        self._replays.close()


class Budget:
    """What one look may cost."""

    def __init__(self) -> None:
        self._until, self._left_bytes = time.monotonic() + LOOK_SECONDS, LOOK_BYTES

    def take(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes

    @property
    def spent(self) -> bool:
        return self._left_bytes <= 0 or time.monotonic() > self._until
