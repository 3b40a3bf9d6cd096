"""A replay that is stopped anywhere goes on as if it had not been: what the front puts out, state, lists, scores; and its pace."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from core.errors import SettingsError, SnapshotError
from core.hashing import fingerprint
from core.position import Record
from core.snapshot import Snapshot
from core.stage import Publication
from learners.cache import ParameterCache
from streams import bundled, pipeline
from streams.cli.replay import parts_of
from streams.logs.mapping import load_mapping
from streams.logs.parts import Place
from streams.logs.reader import MemoryLog
from streams.producing import Message
from streams.replay import LocalPipeline, ToExamples, shown
from streams.replay.judged import JudgedReplay
from streams.replay.kept import kept, shaping, told_log
from streams.replay.pace import PAUSE_SECONDS, EventPace, Pace, RatePace, pace_of
from streams.replay.running import Job, run
from streams.replay.sending import IN_FLIGHT, Flight, Tail
from streams.settings import Settings, load
from streams.signals import Stop
from tests.snapshots import save

ITEMS: list[Message] = list(islice(bundled.item_messages(), 300))
EVENTS: list[Message] = list(islice(bundled.event_messages(), 4_000))
LINKS = (None, ["personal"], ["similar"], ["popular"], ["newest"])


def settings(partitions: int = 1, **more: Any) -> Settings:
    return load(batches_partitions=partitions, max_users=8_192, max_items=4_096, dimensions=16, **more)


def flawed(messages: Sequence[Message]) -> list[Message]:
    """With dead letters and events sent twice among them."""
    found = list(messages)
    for at in range(50, len(found), 97):
        found[at] = found[at - 40] if at % 2 else (None, b"{broken")
    return found


def put_out(front: ToExamples, messages: Sequence[Message], batch: int) -> list[Record]:
    return [record for records in front.events(messages, batch) for record in records]


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("cut", [0, 1, 51, 1_000, 2_000])
def test_a_restored_front_puts_out_the_same_records(partitions: int, cut: int, tmp_path: Path) -> None:
    s, events = settings(partitions), flawed(EVENTS[:2_000])
    one, other = ToExamples(s, tmp_path / "one"), ToExamples(s, tmp_path / "other")
    list(one.items(ITEMS, 100))
    put_out(one, events[:cut], 130)
    save(one, tmp_path / "snapshot")
    other.restore(tmp_path / "snapshot")
    late = ITEMS[:20]  # the catalogue's ranges cover the events before it
    for batch, messages in ((130, events[cut:]), (1, EVENTS[2_000:2_040])):
        ours, theirs = put_out(one, messages, batch), put_out(other, messages, batch)
        ours += [record for records in one.items(late, 7) for record in records]
        theirs += [record for records in other.items(late, 7) for record in records]
        assert [(r.offset, r.stamp) for r in ours] == [(r.offset, r.stamp) for r in theirs]
        for mine, its in zip(ours, theirs, strict=True):
            assert_frame_equal(mine.rows, its.rows, check_exact=True)
    assert one.counts == other.counts
    assert one.counts["dead_letters"] > 0
    assert [d.stage.digest() for d in one.users] == [d.stage.digest() for d in other.users]
    one.close()
    other.close()


def _lists(local: LocalPipeline, users: Sequence[str]) -> list[Any]:
    return [local.cache.recommend(user, 20, links) for user in users for links in LINKS]


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_restored_pipeline_serves_and_learns_the_same(partitions: int, tmp_path: Path) -> None:
    """Users expire, and items are removed, before the snapshot and after it: a cache shows the former and hides the latter all the same."""
    s = settings(partitions, user_ttl_seconds=600, token_refresh_seconds=300)
    one, other = LocalPipeline(s, tmp_path / "one"), LocalPipeline(s, tmp_path / "other")
    clicked = Counter(json.loads(value or b"")["item_id"] for _, value in EVENTS[:2_500])
    gone: list[Message] = [(item.encode(), None) for item, _ in clicked.most_common(40)]
    users = sorted({key.decode() for key, _ in EVENTS if key})[:150]
    one.feed_items(ITEMS)
    one.feed_events(EVENTS[:2_500], 500)
    one.feed_items(gone[:20])
    save(one, tmp_path / "snapshot")
    other.restore(tmp_path / "snapshot")
    assert _lists(one, users) == _lists(other, users)
    for local in (one, other):
        local.feed_items(gone[20:])
        local.feed_events(EVENTS[2_500:], 500)
    assert one.digests() == other.digests()
    assert _lists(one, users) == _lists(other, users)
    assert [one.cache.item(key.decode()) for key, _ in ITEMS if key] == [other.cache.item(key.decode()) for key, _ in ITEMS if key]
    assert one.cache.versions == other.cache.versions
    one.close()
    other.close()


def _publication(version: int, **tables: dict[str, list[Any]]) -> Publication:
    base, dtypes = {"version": version, "event_ms": 5, "removed": False}, {"vector": pl.Array(pl.Float32, 2)}
    frames = {name: pl.DataFrame({**base, **columns}, schema_overrides=dtypes) for name, columns in tables.items()}
    return Publication(frames, version, 7, np.empty(0, dtype=np.int64))


def test_a_restored_cache_hides_an_item_that_one_part_removed_and_another_still_has(tmp_path: Path) -> None:
    """As where item features were evicted before the vector: only the cache remembers the removal."""
    one, other = ParameterCache(), ParameterCache()
    vectors = {"id": ["a", "b", "c"], "vector": [[1.0, 0.0], [0.9, 0.1], [0.8, 0.2]], "bias": [0.0] * 3}
    popularity = {"id": ["a", "b", "c"], "log2_popularity": [3.0, 2.0, 1.0], "first_ms": [1, 2, 3]}
    gone = {"id": ["b"], "removed": [True], "log2_popularity": [None], "first_ms": [None]}
    users = {"id": ["u"], "vector": [[1.0, 0.0]]}
    one.apply("features-0", _publication(1, user_history={"id": ["u"], "recent": [fingerprint("a")]}), "local")
    one.apply("learner", _publication(3, item_popularity=popularity, item_vectors=vectors, user_vectors=users), "local")
    one.apply("learner", _publication(4, item_popularity=gone), "local")
    into = Snapshot(tmp_path)
    shown.snapshot(one, into)
    into.flush()
    shown.restore(other, tmp_path, 1)
    assert [item.item_id for item in other.recommend("u", 5).items] == ["c"]
    for links in LINKS:
        assert other.recommend("u", 5, links) == one.recommend("u", 5, links)
    assert other.state.writers == one.state.writers
    assert other.sizes == one.sizes


def test_other_settings_are_refused(tmp_path: Path) -> None:
    one = ToExamples(settings(), tmp_path / "one")
    save(one, tmp_path / "snapshot")
    other = ToExamples(settings(half_lives_seconds=(60,)), tmp_path / "other")
    with pytest.raises(SnapshotError, match="half_lives"):
        other.restore(tmp_path / "snapshot")
    one.close()
    other.close()


class Jumpy(Pace):
    """Hands out runs of random lengths, some of them empty, and stops after `events`."""

    def __init__(self, stop: Stop, events: int, seed: int) -> None:
        super().__init__()
        self._stop, self._left, self._random = stop, events, np.random.Generator(np.random.Philox(key=seed))

    def runs(self, ts_ms: np.ndarray) -> Iterator[slice]:
        at = 0
        while at < ts_ms.size:
            end = min(ts_ms.size, at + int(self._random.integers(0, 300)), at + self._left)
            self._left -= end - at
            self._stop.wanted = signal.SIGINT if self._left == 0 else 0
            yield slice(at, end)
            at = end


def _judged(directory: Path, stops: Sequence[int], batch: int = 700) -> tuple[dict[str, object], dict[str, int]]:
    """The result of a replay that is stopped after so many events, again and again, each time in a fresh process's state."""
    log, place = MemoryLog(flawed(EVENTS)), Place()
    for number, events in enumerate([*stops, 10**9]):
        with kept(directory / "state", {"log": "same"}, 0.0) as keeping, Stop() as stop:
            replayed = JudgedReplay(settings(), keeping.work_dir, 0.5, kept=keeping)
            found = keeping.restore(replayed)
            assert (found is None) == (number == 0)
            assert found is None or found.events == place.events
            if found is None:
                replayed.items(ITEMS)
            place = run(Job(log, batch, 0, Jumpy(stop, events, number)), replayed, found or Place(), stop, lambda part, place: None)
            result = replayed.result(), dict(replayed.local.counts)
            replayed.close()
    assert place.events == log.rows
    return result


def test_a_judged_replay_that_is_stopped_gives_the_result_of_one_that_is_not(tmp_path: Path) -> None:
    whole = _judged(tmp_path / "whole", [])
    assert whole[0]["judged"] > 100
    assert whole[0]["hit_rate_20"] > 0
    assert _judged(tmp_path / "stopped", [1, 699, 0, 1_250, 0, 900]) == whole, "700, where a part begins, among the places"


def test_a_run_of_another_log_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    for name, text in (("a.csv", "x"), ("b.csv", "y")):
        (tmp_path / name).write_text(text)
    s, rule = settings(), load_mapping("globo")
    first = {**told_log(tmp_path / "a.csv", rule, None), **shaping(s)}
    with kept(tmp_path / "state", first, 1.0) as keeping:
        assert keeping.restore() is None
        keeping.save(Place(3, 1, 7))
    with kept(tmp_path / "state", first, 1.0) as keeping:
        assert keeping.restore() == Place(3, 1, 7)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "elsewhere" / "a.csv")
    moved = {**told_log(tmp_path / "elsewhere" / "a.csv", rule, None), **shaping(s)}
    assert moved == first
    others = {
        "log was a.csv .*, is b.csv": {**told_log(tmp_path / "b.csv", rule, None), **shaping(s)},
        "--mapping was globo .*, is jodie": {**told_log(tmp_path / "elsewhere" / "a.csv", load_mapping("jodie"), None), **shaping(s)},
        "--catalogue was bundled, is b.csv": {**told_log(tmp_path / "elsewhere" / "a.csv", rule, tmp_path / "b.csv"), **shaping(s)},
        "dimensions was 16, is 24": {**first, **shaping(s.model_copy(update={"dimensions": 24}))},
        "--sort was None, is True": {**first, "--sort": True},
    }
    for told, other in others.items():
        with kept(tmp_path / "state", other, 1.0) as keeping, pytest.raises(SettingsError, match=f"is of another run: {told}"):
            keeping.restore()


def test_where_it_runs_makes_no_other_run() -> None:
    s = settings()
    assert shaping(s) == shaping(s.model_copy(update={"http_port": 1, "data_dir": Path("/x"), "sasl_password": "secret"}))
    assert "secret" not in json.dumps(shaping(s.model_copy(update={"sasl_password": "secret"})))


def test_a_directory_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    with kept(tmp_path, {}, 1.0), pytest.raises(SettingsError, match=f"another run has --state {tmp_path}"), kept(tmp_path, {}, 1.0):
        pass
    with kept(tmp_path, {}, 1.0):
        pass


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    with kept(tmp_path, {}, 1.0) as keeping:
        keeping.save(Place(0, 0, 5))
        keeping.save(Place(0, 0, 9))
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / "run.json").write_bytes(b"{}")
    with kept(tmp_path, {}, 1.0) as keeping:
        assert keeping.restore() == Place(0, 0, 5)


def test_the_first_signal_is_a_wish_and_the_second_is_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        with Stop() as stop:
            assert stop.wanted == 0
            os.kill(os.getpid(), number)
            assert stop.wanted == number
            assert signal.getsignal(signal.SIGINT) is before
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


class Clock:
    """A wall clock that only sleeping moves."""

    def __init__(self) -> None:
        self.seconds, self.slept = 100.0, list[float]()

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


def told(pace: Pace, clock: Clock, ts_ms: list[int]) -> list[tuple[int, float]]:
    """(event, seconds since the start) at which each goes out."""
    return [(at, round(clock.seconds - 100, 2)) for due in pace.runs(np.array(ts_ms, dtype=np.int64)) for at in range(due.start, due.stop)]


def test_event_time_runs_so_many_times_as_fast_as_the_clock() -> None:
    clock = Clock()
    pace = EventPace(60.0, clock.now, clock.sleep)
    assert told(pace, clock, [-1, 1_000_000, 1_000_000, 1_060_000, -1]) == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)]
    assert told(pace, clock, [1_090_000]) == [(0, 1.5)], "the next part goes on where the last one ended"
    assert max(clock.slept) <= PAUSE_SECONDS
    clock.seconds += 10
    assert told(pace, clock, [1_120_000, 1_660_000]) == [(0, 11.5), (1, 11.5)], "what is late goes out at once"
    assert pace.behind == pytest.approx((11.5 - 2) * 60)
    assert (pace.unit, Pace().unit) == ("s of event time", "")


def test_a_rate_spreads_the_events_over_parts() -> None:
    clock = Clock()
    pace = RatePace(10.0, clock.now, clock.sleep)
    assert told(pace, clock, [5, 5, 5]) == [(0, 0), (1, 0.1), (2, 0.2)]
    assert told(pace, clock, [5]) == [(0, 0.3)]
    clock.seconds += 2
    assert pace.behind == pytest.approx(2, abs=0.01)


def test_max_does_not_wait() -> None:
    assert list(Pace().runs(np.arange(1_000))) == [slice(0, 1_000)]
    assert Pace().behind == 0


@pytest.mark.parametrize("speed", ["fast", "x", "0x", "-1x", "60", "1.x", "infx"])
def test_another_speed_is_refused(speed: str) -> None:
    with pytest.raises(SettingsError, match=f"--speed {speed}: give max, or how many times"):
        pace_of(speed)


def test_speed_and_rate_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="--rate 100 and --speed 60x both say how fast"):
        pace_of("60x", 100.0)
    assert [type(pace_of(*given)) for given in (("max",), ("max", 5.0), ("1x",), ("0.5x",))] == [Pace, RatePace, EventPace, EventPace]


class Future:
    def __init__(self) -> None:
        self.done = False

    def succeeded(self) -> bool:
        return self.done

    def get(self, seconds: float) -> None:
        self.done = True


class Broker:
    """Stands for a Sender: acknowledges what it is told to, or all at a flush."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.futures: list[Future] = []

    def send(self, topic: str, message: Message) -> Future:
        self.sent.append(message)
        self.futures.append(Future())
        return self.futures[-1]

    def flush(self) -> None:
        for future in self.futures:
            future.done = True


class Places:
    """Stands for Kept: what was kept, and whether all before it was acknowledged by then."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.places = broker, list[Place]()

    def due(self) -> bool:
        return False

    def save(self, place: Place) -> None:
        assert all(future.done for future in self.broker.futures[: place.events])
        assert len(self.broker.futures) == place.events
        self.places.append(place)


def test_the_place_is_kept_before_event_ids_could_be_forgotten() -> None:
    """Whenever it is killed, what is sent again is younger than half the horizon behind what was sent."""
    chance = np.random.Generator(np.random.Philox(key=3))
    ts_ms = 1_700_000_000_000 + np.cumsum(chance.choice([0, 10, 4_000, 90_000], 3_000, p=[0.5, 0.3, 0.15, 0.05]))
    ts_ms[chance.random(3_000) < 0.02] = -1
    broker = Broker()
    places = Places(broker)
    tail, place = Tail(Flight(broker, "events"), places, horizon_seconds=100), Place()  # type: ignore[arg-type]
    for start in range(0, 3_000, 250):
        tail.take([(None, b"%d" % n) for n in range(start, start + 250)], ts_ms[start : start + 250], place)
        place = place.after(250)
        since, reached = places.places[-1].events, np.flatnonzero(ts_ms[: len(broker.sent)] >= 0)
        unsure = ts_ms[reached[reached >= since]]
        assert unsure.size == 0 or unsure[-1] - unsure[0] <= 50_000
    assert [value for _, value in broker.sent] == [b"%d" % n for n in range(3_000)]
    assert len(places.places) > 100


def test_without_a_state_nothing_is_kept_or_waited_for() -> None:
    broker = Broker()
    tail = Tail(Flight(broker, "events"), None, horizon_seconds=1)  # type: ignore[arg-type]
    tail.take([(None, b"x")] * 3, np.array([0, 10**9, 10**10]), Place())
    assert not any(future.done for future in broker.futures)
    tail.keep(Place(0, 0, 3))
    assert all(future.done for future in broker.futures), "but the end is waited for"


def test_messages_on_their_way_are_counted_and_bounded() -> None:
    broker = Broker()
    flight = Flight(broker, "events")  # type: ignore[arg-type]
    flight.send([(None, b"x")] * IN_FLIGHT)
    broker.futures[1].done = True
    assert len(flight) == IN_FLIGHT, "the first is waited for, and the second with it"
    flight.send([(None, b"x")] * 5)
    assert broker.futures[0].done
    assert len(flight) == IN_FLIGHT


def test_the_parts_of_a_local_replay_are_named() -> None:
    assert parts_of("all") == pipeline.PARTS
    assert parts_of("features") == ("items", "covisitation")
    assert parts_of("features,supa") == ("items", "covisitation", "supa")
    with pytest.raises(SettingsError, match="--parts supa"):
        parts_of("supa")
