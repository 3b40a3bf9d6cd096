"""Labels get the features of their impression's time: the bounded table against a list, the label learner behind it, the whole pipeline."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from core.composite import CompositeStage
from core.errors import SettingsError, SnapshotError
from core.hashing import fingerprint
from core.labels import FINAL_NEGATIVE, IN_WINDOW, SLIVER
from core.schemas import EVENT, LABEL, TICK, examples_schema
from core.stage import Examples
from features.impressions import ImpressionsConfig, OpenImpressions
from freshet.testing import Pipeline
from learners.labels import LabelLearner, LogisticConfig
from tests.snapshots import save

T0 = 1_767_225_600_000
USER_WIDTH, ITEM_WIDTH = 3, 2
CONFIG = ImpressionsConfig((("click", ("impression",)),), USER_WIDTH, ITEM_WIDTH, upstreams=2, max_open=20)
LOGISTIC = LogisticConfig(labels=("click",), numerics=USER_WIDTH + ITEM_WIDTH, buckets=64)


class Counts:
    """Stands before the impressions: item columns that say which row of the log they belong to."""

    name = "items"

    def learn_many(self, examples: Examples) -> None:
        ordinals = examples.first_ordinal + np.arange(len(examples), dtype=np.float32)
        examples.columns["item_features"] = np.stack([ordinals, ordinals / 2], axis=1)

    def maintain(self, ordinal: int, clock_ms: int) -> None: ...


class Kept:
    """Stands behind the impressions: what labels were given."""

    name = "kept"

    def __init__(self) -> None:
        self.rows: list[tuple[int, list[float], list[int]]] = []

    def learn_many(self, examples: Examples) -> None:
        at, numbers, categories = (examples.columns[f"label_{name}"].tolist() for name in ("at", "numbers", "categories"))
        self.rows += list(zip([examples.first_ordinal + row for row in at], numbers, categories, strict=True))

    def maintain(self, ordinal: int, clock_ms: int) -> None: ...


def random_examples(seed: int, count: int) -> pl.DataFrame:
    """Impressions, other events, ticks, and labels of impressions that may be long gone, of two upstreams."""
    random, ordinals, shown, rows = np.random.default_rng(seed), [0, 0], [], []
    for at in range(count):
        upstream, kind = int(random.integers(2)), random.random()
        base = {"kind": EVENT, "upstream": upstream, "clock_ms": T0 + at, "ts_ms": T0 + at, "policy": -1, "label_kind": -1, "delay_ms": 0}
        if kind < 0.35 and shown:
            origin = shown[-min(len(shown), 1 + int(random.exponential(15)))]
            told = {"kind": LABEL, "label": "click", "policy": SLIVER, "label_kind": int(random.choice([IN_WINDOW, FINAL_NEGATIVE]))}
            rows.append({**base, **told, "upstream": origin[0], "ordinal": origin[1]})
        elif kind < 0.4:
            rows.append({**base, "kind": TICK, "ordinal": 0})
        else:
            ordinals[upstream] += 1
            type_ = "impression" if random.random() < 0.6 else "click"
            item = None if random.random() < 0.1 else f"i{at % 7}"
            if type_ == "impression" and item:
                shown.append((upstream, ordinals[upstream]))
            told = {"type": type_, "user_id": f"u{at % 5}", "item_id": item, "ordinal": ordinals[upstream]}
            rows.append({**base, **told, "user": random.random(USER_WIDTH).astype(np.float32).tolist()})
    fixed = {"source": 0, "offset": 0, "row": 0, "sent_ms": 0}
    return pl.DataFrame([{**fixed, **row} for row in rows], schema=examples_schema(USER_WIDTH))


def naive(examples: pl.DataFrame) -> Iterator[tuple[int, list[float], list[int]] | None]:
    """What each label row is given, None where its impression is gone."""
    held: list[deque[tuple[int, list[float], list[int]]]] = [deque(maxlen=CONFIG.max_open) for _ in range(2)]
    for ordinal, row in enumerate(examples.filter(pl.col("kind") != TICK).iter_rows(named=True)):
        if row["kind"] == LABEL:
            kept = next((one for one in held[row["upstream"]] if one[0] == row["ordinal"]), None)
            yield kept and (ordinal, *kept[1:])
        elif row["type"] == "impression" and row["item_id"]:
            words = [int.from_bytes(fingerprint(row[name])[:8], "little", signed=True) for name in ("user_id", "item_id")]
            held[row["upstream"]].append((row["ordinal"], [*row["user"], float(ordinal), ordinal / 2], words))


def learned(examples: pl.DataFrame, sizes: Sequence[int]) -> tuple[OpenImpressions, LabelLearner, Kept]:
    parts = OpenImpressions(CONFIG), LabelLearner(LOGISTIC), Kept()
    stage, at, k = CompositeStage([Counts(), *parts], 2), 0, 0  # type: ignore[list-item]
    while at < examples.height:
        stage.apply(examples[at : at + sizes[k % len(sizes)]], 0)
        at, k = at + sizes[k % len(sizes)], k + 1
    return parts


@pytest.mark.parametrize("sizes", [(2_000,), (1, 2, 50)])
def test_labels_get_what_was_known_at_their_impression(sizes: tuple[int, ...]) -> None:
    examples = random_examples(4, 1_500)
    expected = list(naive(examples))
    impressions, learner, kept = learned(examples, sizes)
    assert kept.rows == [one for one in expected if one]
    assert impressions.missing == sum(one is None for one in expected) > 20
    assert impressions.kept == 40
    assert learner.model.totals.rows.sum() == len(kept.rows) > 200


def test_cuts_do_not_matter_and_a_restart_goes_on_alike(tmp_path: Path) -> None:
    examples = random_examples(5, 1_200)
    whole = learned(examples, (5_000,))
    for part in learned(examples[:700], (3, 90))[:2]:
        save(part, tmp_path / part.name)
    again = OpenImpressions(CONFIG), LabelLearner(LOGISTIC)
    for part in again:
        part.restore(tmp_path / part.name)
    stage = CompositeStage([Counts(), *again], 2)  # type: ignore[list-item]
    stage.ordinal = examples[:700].filter(pl.col("kind") != TICK).height
    stage.apply(examples[700:], 0)
    assert [part.digest() for part in again] == [part.digest() for part in whole[:2]]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    save(OpenImpressions(CONFIG), tmp_path)
    other = OpenImpressions(ImpressionsConfig((("click", ("view",)),), USER_WIDTH, ITEM_WIDTH, upstreams=2, max_open=20))
    with pytest.raises(SnapshotError, match="`opens` was"):
        other.restore(tmp_path)
    for bad in ({"opens": ()}, {"upstreams": 0}, {"max_open": 0}):
        with pytest.raises(SettingsError, match=f"`{next(iter(bad))}`"):
            ImpressionsConfig(**{"opens": CONFIG.opens, "user_width": 1, "item_width": 1, **bad})  # type: ignore[arg-type]


def test_a_label_that_the_settings_do_not_name_is_counted() -> None:
    learner = LabelLearner(LOGISTIC)
    rows = random_examples(1, 200).with_columns(label=pl.lit("other"))
    examples = Examples(rows, 0, rows["clock_ms"].to_numpy())
    at = np.flatnonzero(rows["kind"].to_numpy() == LABEL)
    examples.columns |= {
        "label_at": at,
        "label_numbers": np.zeros((at.size, 5), np.float32),
        "label_categories": np.zeros((at.size, 2), np.int64),
    }
    learner.learn_many(examples)
    assert learner.unknown == at.size > 0
    assert learner.model.totals.rows.sum() == 0


def test_the_pipeline_learns_which_items_are_clicked() -> None:
    """Half of the items are clicked always, half never; the running loss of what the label's model said beforehand tells."""
    with Pipeline(labels={"click": "sliver"}) as p:
        for at in range(600):
            p.after(seconds=7)
            p.impression(f"u{at % 11}", f"i{at % 6}")
            if at % 2:
                p.click(f"u{at % 11}", f"i{at % 6}")
        p.after(hours=2)
        told = p.labels
        assert told.height == 600
        assert told["kind"].value_counts().sort("kind").rows() == [("final_negative", 300), ("in_window", 300)]
        assert told.filter(kind="in_window")["delay_ms"].max() < 30_000
        assert (told.filter(kind="final_negative")["delay_ms"] >= 3_600_000).all()
        learner = next(part for part in p._host.learner.stage.parts if part.name == "labels")
        means = learner.model.means(0)
        assert means["log_loss"] < 0.6 * math.log(2)
        assert means["observed_rate"] == pytest.approx(0.5, abs=0.01)


def test_many_impressions_of_one_label_do_not_push_out_those_of_another() -> None:
    labels = {"click": "sliver", "purchase": {"policy": "defer", "opens": ["click"], "horizon_seconds": 7_200}}
    with Pipeline(labels=labels, max_open_impressions=50) as p:
        for at in range(200):
            p.after(seconds=10)
            p.impression("ann", f"i{at}")
            if at % 20 == 0:
                p.click("ann", f"i{at}")
        p.after(hours=3)
        parts = {part.name: part for part in p._host.learner.stage.parts}
        assert p.labels.filter(label="purchase", kind="final_negative").height == 10
        assert parts["impressions"].missing == 0
        assert parts["labels"].model.totals.rows[1].sum() == 20


def test_what_producers_sent_is_counted_without_the_labels() -> None:
    with Pipeline() as p:
        p.item("video-1")
        p.impression("ann", "video-1")
        p.click("ann", "video-1")
        p.after(minutes=2)
        p.click("bob", "video-1")
        assert p.labels.height == 1
        assert p.cache.learned["learner"] == 4 == p.cache.versions["learner"] - 1


def test_labels_can_be_turned_off_and_an_old_checkpoint_then_says_so(tmp_path: Path) -> None:
    with Pipeline(labels={}) as p:
        p.impression("ann", "video-1")
        p.after(hours=2)
        assert p.labels.is_empty()
        assert [part.name for part in p._host.learner.stage.parts] == ["items", "covisitation", "supa", "tokenizer"]
        save(p._host.learner.stage, tmp_path)
    with Pipeline() as p, pytest.raises(SnapshotError, match="nothing for impressions, labels"):
        p._host.learner.stage.restore(tmp_path)


def test_the_label_row_on_the_log_says_which_impression_it_belongs_to() -> None:
    with Pipeline(labels={"click": {"policy": "vanilla", "window_seconds": 60, "horizon_seconds": 600}}) as p:
        p.click("bob", "video-2")
        p.impression("ann", "video-1")
        p.after(seconds=90)
        p.click("ann", "video-1")
        p.after(seconds=1)
        [negative, late] = p.labels.rows(named=True)
        impression = next(row for row in p.examples.iter_rows(named=True) if row["type"] == "impression")
        assert negative["ordinal"] == late["ordinal"] == impression["ordinal"] == 2
        assert (negative["kind"], negative["delay_ms"], negative["value"]) == ("negative", 60_000, 0.0)
        assert (late["kind"], late["delay_ms"], late["value"]) == ("late", 90_000, 1.0)
        assert late["policy"] == "vanilla"
