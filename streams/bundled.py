"""The sample that ships with the package: 50,001 events and 7,583 videos of KuaiRand-Pure (streams/data/NOTICE)."""

from collections.abc import Iterator
from importlib import resources
from typing import Any

import msgspec
import polars as pl


class _Event(msgspec.Struct, omit_defaults=True):
    """The producer's JSON of one event."""

    event_id: str
    type: str
    user_id: str
    item_id: str
    ts: int  # epoch ms
    value: float | None = None


def events() -> pl.DataFrame:
    """One row per event in log order, ts_ms never falling: event_id, type, user_id, item_id, ts_ms, value (seconds of a view)."""
    return _read("kuairand_events.parquet")


def items() -> pl.DataFrame:
    """One row per video, oldest upload first: item_id, categories, tags, author, numbers (duration_seconds)."""
    return _read("kuairand_items.parquet")


def event_messages() -> Iterator[tuple[bytes, bytes]]:
    """(key = user_id, value = JSON) of each event, in log order, as a producer sends them."""
    encode = msgspec.json.Encoder().encode
    for row in events().iter_rows():
        event = _Event(*row)
        yield event.user_id.encode(), encode(event)


def item_messages() -> Iterator[tuple[bytes, bytes]]:
    """(key = item_id, value = JSON) of each video, in catalogue order."""
    encode = msgspec.json.Encoder().encode
    for row in items().iter_rows(named=True):
        yield row["item_id"].encode(), encode(row | {"numbers": _known(row["numbers"])})


def _known(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if value is not None}


def _read(name: str) -> pl.DataFrame:
    return pl.read_parquet(resources.files("streams").joinpath("data", name).read_bytes())
