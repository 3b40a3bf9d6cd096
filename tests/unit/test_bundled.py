"""The bundled sample: in order, consistent, within the contract, credited, small."""

import itertools
from importlib import resources

import msgspec
import polars as pl
import pytest

from core.schemas import EVENT_TYPES
from streams import bundled

# What one impression leads to, in the order in which it must stand.
ORDER = ["impression", "click", "view", "like", "follow", "comment", "share", "hate"]


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return bundled.events()


def test_events_are_in_order_and_unique(events: pl.DataFrame) -> None:
    assert events.height == 50_001
    assert events["ts_ms"].is_sorted()
    assert events["event_id"].is_unique().all()
    assert events.drop("value").null_count().sum_horizontal().item() == 0


def test_types_are_the_contracts_and_stand_in_their_order(events: pl.DataFrame) -> None:
    assert set(events["type"]) == set(ORDER)
    assert set(ORDER) <= set(EVENT_TYPES)
    for _, group in itertools.groupby(events.rows(named=True), key=lambda row: row["event_id"].split("-")[0]):
        rows = list(group)
        places = [ORDER.index(row["type"]) for row in rows]
        assert places[0] == 0
        assert places == sorted(set(places))
        assert len({(row["user_id"], row["item_id"], row["ts_ms"]) for row in rows}) == 1


def test_only_views_have_a_value_and_follow_a_click(events: pl.DataFrame) -> None:
    assert set(events.filter(pl.col("value").is_not_null())["type"]) == {"view"}
    views = events.filter(pl.col("type") == "view")
    assert views["value"].null_count() == 0
    assert views["value"].min() > 0
    clicks = events.filter(pl.col("type") == "click")["event_id"].str.strip_suffix("-c")
    assert set(views["event_id"].str.strip_suffix("-v")) <= set(clicks)


def test_users_come_back(events: pl.DataFrame) -> None:
    users = events.filter(pl.col("type") == "click")["user_id"]
    assert len(users) - users.n_unique() > 4_500


def test_every_item_of_the_events_is_in_the_catalogue(events: pl.DataFrame) -> None:
    items = bundled.items()
    assert items["item_id"].is_unique().all()
    assert set(events["item_id"]) <= set(items["item_id"])
    assert not any(word.endswith("unknown") for word in items["tags"].explode().drop_nulls())
    assert items["categories"].list.len().mean() > 1


def test_event_messages_say_what_the_rows_say(events: pl.DataFrame) -> None:
    messages = list(bundled.event_messages())
    assert len(messages) == events.height
    for (key, value), row in zip(messages, events.rows(named=True), strict=True):
        sent = msgspec.json.decode(value)
        assert key.decode() == sent["user_id"]
        assert sent.pop("ts") == row.pop("ts_ms")
        assert sent == {name: given for name, given in row.items() if given is not None}


def test_item_messages_say_what_the_rows_say() -> None:
    messages = dict(bundled.item_messages())
    items = bundled.items()
    assert [key.decode() for key in messages] == items["item_id"].to_list()
    for row in items.rows(named=True):
        sent = msgspec.json.decode(messages[row["item_id"].encode()])
        seconds = row["numbers"]["duration_seconds"]
        assert sent["numbers"] == ({} if seconds is None else {"duration_seconds": seconds})
        assert {**sent, "numbers": row["numbers"]} == row


def test_the_sample_is_small_and_credited() -> None:
    data = resources.files("streams") / "data"
    assert sum(len((data / name).read_bytes()) for name in ("kuairand_events.parquet", "kuairand_items.parquet")) < 2_000_000
    notice = (data / "NOTICE").read_text()
    for credit in ("KuaiRand-Pure", "CC BY-SA 4.0", "Chongming Gao", "CIKM", "What was changed", "benchmarks/make_bundle.py"):
        assert credit in notice
