"""For tests of what you feed Freshet and of what you get: the pipeline without a broker, with a clock that the test moves.

All stages are those that run live. A message is learned and published before the call that sends it returns. docs/testing.md shows how.
"""

import datetime
import difflib
import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import polars as pl

from core.errors import SettingsError
from learners.cache import ParameterCache
from learners.recommend import Recommendations
from streams.contract import BadTimestamp, Timestamp, epoch_ms
from streams.decode import DeadLetter, Headers
from streams.prequential import K
from streams.producing import Message
from streams.settings import Settings, load
from streams.testing import HandFed

__all__ = ["START", "Pipeline", "Time"]

Time = int | str | datetime.datetime  # epoch ms, RFC 3339 with a zone, or aware
START = "2026-01-01T00:00:00Z"  # what the clock of a test shows that does not set it

_LOG_SENT_MS = 1 << 62  # Kafka timestamp of a log's messages: far, as they lie in the past
_LOG_ROWS = 2_000  # of a log, at a time
_NOBODY = "freshet-testing"  # a user, or an item, of which nothing is known
_CLOSE = 1e-5  # relative; features are float32 where learners see them


class Pipeline:
    """A pipeline of its own for one test.

    In: events, catalogue entries and raw bytes, one call each, at the time that the test's clock shows. Out: what a server would answer,
    what the learners got, and in `dead_letters` what was refused: category, reason, the message as it came. Event ids are
    e1, e2, ... in the order of the calls, so equal tests give equal bytes.

        with Pipeline(dimensions=16) as p:
            p.click("ann", "video-1")
            p.expect_list("bob", ["video-1"])
    """

    def __init__(self, settings: Settings | None = None, **changes: object) -> None:
        """`settings`: where none are given, those in force (`freshet.toml`, environment). `changes`: settings by name, above them.
        There is one partition of `batches` unless `batches_partitions` is among the changes.

        Raises:
            SettingsError: a value cannot be used.
        """
        given = {} if settings is None else settings.model_dump()
        self.settings = load(**{**given, "batches_partitions": 1, **changes})
        self.dead_letters: list[DeadLetter] = []
        self._directory = tempfile.TemporaryDirectory(prefix="freshet-testing-")
        self._made, self._events = itertools.count(), itertools.count(1)
        self._host = HandFed(self.settings, self._new_directory())
        self._now_ms: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release files and remove the temporary directory."""
        self._host.close()
        self._directory.cleanup()

    def restart(self) -> None:
        """Stop everything and go on from a snapshot, as workers do. Nothing that can be asked for may change by it."""
        stopped, self._host = self._host, self._host.copy(self._new_directory())
        stopped.close()

    def _new_directory(self) -> Path:
        return Path(self._directory.name, str(next(self._made)))

    # The clock

    @property
    def now_ms(self) -> int:
        """What the test's clock shows, epoch ms."""
        return _ms(START) if self._now_ms is None else self._now_ms

    def at(self, time: Time) -> None:
        """Set the clock. Every partition hears of it, as it would from the traffic of others, so that what depends on time passing
        (decay, expiry, live rooms) needs no events to make it pass.

        Raises:
            SettingsError: `time` cannot be read, or lies before what the clock shows.
        """
        ms = _ms(time)
        if self._now_ms is not None and ms < self._now_ms:
            raise SettingsError(
                f"{_told(ms)} lies before {_told(self._now_ms)}: the clock does not go back; for late events give them a `ts`"
            )
        self._now_ms = ms
        self._host.tick(ms)

    def after(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0, milliseconds: float = 0) -> None:
        """Move the clock on; see `at`."""
        passed = datetime.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        self.at(self.now_ms + round(passed / datetime.timedelta(milliseconds=1)))

    def _started_ms(self) -> int:
        """What the clock shows, once there is something to show it to."""
        if self._now_ms is None:
            self.at(START)
        return self.now_ms

    # What producers send

    def event(
        self,
        type_: str,
        user: str,
        item: str,
        *,
        ts: Time | None = None,
        value: float | None = None,
        context: Mapping[str, object] | None = None,
        request_id: str | None = None,
        event_id: str | None = None,
    ) -> str:
        """One event, keyed by its user; its id, so that it may be sent once more.

        Args:
            ts: its own time where it is not the clock's: an event that comes late, or from the future.
            event_id: "" for none.

        Raises:
            AssertionError: it became a dead letter; what is meant to be refused goes through `send`.
        """
        id_ = f"e{next(self._events)}" if event_id is None else event_id
        told = {"type": type_, "user_id": user, "item_id": item, "ts": self._started_ms() if ts is None else _ms(ts), "event_id": id_}
        self._accepted(_json({**told, "value": value, "context": context, "request_id": request_id}), user)
        return id_

    def click(self, user: str, item: str, *, ts: Time | None = None) -> str:
        """An event of type click; see `event`."""
        return self.event("click", user, item, ts=ts)

    def impression(self, user: str, item: str, *, ts: Time | None = None) -> str:
        """An event of type impression; see `event`."""
        return self.event("impression", user, item, ts=ts)

    def item(
        self,
        item: str,
        *,
        text: str | None = None,
        categories: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        author: str | None = None,
        numbers: Mapping[str, float] | None = None,
        embedding: Sequence[float] | None = None,
        start: Time | None = None,
        end: Time | None = None,
    ) -> None:
        """A catalogue entry, in place of the item's earlier one. With `start` and `end` it is a live room.

        Raises:
            AssertionError: it became a dead letter.
        """
        told = {"item_id": item, "text": text, "categories": categories, "tags": tags, "author": author, "numbers": numbers}
        times = {name: None if time is None else _ms(time) for name, time in (("start", start), ("end", end))}
        self._accepted(_json({**told, "embedding": embedding, **times}), item, catalogue=True)

    def remove_item(self, item: str) -> None:
        """Take an item out of the catalogue: a tombstone."""
        self._accepted(None, item, catalogue=True)

    def send(
        self, value: bytes | Mapping[str, object] | None, *, key: str | bytes | None = None, headers: Headers = (), catalogue: bool = False
    ) -> None:
        """One message as it is, to the topic of events or of the catalogue; good or bad, nothing is raised.

        Args:
            value: bytes, an object to be sent as JSON, or None for a tombstone.
            headers: (name, value) pairs: those of CloudEvents count.
        """
        raw = msgspec.json.encode(value) if isinstance(value, Mapping) else value
        self._send([(key.encode() if isinstance(key, str) else key, raw)], self._started_ms(), catalogue, headers)

    def feed(self, events: Iterable[Message] = (), items: Iterable[Message] = ()) -> None:
        """(key, value) messages of a log, the catalogue first, at their own times; the clock follows where they are ahead of it."""
        for messages, catalogue in ((iter(items), True), (iter(events), False)):
            while some := list(itertools.islice(messages, _LOG_ROWS)):
                self._send(some, _LOG_SENT_MS, catalogue)
        log_ms = self.cache.clock_ms or int(self.examples["ts_ms"].to_numpy().max(initial=0))  # no clock before the third event
        if log_ms > (self._now_ms or 0):
            self._now_ms = log_ms

    def _accepted(self, value: bytes | None, id_: str, catalogue: bool = False) -> None:
        for letter in self._send([(id_.encode(), value)], self._started_ms(), catalogue):
            raise AssertionError(f"it became a dead letter, {letter.category}: {letter.reason}\n  {value!r}")

    def _send(self, messages: Sequence[Message], sent_ms: int, catalogue: bool, headers: Headers = ()) -> list[DeadLetter]:
        dead = self._host.take(messages, sent_ms, catalogue, headers)
        self.dead_letters += dead
        return dead

    # What comes out

    @property
    def cache(self) -> ParameterCache:
        """What a server holds now."""
        return self._host.cache

    def answer(self, user: str, k: int = K, links: Sequence[str] | None = None) -> Recommendations:
        """The whole answer of a server: items with scores and links, and what is behind them. Rooms are open as of the clock."""
        return self.cache.recommend(user, k, links, max(self.now_ms, self.cache.clock_ms))

    def recommend(self, user: str, k: int = K, links: Sequence[str] | None = None) -> list[str]:
        """The items of the answer, best first."""
        return [item.item_id for item in self.answer(user, k, links).items]

    def seen(self, user: str) -> list[str]:
        """The user's last items, newest first: those that lists leave out."""
        state = self.cache.state
        return [state.items.id_of(row) for row in state.asker(user).recent]

    @property
    def examples(self) -> pl.DataFrame:
        """What the learners got: a row per accepted event and per catalogue change, in order.

        The columns user_... are the user's features just before the event (docs/features.md); null: none yet.
        """
        return self._host.examples

    @property
    def labels(self) -> pl.DataFrame:
        """What came of impressions, as the learners were told: a row per label, in order.

        Columns: label, policy, kind (docs/labels.md lists them), value 1 or 0, ordinal and upstream of its impression in `examples`,
        ts_ms when it was due, delay_ms since the impression.
        """
        return self._host.labels

    def example(self, at: int = -1) -> dict[str, object]:
        """One row of `examples`; the last one by default.

        Raises:
            AssertionError: there is none at this place.
        """
        rows = self.examples
        if not -rows.height <= at < rows.height:
            raise AssertionError(f"no example {at} among {rows.height}; events: {self.outcomes}, dead letters: {len(self.dead_letters)}")
        return rows.row(at, named=True)

    def features(self, user: str) -> dict[str, float | None]:
        """The user's features as of the clock: those that the user's next event would carry. None: there is none yet."""
        return self._next_features(user, _NOBODY)[0]

    def item_features(self, item: str) -> dict[str, float | None]:
        """The features of the item, its author and its category as of the clock: those that the learners would see at its next event."""
        return self._next_features(_NOBODY, item)[1]

    def _next_features(self, user: str, item: str) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """What an event of this user with this item would carry now. A copy of the pipeline gets one, so nothing changes here."""
        told = {"type": self.settings.event_types[0], "user_id": user, "item_id": item, "ts": self._started_ms()}
        with tempfile.TemporaryDirectory(dir=self._directory.name) as made, closing(self._host.copy(Path(made), ("items",))) as copy:
            return copy.features((user.encode(), _json(told)), self.now_ms)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many events were accepted, or left out as duplicates; and of the accepted, how many were late, or ahead of the clock."""
        return self._host.outcomes

    def digests(self) -> dict[str, str]:
        """A hash of each stage's state: equal for equal events."""
        return self._host.digests()

    # What is expected

    def expect_list(self, user: str, items: Sequence[str], *, k: int = K, links: Sequence[str] | None = None) -> None:
        """The whole list of at most `k` is this one.

        Raises:
            AssertionError: it is another; the text shows both, with links and scores, and why an expected item is not in it.
        """
        answer = self.answer(user, k, links)
        if [item.item_id for item in answer.items] != [*items]:
            raise AssertionError("\n".join(self._compared(user, answer, items, k)))

    def expect_features(self, user: str, **expected: float) -> None:
        """These of the user's features have these values, to 5 digits; see `features`.

        Raises:
            AssertionError: one differs, or there is none of that name.
        """
        _expect_numbers(f"features of {user!r}", self.features(user), expected)

    def expect_item_features(self, item: str, **expected: float) -> None:
        """As `expect_features`, of an item; see `item_features`."""
        _expect_numbers(f"features of the item {item!r}", self.item_features(item), expected)

    def expect_dead_letters(self, *categories: str) -> None:
        """All dead letters so far, in order, are of these categories (docs/producers.md lists them).

        Raises:
            AssertionError: they are of others; the text gives each reason.
        """
        if [letter.category for letter in self.dead_letters] != [*categories]:
            found = [f"  {letter.category}: {letter.reason}\n    {letter.message.value!r}" for letter in self.dead_letters]
            raise AssertionError("\n".join([f"dead letters: expected {[*categories]}, got", *(found or ["  none"])]))

    def _compared(self, user: str, answer: Recommendations, expected: Sequence[str], k: int) -> Iterator[str]:
        yield f"the list of {user!r} is not the one expected (k={k}, clock {_told(self.now_ms)}):"
        yield f"     {'served':24} {'link':10} {'score':>14}  expected"
        for place, (item, wanted) in enumerate(itertools.zip_longest(answer.items, expected), 1):
            served = f"{item.item_id:24} {item.link:10} {item.score:14.10g}" if item else f"{'-':50}"
            yield f"{' ' if item and item.item_id == wanted else '!'}{place:3} {served}  {wanted or '-'}"
        for wanted in [id_ for id_ in expected if id_ not in [item.item_id for item in answer.items]]:
            yield f"{wanted!r} is not in the list: {self._absence(user, wanted)}"

    def _absence(self, user: str, item: str) -> str:
        """Why an item is not in a list of the user's, as far as the cache knows."""
        known = self.cache.item(item, 0)
        if known is None:
            return "no event and no catalogue entry tells of it, or it was removed"
        if item in self.seen(user):
            return f"it is one of the last items of {user!r}"
        if known.start_ms is not None and known.start_ms > self.now_ms:
            return f"it opens at {_told(known.start_ms)}"
        if known.end_ms is not None and known.end_ms <= self.now_ms:
            return f"it ended at {_told(known.end_ms)}"
        return "others come before it, or the links that were asked do not give it"


def _expect_numbers(what: str, found: Mapping[str, float | None], expected: Mapping[str, float]) -> None:
    if faults := list(_faults(found, expected)):
        raise AssertionError("\n".join([f"{what} are not as expected:", *faults]))


def _faults(found: Mapping[str, float | None], expected: Mapping[str, float]) -> Iterator[str]:
    for name, wanted in expected.items():
        if name not in found:
            near = difflib.get_close_matches(name, found, 3)
            yield f"  there is no {name}" + (f"; do you mean {' or '.join(near)}?" if near else "")
        elif (value := found[name]) is None:
            yield f"  there is no {name} yet, expected {wanted:.6g}"
        elif not math.isclose(value, wanted, rel_tol=_CLOSE, abs_tol=_CLOSE):
            yield f"  {name} is {value:.6g}, expected {wanted:.6g}"


def _json(told: Mapping[str, object]) -> bytes:
    return msgspec.json.encode({name: value for name, value in told.items() if value is not None})


def _ms(time: Time) -> int:
    try:
        return epoch_ms(msgspec.convert(time, Timestamp), "time")
    except (msgspec.ValidationError, BadTimestamp) as error:
        raise SettingsError(f"the time is {time!r}: give epoch ms, or RFC 3339 or a datetime with a zone") from error


def _told(ms: int) -> str:
    return datetime.datetime.fromtimestamp(ms / 1_000, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
