"""`freshet.testing`: it runs what runs live, its clock moves what depends on time, and its assertions can fail."""

import datetime
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from core.errors import SettingsError
from core.schemas import EVENT, ITEM
from freshet.testing import START, Pipeline
from streams import bundled
from streams.replay import LocalPipeline
from streams.settings import Settings, load

NOON = "2026-01-01T12:00:00Z"
SMALL = {"dimensions": 16, "max_users": 8_192, "max_items": 8_192}
CATALOGUE, LOG = list(islice(bundled.item_messages(), 300)), list(islice(bundled.event_messages(), 1_200))


@pytest.fixture
def p():
    with Pipeline(**SMALL) as made:
        yield made


def failure(call, *arguments, **named) -> str:
    with pytest.raises(AssertionError) as caught:
        call(*arguments, **named)
    return str(caught.value)


# The same code, the same bytes


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_log_fed_in_parts_is_what_the_replay_host_makes_of_it(tmp_path: Path, partitions: int) -> None:
    s = load(batches_partitions=partitions, **SMALL)
    local = LocalPipeline(s, tmp_path)
    local.feed_items(CATALOGUE)
    local.feed_events(LOG)
    with Pipeline(s, batches_partitions=partitions) as p:
        p.feed(LOG, CATALOGUE)
        assert p.digests() == local.digests()
        assert p.examples.filter(kind=EVENT).height == local.counts["events"]
        assert p.now_ms == p.cache.clock_ms == local.cache.clock_ms
        for user in {key.decode() for key, _ in LOG[:100]}:
            assert p.answer(user).items == local.cache.recommend(user, 20).items
    local.close()


def test_messages_sent_one_by_one_make_the_same_bytes(p: Pipeline) -> None:
    """Its own calls end where a log does. Without a tick: a log has none."""
    for key, value in CATALOGUE[:100]:
        p.feed(items=[(key, value)])
    for message in LOG[:400]:
        p.feed([message])
    with Pipeline(**SMALL) as whole:
        whole.feed(LOG[:400], CATALOGUE[:100])
        assert p.digests() == whole.digests()
        assert p.examples.drop("offset", "row").equals(whole.examples.drop("offset", "row"))


def story(p: Pipeline, restarts: bool) -> None:
    """A bit of everything; a restart after each call, if so wanted."""
    again = p.restart if restarts else lambda: None
    p.at(NOON)
    for at in range(6):
        p.item(f"video-{at}", author="a1", categories=["cats"], numbers={"duration_seconds": at})
        p.click("ann", f"video-{at}")
        p.event("like", "bob", f"video-{at // 2}", value=1.5, context={"page": "home"}, request_id="r")
        again()
        p.after(minutes=7)
    p.remove_item("video-2")
    p.send(b"not json")
    again()
    p.event("click", "ann", "video-5", event_id="e1")  # a duplicate of the first click
    p.click("cid", "video-1", ts="2026-01-01T10:00:00Z")
    again()


def test_equal_tests_give_equal_bytes_and_a_restart_changes_nothing(p: Pipeline) -> None:
    story(p, restarts=False)
    with Pipeline(**SMALL) as same, Pipeline(**SMALL) as restarted:
        story(same, restarts=False)
        story(restarted, restarts=True)
        for other in (same, restarted):
            assert other.digests() == p.digests()
            assert other.examples.equals(p.examples)
            assert other.dead_letters == p.dead_letters
            assert other.outcomes == p.outcomes == {"accepted": 13, "duplicate": 1, "late": 1, "future": 0}
            for user in ("ann", "bob", "cid", "a stranger"):
                assert other.answer(user).items == p.answer(user).items
                assert other.features(user) == p.features(user)
                assert other.seen(user) == p.seen(user)


def test_the_settings_in_force_are_its_own_but_for_the_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "freshet.toml").write_text('event_types = ["click", "nod"]\nhalf_lives_seconds = [60]\nbatches_partitions = 4\n')
    with Pipeline(**SMALL, seed=7) as p:
        assert (p.settings.batches_partitions, p.settings.seed, p.settings.dimensions) == (1, 7, 16)
        p.event("nod", "ann", "video-1")
        p.expect_features("ann", user_nod_60s=1, user_click_60s=0)
    with Pipeline(Settings(dimensions=8, max_users=8_192), max_items=8_192, batches_partitions=2) as p:
        assert (p.settings.batches_partitions, p.settings.dimensions) == (2, 8)
    with pytest.raises(SettingsError, match="dimension"):
        Pipeline(dimension=16)


# The clock


def test_the_clock_starts_where_it_says_and_goes_on(p: Pipeline) -> None:
    p.click("ann", "video-1")
    assert p.example()["ts_ms"] == p.now_ms == int(datetime.datetime.fromisoformat(START).timestamp() * 1_000)
    p.after(seconds=1, milliseconds=500)
    p.click("ann", "video-1")
    assert p.example()["ts_ms"] - p.example(0)["ts_ms"] == 1_500
    p.at(datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC))
    noon_ms = p.now_ms
    p.at(NOON)
    p.at(noon_ms)
    assert p.now_ms == noon_ms
    p.click("ann", "video-1")
    assert p.example()["clock_ms"] == noon_ms, "the pipeline's clock is the test's"


@pytest.mark.parametrize("time", ["noon", "2026-01-01T12:00:00", datetime.datetime(2026, 1, 1), 1.5, None])
def test_a_time_that_cannot_be_read_is_refused(p: Pipeline, time: object) -> None:
    with pytest.raises(SettingsError, match="RFC 3339"):
        p.at(time)


def test_the_clock_does_not_go_back(p: Pipeline) -> None:
    p.at(NOON)
    with pytest.raises(SettingsError, match=r"11:59:59.000Z lies before 2026-01-01T12:00:00.000Z"):
        p.after(seconds=-1)
    assert p.recommend("ann") == []


def test_features_decay_without_events(p: Pipeline) -> None:
    p.at(NOON)
    p.click("ann", "video-1")
    p.expect_features("ann", user_click_3600s=1, user_click_86400s=1)
    p.after(hours=2)
    p.expect_features("ann", user_click_3600s=0.25, user_click_86400s=2 ** (-2 / 24), user_like_3600s=0)
    p.expect_item_features("video-1", item_click_3600s=0.25, item_like_3600s=0)
    of_nobody = {**p.features("a stranger"), **p.item_features("nothing")}
    assert {of_nobody[name] for name in ("user_click_3600s", "item_click_3600s", "user_session_events", "author_view_60s")} == {0.0}
    assert {of_nobody[name] for name in ("user_since_any", "item_since_engaged")} == {None}
    assert "there is no user_since_any yet, expected 1" in failure(p.expect_features, "a stranger", user_since_any=1)
    before = p.digests()
    p.features("ann")
    assert p.digests() == before, "to look changes nothing"
    p.event("like", "ann", "video-1")
    assert p.example()["user_click_3600s"] == pytest.approx(p.features("ann")["user_click_3600s"])


def test_late_and_future_events_are_made_on_purpose(p: Pipeline) -> None:
    p.at(NOON)
    p.click("ann", "video-1")
    p.click("ann", "video-2", ts="2026-01-01T10:00:00Z")
    assert p.outcomes == {"accepted": 2, "duplicate": 0, "late": 1, "future": 0}
    assert p.seen("ann") == ["video-1", "video-2"], "in the order of their own times"
    assert "BadTimestamp" not in failure(p.click, "ann", "video-3", ts="2026-01-01T12:10:00Z")
    p.expect_dead_letters("bad_timestamp")
    assert "max_future_seconds" in p.dead_letters[0].reason


def test_an_event_ahead_of_the_clock_is_counted_where_kafka_let_it_pass() -> None:
    with Pipeline(**SMALL, max_future_seconds=86_400) as p:
        p.at(NOON)
        p.click("ann", "video-1", ts="2026-01-01T18:00:00Z")
        assert p.outcomes["future"] == 1


def test_duplicates_and_users_are_forgotten_in_their_time(p: Pipeline) -> None:
    p.at(NOON)
    for _ in range(2):
        p.event("click", "ann", "video-1", event_id="one")
        p.event("click", "ann", "video-1", event_id="")
    assert p.outcomes == {"accepted": 3, "duplicate": 1, "late": 0, "future": 0}
    p.after(days=2)
    assert p.event("click", "ann", "video-1", event_id="one") == "one"
    assert p.outcomes["duplicate"] == 1
    p.after(days=31)
    p.expect_features("ann", user_click_86400s=0)


def test_a_live_room_opens_and_ends_with_the_clock(p: Pipeline) -> None:
    p.at(NOON)
    p.item("room", start="2026-01-01T13:00:00Z", end="2026-01-01T14:00:00Z")
    p.item("video")
    assert "'room' is not in the list: it opens at 2026-01-01T13:00:00.000Z" in failure(p.expect_list, "ann", ["room", "video"])
    p.after(hours=1)
    assert sorted(p.recommend("ann")) == ["room", "video"]
    p.after(hours=1)
    assert "'room' is not in the list: it ended at 2026-01-01T14:00:00.000Z" in failure(p.expect_list, "ann", ["room"])
    p.expect_list("ann", ["video"])


def test_an_item_that_was_removed_is_in_no_list(p: Pipeline) -> None:
    for item in ("video-1", "video-2"):
        p.item(item, tags=["cats"])
        p.click("ann", item)
    p.remove_item("video-1")
    p.expect_list("bob", ["video-2"])
    assert "or it was removed" in failure(p.expect_list, "bob", ["video-1", "video-2"])
    p.item("video-1")
    assert sorted(p.recommend("bob")) == ["video-1", "video-2"]
    assert p.item_features("video-1")["item_click_3600s"] == 0.0


def test_a_log_of_two_events_sets_the_clock_too(p: Pipeline) -> None:
    """The pipeline's own clock needs three."""
    p.feed(LOG[:2])
    assert p.now_ms == p.example()["ts_ms"] < 1_700_000_000_000


# Bytes as they are


def test_dead_letters_keep_their_bytes_and_their_headers(p: Pipeline) -> None:
    good = {"type": "click", "user_id": "ann", "item_id": "video-1", "ts": NOON}
    p.at(NOON)
    p.send(b"not json", key="ann")
    p.send({**good, "type": "clik"}, headers=[("trace", b"1")])
    p.send({**good, "user_id": None})
    p.send(None)
    p.send(good)
    p.send(None, catalogue=True)
    p.send({"text": "a cat"}, key="video-1", catalogue=True)
    p.expect_dead_letters("malformed_json", "unknown_type", "wrong_type", "tombstone", "tombstone")
    first, second, *_ = p.dead_letters
    assert (first.message.key, first.message.value, first.message.offset) == (b"ann", b"not json", 0)
    assert (second.message.headers, second.message.offset) == ([("trace", b"1")], 1)
    assert p.examples["kind"].to_list() == [EVENT, ITEM]


def test_cloud_events_are_read(p: Pipeline) -> None:
    p.at(NOON)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"7"),
        ("ce_source", b"/web"),
        ("ce_type", b"com.example.click"),
        ("ce_time", NOON.encode()),
    ]
    for _ in range(2):
        p.send({"user_id": "ann", "item_id": "video-1"}, headers=headers)
    assert p.outcomes == {"accepted": 1, "duplicate": 1, "late": 0, "future": 0}
    assert p.seen("ann") == ["video-1"]


# Failures say what is wrong


def test_a_call_that_makes_a_dead_letter_fails_at_once(p: Pipeline) -> None:
    assert failure(p.event, "clik", "ann", "video-1").startswith("it became a dead letter, unknown_type: type 'clik' is not one of")
    assert "bad_value" in failure(p.item, "")
    assert "bad_value" in failure(p.remove_item, "")
    p.expect_dead_letters("unknown_type", "bad_value", "bad_value")


def test_a_wrong_list_is_shown_beside_the_right_one(p: Pipeline) -> None:
    p.at(NOON)
    for user, item in [("ann", "video-1"), ("bob", "video-1"), ("bob", "video-2")]:
        p.click(user, item)
    p.expect_list("cid", ["video-1", "video-2"], links=["popular"])
    p.expect_list("cid", ["video-1"], k=1, links=["popular"])
    told = failure(p.expect_list, "cid", ["video-1", "video-3"], links=["popular"]).splitlines()
    assert told[0] == "the list of 'cid' is not the one expected (k=20, clock 2026-01-01T12:00:00.000Z):"
    assert [line.split() for line in told[1:4]] == [
        ["served", "link", "score", "expected"],
        ["1", "video-1", "popular", told[2].split()[3], "video-1"],
        ["!", "2", "video-2", "popular", told[3].split()[4], "video-3"],
    ]
    assert told[4] == "'video-3' is not in the list: no event and no catalogue entry tells of it, or it was removed"
    assert "it is one of the last items of 'ann'" in failure(p.expect_list, "ann", ["video-1"])
    assert "others come before it" in failure(p.expect_list, "cid", ["video-2"], k=1, links=["popular"])
    for wrong in ([], ["video-1"], ["video-2", "video-1"], ["video-1", "video-2", "video-1"]):
        assert "!" in failure(p.expect_list, "cid", wrong, links=["popular"])


def test_wrong_features_are_named(p: Pipeline) -> None:
    p.click("ann", "video-1")
    p.expect_features("ann", user_click_3600s=1)
    assert failure(p.expect_features, "ann", user_click_3600s=1.001, user_like_3600s=0) == (
        "features of 'ann' are not as expected:\n  user_click_3600s is 1, expected 1.001"
    )
    assert "there is no user_clik_3600s; do you mean user_click_3600s" in failure(p.expect_features, "ann", user_clik_3600s=1)
    assert "item_click_3600s is 1, expected 0" in failure(p.expect_item_features, "video-1", item_click_3600s=0)


def test_wrong_dead_letters_are_shown(p: Pipeline) -> None:
    p.expect_dead_letters()
    assert failure(p.expect_dead_letters, "tombstone") == "dead letters: expected ['tombstone'], got\n  none"
    p.send(b"{")
    assert "b'{'" in failure(p.expect_dead_letters)
    assert failure(p.expect_dead_letters, "tombstone").splitlines()[1].startswith("  malformed_json: not JSON")


def test_an_example_that_is_not_there_is_told_with_what_became_of_the_events(p: Pipeline) -> None:
    assert p.examples.is_empty()
    p.event("click", "ann", "video-1", event_id="one")
    p.event("click", "ann", "video-1", event_id="one")
    assert p.example(0) == p.example(-1)
    assert "'duplicate': 1" in failure(p.example, 1)
    failure(p.example, -2)


def test_nothing_is_left_behind() -> None:
    with Pipeline(**SMALL) as p:
        directory = Path(p._directory.name)
        p.click("ann", "video-1")
        p.restart()
        assert directory.is_dir()
    assert not directory.exists()


def test_it_needs_neither_pytest_nor_torch_nor_a_broker() -> None:
    code = "import sys, freshet.testing; print(*sorted(set(sys.modules) & {'pytest', 'torch', 'jgo'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip() == ""


def test_features_leave_nothing_behind_until_the_end() -> None:
    with Pipeline(dimensions=16) as p:
        p.click("ann", "video-1")
        before = sorted(Path(p._directory.name).iterdir())
        p.expect_features("ann", user_click_60s=1)
        p.expect_item_features("video-1", item_click_60s=1)
        assert sorted(Path(p._directory.name).iterdir()) == before


@pytest.mark.parametrize("user", ["ann", "bob", "cat", "dan"])
def test_a_restart_before_every_partition_has_published(user: str) -> None:
    with Pipeline(**SMALL, batches_partitions=4) as p:
        p.click(user, "video-1")
        p.restart()
        assert p.seen(user) == ["video-1"]
        p.click(user, "video-2")
        assert p.seen(user) == ["video-2", "video-1"]
