"""Label rows of the user stage at their places, against the slow join over what the stage gives without labels; cuts, restarts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from core.errors import SettingsError, SnapshotError
from core.labels import KINDS, POLICIES, POSITIVE_KINDS
from core.schemas import BATCHES, EVENT, ITEM, LABEL, TICK, USER
from features.config import UserConfig
from features.label_config import LabelConfig
from features.user_stage import UserStage
from tests.naive_labels import NaiveLabel, Row, Told, join
from tests.snapshots import save

T0 = 1_767_225_600_000
TYPES = ("impression", "click", "purchase", "exit", "view")
WITHOUT = UserConfig(
    partition=3, types=TYPES, half_lives_seconds=(60,), history_types=("click",), history_items=2, hot_bytes=1, cache_bytes=1 << 20,
    future_seconds=300, max_open_impressions=50,
)  # fmt: skip
LABELS = (
    LabelConfig("click", ("click",), policy="sliver", window_seconds=60, horizon_seconds=240),
    LabelConfig("bought", ("purchase",), opens=("click", "view"), policy="defer", window_seconds=60, horizon_seconds=300),
    LabelConfig("seen", ("view",), policy="fnw", window_seconds=60, horizon_seconds=300),
)
WITH = replace(WITHOUT, labels=LABELS)


def random_rows(seed: int, count: int) -> pl.DataFrame:
    """Rows of `batches`: out of order, some sent twice, some of the future, some without an item; ticks; catalogue entries."""
    random, now_ms, rows = np.random.default_rng(seed), T0, []
    for at in range(count):
        now_ms += int(random.exponential(3_000))
        event = {
            "kind": EVENT,
            "ts_ms": now_ms - int(random.exponential(10_000)) * (random.random() < 0.3) + 10_000_000 * (random.random() < 0.01),
            "type": TYPES[random.choice(len(TYPES), p=(0.45, 0.25, 0.1, 0.1, 0.1))],
            "user_id": f"u{random.integers(3)}",
            "item_id": None if random.random() < 0.05 else f"i{random.integers(3)}",
            "event_id": f"e{at - int(random.integers(20)) * (random.random() < 0.1)}",
            "request_id": f"r{random.integers(3)}" if random.random() < 0.4 else None,
        }
        rest = {"kind": TICK, "ts_ms": now_ms} if random.random() < 0.5 else {"kind": ITEM, "ts_ms": 0, "item_id": "i1", "item": "{}"}
        rows.append(event if random.random() < 0.85 else rest)
    return pl.DataFrame([{"source": 0, "offset": at, "sent_ms": T0 + at, **row} for at, row in enumerate(rows)], schema=BATCHES)


def naive_rows(examples: pl.DataFrame) -> list[Row]:
    """What the stage gives without labels, as the slow join takes it."""
    users, items, requests = (
        {id_: at for at, id_ in enumerate(examples[name].drop_nulls().unique(), 1)} for name in ("user_id", "item_id", "request_id")
    )
    rows = []
    for row in examples.iter_rows(named=True):
        ts_ms = min(row["ts_ms"], row["clock_ms"] + 300_000) if row["clock_ms"] else row["ts_ms"]
        pair = (users[row["user_id"]], items[row["item_id"]]) if row["item_id"] else (0, 0)
        rows.append(Row(ts_ms, row["clock_ms"], row["type"], pair, requests.get(row["request_id"], 0), row["ordinal"]))
    return rows


def expected_rows(examples: pl.DataFrame, told: list[Told]) -> list[dict[str, object]]:
    """The rows of `examples` with label rows between them, as dicts."""
    rows = list(examples.iter_rows(named=True))
    out: list[dict[str, object]] = []
    for at in range(len(rows) + 1):
        out += [label_row(rows, one) for one in told if one.at == at]
        out += rows[at : at + 1]
    return out


def label_row(rows: list[dict[str, object]], told: Told) -> dict[str, object]:
    policy, cause = LABELS[told.label].policy, rows[told.row]
    kept = {name: cause[name] for name in ("source", "offset", "row", "upstream", "clock_ms", "sent_ms")}
    kind = KINDS.index(told.kind)
    return {
        **dict.fromkeys(cause), **kept, "kind": LABEL, "ts_ms": told.ts_ms, "value": float(kind in POSITIVE_KINDS), "ordinal": told.ordinal,
        "label": LABELS[told.label].name, "policy": POLICIES.index(policy), "label_kind": kind, "delay_ms": told.delay_ms,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_label_rows_stand_where_the_slow_join_puts_them(seed: int, tmp_path: Path) -> None:
    rows = random_rows(seed, 1_500)
    plain, labelled = UserStage(WITHOUT, tmp_path / "a"), UserStage(WITH, tmp_path / "b")
    examples, woven = plain.apply(rows, 7), labelled.apply(rows, 7)
    naive = [NaiveLabel(label, 50) for label in LABELS]
    expected = pl.DataFrame(expected_rows(examples, join(naive, naive_rows(examples))), schema=examples.schema)
    assert_frame_equal(woven, expected)
    assert woven.schema == examples.schema
    assert labelled.labels is not None and plain.labels is None
    assert labelled.labels.open == {label.name: of.open for label, of in zip(LABELS, naive, strict=True)}
    assert woven.filter(kind=LABEL)["label"].value_counts().height == 3
    for stage in (plain, labelled):
        stage.close()


def test_cuts_and_restarts_change_nothing(tmp_path: Path) -> None:
    rows = random_rows(9, 1_200)
    whole = UserStage(WITH, tmp_path / "whole")
    expected = whole.apply(rows, 0).drop("offset", "row")
    for size in (1, 37, 400):
        stage, parts = UserStage(WITH, tmp_path / f"work-{size}"), []
        for at in range(0, rows.height, size):
            parts.append(stage.apply(rows[at : at + size], at))
            if at % (10 * size) == 0:
                save(stage, tmp_path / f"saved-{size}-{at}")
                stage.close()
                stage = UserStage(WITH, tmp_path / f"work-{size}-{at}")
                stage.restore(tmp_path / f"saved-{size}-{at}")
        assert_frame_equal(pl.concat(parts).drop("offset", "row"), expected)
        assert stage.digest() == whole.digest()
        stage.close()
    whole.close()


def test_a_checkpoint_of_other_labels_is_refused(tmp_path: Path) -> None:
    stage = UserStage(WITH, tmp_path / "a")
    save(stage, tmp_path / "saved")
    for changed in (WITHOUT, replace(WITH, labels=LABELS[:2]), replace(WITH, max_open_impressions=51)):
        other = UserStage(changed, tmp_path / "b")
        with pytest.raises(SnapshotError, match=r"`(labels|max_open)` was"):
            other.restore(tmp_path / "saved")
        other.close()
    stage.close()


def test_a_label_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(SettingsError, match="`positive` of label click names clack"):
        replace(WITHOUT, labels=(LabelConfig("click", ("clack",)),))


def test_label_rows_have_no_features_of_their_own(tmp_path: Path) -> None:
    stage = UserStage(WITH, tmp_path)
    woven = stage.apply(random_rows(1, 300), 0)
    assert (woven[USER].is_null() == woven["kind"].is_in([LABEL, TICK])).all()
    stage.close()
