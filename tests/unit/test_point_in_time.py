"""Every column of every example of a real log, computed again from the raw events by definitions alone: nothing that came later is in it.

Sums over all earlier events of the same entity, as matrices; no state, no kernels.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from core.hashing import fingerprint
from core.schemas import EVENT, ITEM, USER
from core.stage import Examples
from features.covisitation import Covisitation
from features.declarations import BUCKETS, DWELL, LONG_VIEW, EntityConfig
from features.impressions import OpenImpressions
from features.item_stage import ItemFeatures
from streams import bundled, pipeline
from streams.producing import Message
from streams.replay.examples import ToExamples
from streams.settings import Settings, load
from tests.naive_features import NaiveAffinity, estimate

EVENTS, ROWS = 20_000, 256  # of the log; of a matrix
MS = 1_000


class Log(NamedTuple):
    """Examples of the log, and the columns that the stages gave them."""

    events: pl.DataFrame
    items: dict[str, dict[str, object]]
    user: np.ndarray  # float32 [events, user columns]
    item: np.ndarray  # float32 [events, item columns]
    steps: np.ndarray  # float32 [events], of the step from the user's last item
    labels: list[tuple[int, np.ndarray]]  # ordinal of the impression, what the label was given


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load(batches_partitions=1)


@pytest.fixture(scope="module")
def log(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Log:
    front = ToExamples(settings, tmp_path_factory.mktemp("log"))
    records = [*front.items(bundled.item_messages(), 2_000), *front.events(disordered(list(islice(bundled.event_messages(), EVENTS))), 700)]
    assert front.outcomes["duplicate"] > 100
    front.close()
    rows = pl.concat([record.rows for group in records for record in group], how="diagonal")
    examples = Examples(rows, 0, rows["clock_ms"].to_numpy())
    ItemFeatures(pipeline.item_config(settings)).learn_many(examples)
    Covisitation(pipeline.covisitation_config(settings)).learn_many(examples)
    OpenImpressions(pipeline.impressions_config(settings, 1)).learn_many(examples)
    events = rows["kind"].to_numpy() == EVENT
    items = {row["item_id"]: row for row in rows.filter(kind=ITEM).iter_rows(named=True)}
    ordinals = rows["ordinal"].to_numpy()[examples.columns["label_at"]].tolist()
    labels = list(zip(ordinals, examples.columns["label_numbers"], strict=True))
    told = rows.filter(kind=EVENT)
    steps = examples.columns["steps"][events]
    return Log(told, items, told[USER].to_numpy(), examples.columns["item_features"][events], steps, labels)


def disordered(messages: list[Message]) -> list[Message]:
    """The log as a careless producer would send it: every twentieth event up to two thousand others late, every fiftieth once more."""
    random = np.random.default_rng(3)
    late = random.random(len(messages)) < 0.05
    place = np.arange(len(messages)) + late * random.integers(0, 2_000, len(messages))
    sent = [messages[at] for at in np.argsort(place, kind="stable").tolist()]
    return [message for at, message in enumerate(sent) for _ in range(2 if at % 50 == 0 else 1)]


class Group(NamedTuple):
    """The events of one entity, in the order of the log."""

    ts_ms: np.ndarray
    types: list[str]
    values: np.ndarray
    others: list[int]


def word(text: str) -> int:
    return int.from_bytes(fingerprint(text)[:8], "little", signed=True)


def group(rows: pl.DataFrame, other: str) -> Group:
    return Group(
        rows["ts_ms"].to_numpy(), rows["type"].to_list(), rows["value"].fill_null(np.nan).to_numpy(), [word(o) for o in rows[other]]
    )


def before(found: np.ndarray) -> np.ndarray:
    """The highest value among all rows before each, 0 before the first."""
    return np.concatenate([[0], np.maximum.accumulate(found)[:-1]])


def earlier(n: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows in parts, and which rows stand before each of them: bool [part, n]."""
    for start in range(0, n, ROWS):
        part = slice(start, min(n, start + ROWS))
        yield part, np.arange(n)[None, :] < np.arange(part.start, part.stop)[:, None]


def columns(of: Group, config: EntityConfig) -> np.ndarray:
    """float64 [n, columns]: by the definitions."""
    counters = decayed(of, config)
    parts = [
        counters,
        windows(of, config),
        ages(of, config),
        rates(counters, config),
        distinct(of),
        *([session(of, config)] * bool(config.session_gap_seconds)),
    ]
    return np.concatenate(parts, axis=1)


def weights(of: Group, config: EntityConfig) -> np.ndarray:
    """float64 [n, signals]."""
    views, known = np.array([t == "view" for t in of.types]), np.nan_to_num(of.values)
    told = {LONG_VIEW: views & (known >= config.long_view_seconds), DWELL: views * known}
    return np.stack([told[s] if s in told else np.array([t == s for t in of.types]) for s in config.signals], axis=1).astype(np.float64)


def decayed(of: Group, config: EntityConfig) -> np.ndarray:
    n, out = len(of.types), np.zeros((len(of.types), len(config.signals), len(config.half_lives_seconds)))
    as_of, weight = np.maximum.accumulate(of.ts_ms), weights(of, config)
    for part, is_earlier in earlier(n):
        age = np.where(is_earlier, as_of[part, None] - of.ts_ms[None, :], np.inf)
        for life, seconds in enumerate(config.half_lives_seconds):
            out[part, :, life] = np.exp2(-age / (seconds * MS)) @ weight
    return out.reshape(n, -1)


def windows(of: Group, config: EntityConfig) -> np.ndarray:
    n, out = len(of.types), []
    member = np.array([[t in types for _, types in config.behaviours] for t in of.types], dtype=np.float64)
    for seconds in config.windows_seconds:
        bucket = of.ts_ms // (seconds * MS // BUCKETS)
        head, found = before(bucket), np.zeros((n, member.shape[1]))
        counted, newest = bucket > head - BUCKETS, np.maximum(head, bucket)
        for part, is_earlier in earlier(n):
            inside = (bucket[None, :] > newest[part, None] - BUCKETS) & is_earlier & counted[None, :]
            found[part] = inside.astype(np.float64) @ member
        out.append(found)
    return np.concatenate(out, axis=1)


def ages(of: Group, config: EntityConfig) -> np.ndarray:
    told = []
    for types in (config.types, *(types for _, types in config.behaviours)):
        newest = before(np.where([t in types for t in of.types], of.ts_ms, 0))
        told.append(np.where(newest > 0, np.maximum(0, of.ts_ms - newest) / MS, np.nan))
    return np.stack(told, axis=1)


def rates(counters: np.ndarray, config: EntityConfig) -> np.ndarray:
    lives, longest = len(config.half_lives_seconds), int(np.argmax(config.half_lives_seconds))
    of = {signal: counters[:, at * lives + longest] for at, signal in enumerate(config.signals)}
    return np.stack([(of[r.above] + r.strength * r.prior) / (of[r.below] + r.strength) for r in config.rates], axis=1)


def distinct(of: Group) -> np.ndarray:
    ranks, told, held = [0] * 128, [], 0.0
    for other in of.others:
        told.append(held)
        bits = format(other % (1 << 64), "064b")[::-1]
        index, rank = int(bits[:7][::-1], 2), (bits[7:] + "1").index("1") + 1
        if min(rank, 57) > ranks[index]:
            ranks[index] = min(rank, 57)
            held = estimate(ranks)
    return np.array(told)[:, None]


def session(of: Group, config: EntityConfig) -> np.ndarray:
    told, start, newest, events = [], 0, -(10**15), 0
    for ts_ms in of.ts_ms.tolist():
        if ts_ms - newest > config.session_gap_seconds * MS:
            start, events = ts_ms, 0
        told.append((events, max(0, ts_ms - start) / MS))
        events, newest = events + 1, max(newest, ts_ms)
    return np.array(told, dtype=np.float64)


def affinities(rows: pl.DataFrame, config: EntityConfig) -> np.ndarray:
    """Of one user."""
    naive, told = NaiveAffinity(config.behaviours), []
    for ts_ms, type_, category in rows.select("ts_ms", "type", "category").iter_rows():
        hashed = word(category) if category else 0
        told.append(naive.before(ts_ms, hashed))
        naive.learn(ts_ms, hashed, type_)
    return np.array(told)


def with_groups(log: Log) -> pl.DataFrame:
    """The events with author and first category of their items."""
    entries = pl.DataFrame({"item_id": list(log.items), "item": [row["item"] for row in log.items.values()]})
    shape = pl.Struct({"author": pl.String, "categories": pl.List(pl.String)})
    told = entries.select("item_id", pl.col("item").str.json_decode(shape)).unnest("item")
    told = told.select("item_id", "author", pl.col("categories").list.get(0, null_on_oob=True).alias("category"))
    return log.events.with_row_index("at").join(told, on="item_id", how="left", maintain_order="left")


def assert_close(found: np.ndarray, expected: np.ndarray, names: list[str]) -> None:
    """Half-lives of a minute leave sums that float32 and the order of additions cannot tell from nothing."""
    for at, name in enumerate(names):
        np.testing.assert_allclose(found[:, at], expected[:, at], rtol=2e-5, atol=1e-12, err_msg=name)


def test_user_columns_are_those_of_the_time(log: Log, settings: Settings) -> None:
    config, rows = pipeline.user_config(settings, 0), with_groups(log)
    expected = np.full(log.user.shape, np.nan)
    for own in rows.partition_by("user_id"):
        of = columns(group(own, "item_id"), config.entity)
        expected[own["at"].to_numpy()] = np.concatenate([of, affinities(own, config.entity)], axis=1)
    assert_close(log.user, expected, config.columns)
    assert (rows.group_by("user_id").len()["len"] > 8).sum() > 100


def test_item_author_and_category_columns_are_those_of_the_time(log: Log, settings: Settings) -> None:
    config, rows = pipeline.item_config(settings), with_groups(log)
    names, expected = config.columns, {name: np.full(len(rows), np.nan) for name in config.columns}
    for entity, key, counted in (
        ("item", "item_id", config.item),
        ("author", "author", config.group),
        ("category", "category", config.group),
    ):
        own_names = [feature.name for feature in counted.features(entity)]
        for own in rows.drop_nulls(key).partition_by(key):
            of = columns(group(own, "user_id"), counted)
            for name, column in zip(own_names, of.T, strict=True):
                expected[name][own["at"].to_numpy()] = column
    told = [at for at, name in enumerate(names) if not name.startswith(("room_", "item_age"))]
    there = rows["author"].is_not_null().to_numpy() & rows["category"].is_not_null().to_numpy()
    assert there.mean() > 0.9
    found, wanted = log.item[there][:, told], np.stack([expected[names[at]][there] for at in told], axis=1)
    assert_close(found, wanted, [names[at] for at in told])


def test_a_label_has_the_columns_of_its_impression(log: Log) -> None:
    of = {ordinal: at for at, ordinal in enumerate(log.events["ordinal"].to_list())}
    assert len(log.labels) > 5_000
    for ordinal, numbers in log.labels:
        np.testing.assert_array_equal(numbers, np.concatenate([log.user[of[ordinal]], log.item[of[ordinal]], log.steps[[of[ordinal]]]]))


def test_the_log_has_what_could_go_wrong(log: Log) -> None:
    """Late events of one user, and views with and without a length."""
    late = log.events.with_columns(newest=pl.col("ts_ms").cum_max().over("user_id")).filter(pl.col("ts_ms") < pl.col("newest"))
    assert late.height > 50
    assert log.events.filter(type="view")["value"].is_not_null().any()
