"""The tokenizer inside the learner stage: cuts, snapshots, stability, drift, removals, publications."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.composite import CompositeStage
from core.errors import SettingsError, SnapshotError
from core.ids import SEGMENT_ROWS
from core.schemas import EVENT, ITEM
from core.snapshot import Snapshot
from core.stage import Examples
from learners.tokenizer import TokenizerConfig, TokenizerLearner, codebook, kernel, refresh
from learners.tokenizer.content import content_vector
from tests.snapshots import save

START_MS = 1_700_000_000_000
BEHAVIOUR, CONTENT = 6, 8
CONFIG = TokenizerConfig(
    behaviour_dimensions=BEHAVIOUR, content_dimensions=CONTENT, capacity=2048, levels=2, words=6, min_items=24, refresh_seconds=60,
    active_seconds=600, slice_items=2, slice_seconds=30, kept_codebooks=3,
)  # fmt: skip


class Vectors:
    """Stands where SUPA does: hands the log's own column `vector` on."""

    name = "vectors"

    def learn_many(self, examples: Examples) -> None:
        examples.columns["item_vector"] = examples.rows["vector"].to_numpy().astype(np.float32)

    def maintain(self, ordinal: int, clock_ms: int) -> None: ...

    def score(self, user_id: str, item_ids: object) -> np.ndarray:
        raise NotImplementedError

    def touched(self) -> dict[str, pl.DataFrame]:
        return {}

    def snapshot(self, into: Snapshot) -> None: ...

    def restore(self, directory: Path) -> None: ...

    def digest(self) -> str:
        return ""


def log(kinds: np.ndarray, ids: list[str], entries: list[str | None], vectors: np.ndarray, ts_ms: np.ndarray) -> pl.DataFrame:
    n, is_event = len(ids), kinds == EVENT
    return pl.DataFrame(
        {
            "kind": kinds.astype(np.uint8),
            "upstream": np.where(is_event, 0, -1).astype(np.int16),
            "clock_ms": ts_ms,
            "sent_ms": ts_ms,
            "ts_ms": np.where(is_event, ts_ms, 0),
            "type": pl.Series(["click" if event else None for event in is_event], dtype=pl.String),
            "item_id": ids,
            "item": pl.Series(entries, dtype=pl.String),
            "vector": pl.Series(vectors.astype(np.float32), dtype=pl.Array(pl.Float32, vectors.shape[1])),
        },
        height=n,
    )


def random_log(seed: int, n: int, items: int = 60) -> pl.DataFrame:
    """Clicks with walking vectors, catalogue rows and removals, one row a second."""
    rng = np.random.default_rng(seed)
    item, kinds = rng.integers(items, size=n), np.where(rng.random(n) < 0.15, ITEM, EVENT)
    removed = (kinds == ITEM) & (rng.random(n) < 0.2)
    walk, vectors = rng.normal(size=(items, BEHAVIOUR)), np.empty((n, BEHAVIOUR))
    for i in range(n):
        walk[item[i]] += 0.15 * rng.normal(size=BEHAVIOUR)
        vectors[i] = walk[item[i]]
    entries = [msgspec.json.encode({"text": f"w{rng.integers(9)} w{rng.integers(9)}"}).decode() for _ in range(n)]
    shown = [entry if kind == ITEM and not gone else None for entry, kind, gone in zip(entries, kinds, removed, strict=True)]
    return log(kinds, [f"i{k}" for k in item], shown, vectors, START_MS + 1000 * np.arange(n))


def stage_of(config: TokenizerConfig = CONFIG) -> tuple[CompositeStage, TokenizerLearner]:
    learner = TokenizerLearner(config)
    return CompositeStage([Vectors(), learner], upstreams=1), learner


def learned(rows: pl.DataFrame, config: TokenizerConfig = CONFIG) -> TokenizerLearner:
    stage, learner = stage_of(config)
    stage.apply(rows, 0)
    return learner


def check_codes(learner: TokenizerLearner) -> None:
    """The table of taken codes, and what is counted of it, equal a count over the items."""
    held = Counter(learner.tokens_of(id_) for id_ in learner._ids.ids if id_ is not None)
    held.pop(None, 0)
    for code, items in held.items():
        assert kernel.items_of_code(learner._taken, kernel.full_code(np.array(code, dtype=np.uint16), learner.config.words)) == items
    assert int(learner._taken.items.sum()) == sum(held.values()) == learner.items
    assert learner.collisions == sum(n for n in held.values() if n > 1) / max(1, learner.items)
    coded = learner._items.status == kernel.CODED
    slots = learner._refresh.shelf.versions.size
    np.testing.assert_array_equal(learner._taken.book_items, np.bincount(learner._items.book[coded], minlength=slots))


LOG = random_log(1, 1800)
WHOLE = learned(LOG)
ALL_TOUCHED = {name: rows.to_dicts() for name, rows in WHOLE.touched().items()}


def test_the_log_of_these_tests_meets_refreshes_under_way() -> None:
    stage, learner = stage_of()
    phases = set()
    for start in range(0, LOG.height, SEGMENT_ROWS):
        stage.apply(LOG[start : start + SEGMENT_ROWS], 0)
        phases.add(learner._refresh.progress.phase)
    assert {refresh.ENCODE, refresh.FINAL_SUM} <= phases
    assert all(learner.recoded.values())
    assert len(ALL_TOUCHED["codebook"]) > CONFIG.levels
    check_codes(learner)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, LOG.height - 1), max_size=12))
def test_the_cut_of_the_log_does_not_matter(cuts: list[int]) -> None:
    stage, learner = stage_of()
    edges = [0, *sorted(cuts), LOG.height]
    for start, stop in pairwise(edges):
        stage.apply(LOG[start:stop], 0)
    assert learner.digest() == WHOLE.digest()
    assert {name: rows.to_dicts() for name, rows in learner.touched().items()} == ALL_TOUCHED


def test_row_by_row_is_the_same() -> None:
    stage, learner = stage_of()
    for at in range(LOG.height):
        stage.apply(LOG[at : at + 1], 0)
    assert learner.digest() == WHOLE.digest()


def test_a_snapshot_at_any_segment_goes_on_bitwise(tmp_path: Path) -> None:
    """Every restore continues to the end; the snapshots are chained, so that unchanged files are links."""
    stage, _ = stage_of()
    previous: Path | None = None
    phases = set()
    for start in range(0, LOG.height, 150):
        stage.apply(LOG[start : start + 150], 0)
        here = tmp_path / str(start)
        here.mkdir()
        save(stage, here, previous)
        previous = here
        restored, learner = stage_of()
        restored.restore(here)
        assert restored.digest() == stage.digest()
        phases.add(learner._refresh.progress.phase)
        restored.apply(LOG[start + 150 :], 0)
        assert learner.digest() == WHOLE.digest()
        assert {name: rows.to_dicts() for name, rows in learner.touched().items()} == ALL_TOUCHED
    assert {refresh.ENCODE, refresh.FINAL_SUM} <= phases


@pytest.mark.parametrize("phase", [refresh.SUM, refresh.CENTRE, refresh.ENCODE, refresh.FINAL_SUM, refresh.FINAL_CENTRE])
def test_a_snapshot_in_the_middle_of_each_phase_goes_on_bitwise(tmp_path: Path, phase: int) -> None:
    """One slice a segment, so that every phase is met with its cursor half-way."""
    config = replace(CONFIG, slice_seconds=1e9, refresh_seconds=1)
    rows = random_log(2, 80 * SEGMENT_ROWS)
    stage, learner = stage_of(config)
    for at in range(0, rows.height, SEGMENT_ROWS):
        if learner._refresh.progress.phase == phase and learner._refresh.progress.cursor > 0:
            break
        stage.apply(rows[at : at + SEGMENT_ROWS], 0)
    assert learner._refresh.progress.phase == phase
    save(stage, tmp_path)
    restored, other = stage_of(config)
    restored.restore(tmp_path)
    for one in (stage, restored):
        one.apply(rows[at:], 0)
    assert other.digest() == learner.digest()
    assert other._refresh.progress.slot == learner._refresh.progress.slot
    check_codes(other)


def test_a_snapshot_of_other_sizes_is_refused(tmp_path: Path) -> None:
    save(WHOLE, tmp_path)
    with pytest.raises(SnapshotError, match=r"`words` was \d+, is \d+\..* rebuild"):
        TokenizerLearner(replace(CONFIG, words=5, min_items=24)).restore(tmp_path)


def test_settings_that_cannot_work_are_refused() -> None:
    for bad in ({"words": 1 << 17}, {"words": 8, "min_items": 7}, {"hysteresis": 1.0}, {"behaviour_dimensions": 0}, {"sample_items": 3}):
        with pytest.raises(SettingsError):
            replace(CONFIG, **bad)  # type: ignore[arg-type]


# ---- vectors


def test_the_vector_is_content_and_gated_behaviour() -> None:
    entry = '{"text": "late show", "tags": ["talk"]}'
    vectors = np.random.default_rng(0).normal(size=(4, BEHAVIOUR))
    rows = log(np.array([EVENT, ITEM, EVENT, EVENT]), ["a"] * 4, [None, entry, None, None], vectors, START_MS + np.arange(4))
    learner = learned(rows)
    behaviour = 3 / (3 + 5) * vectors[3] / np.linalg.norm(vectors[3])
    expected = np.concatenate([content_vector(entry, CONTENT), behaviour])
    np.testing.assert_allclose(learner._items.vector[0], expected, atol=1e-6)


def test_impressions_and_vectors_without_direction_move_nothing() -> None:
    vectors = np.stack([np.ones(BEHAVIOUR), np.zeros(BEHAVIOUR), np.full(BEHAVIOUR, np.nan), np.full(BEHAVIOUR, np.inf)])
    rows = log(np.full(4, EVENT), ["a", "b", "b", "b"], [None] * 4, vectors, START_MS + np.arange(4))
    learner = learned(rows.with_columns(type=pl.Series(["impression", "click", "click", "click"])))
    assert learner._ids.lookup(["a", "b"]).tolist() == [-1, 0]
    assert not learner._items.vector[0].any()
    assert learner._items.status[0] == kernel.UNKNOWN


def clusters(seed: int, items: int, dimensions: int, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dimensions)), rng.integers(count, size=items)


def one_event_each(ids: list[str], vectors: np.ndarray, start_ms: int, span_ms: int = 1000) -> pl.DataFrame:
    """A click an item, the last of them padded to whole segments, so that maintenance runs."""
    at = np.resize(np.arange(len(ids)), -(-len(ids) // SEGMENT_ROWS) * SEGMENT_ROWS)
    ts_ms = start_ms + np.linspace(0, span_ms, at.size).astype(np.int64)
    return log(np.full(at.size, EVENT), [ids[k] for k in at], [None] * at.size, vectors[at], ts_ms)


def test_no_tokens_before_enough_items_then_all_and_new_ones_at_once() -> None:
    stage, learner = stage_of(replace(CONFIG, slice_items=256))
    vectors = np.random.default_rng(0).normal(size=(40, BEHAVIOUR))
    stage.apply(one_event_each([f"i{k}" for k in range(23)], vectors, START_MS), 0)
    assert learner.items == 0
    assert learner.codebook_version is None
    stage.apply(one_event_each([f"i{k}" for k in range(30)], vectors, START_MS + 2000), 0)
    assert learner.codebook_version == 2 * SEGMENT_ROWS
    stage.apply(one_event_each([f"i{k}" for k in range(30)], vectors, START_MS + 4000), 0)
    assert learner.items == 30
    one = log(np.array([ITEM]), ["new"], ['{"categories": ["film"]}'], np.zeros((1, BEHAVIOUR)), np.array([START_MS + 6000]))
    stage.apply(one, 0)
    assert learner.tokens_of("new") is not None
    assert learner.tokens_of("unheard") is None
    assert np.isnan(learner.score("u", ["new", "unheard"])).all()


def test_an_item_that_hardly_moves_is_not_encoded() -> None:
    stage, learner = stage_of(replace(CONFIG, slice_items=256, refresh_seconds=10_000, gate_interactions=0))
    vectors = np.random.default_rng(0).normal(size=(40, BEHAVIOUR))
    ids = [f"i{k}" for k in range(40)]
    for step in range(3):
        stage.apply(one_event_each(ids, vectors, START_MS + 2000 * step), 0)
    before = learner.encodes
    stage.apply(one_event_each(ids, vectors * 1.5, START_MS + 8000), 0)  # the same direction
    assert learner.encodes == before
    stage.apply(one_event_each(ids, -vectors, START_MS + 10_000), 0)
    assert learner.encodes == before + 40


# ---- drift


class Served:
    """Distortion as served against a full refit, and codes changed, at the end of each period of a drifting stream."""

    def __init__(self, config: TokenizerConfig, periods: int = 24, items: int = 600) -> None:
        self.stage, self.learner = stage_of(config)
        self.ids = [f"i{k}" for k in range(items)]
        self.ratios: list[float] = []
        self.recoded: list[float] = []
        rng, (centres, of) = np.random.default_rng(3), clusters(3, items, BEHAVIOUR)
        offsets = 0.4 * rng.normal(size=(items, BEHAVIOUR))
        for period in range(periods):
            before = self.codes()
            for part in range(3):
                rows = one_event_each(self.ids, centres[of] + offsets, START_MS + period * 60_000 + part * 20_000, 19_000)
                self.stage.apply(rows, 0)
            self.recoded.append(float(np.mean([old != new for old, new in zip(before, self.codes(), strict=True)])))
            centres += 0.12 * rng.normal(size=centres.shape)
            self.ratios.append(self.distortion() / self.refitted())

    def codes(self) -> list[tuple[int, ...] | None]:
        return [self.learner.tokens_of(id_) for id_ in self.ids]

    def vectors(self) -> np.ndarray:
        return self.learner._items.vector[self.learner._ids.lookup(self.ids)]

    def distortion(self) -> float:
        words = self.learner._refresh.book.words
        pairs = zip(self.vectors(), self.learner._items.codes[self.learner._ids.lookup(self.ids)], strict=True)
        return sum(kernel.error(x, codes, words) for x, codes in pairs)

    def refitted(self) -> float:
        config, x = self.learner.config, self.vectors()
        book = codebook.empty_codebook(config.levels, config.words, config.dimensions)
        codebook.first_words(x, 0, config.iterations, book.words)
        for level in range(config.levels):
            codebook.tabulate(level, book)
        return sum(kernel.error(row, kernel.beam_search(row, book, 8)[0], book.words) for row in x)


DRIFT = replace(CONFIG, words=16, levels=2, min_items=None, slice_items=256, slice_seconds=1.0, gate_interactions=0)


def test_a_refreshed_codebook_follows_drift_with_few_changes_and_a_frozen_one_does_not() -> None:
    live, frozen = Served(DRIFT), Served(replace(DRIFT, refresh_seconds=10**9))
    settled = slice(12, None)
    assert np.mean(live.ratios[settled]) < 1.15
    assert np.mean(frozen.ratios[settled]) > 1.6 * np.mean(live.ratios[settled])
    assert np.mean(live.recoded[settled]) < 0.10
    assert live.learner.utilisation == [1.0, 1.0]


# ---- removals, evictions, publications


def test_removal_frees_the_codes_and_is_published_once() -> None:
    learner = learned(LOG)
    learner.touched()
    id_ = next(i for i in learner._ids.ids if i is not None and learner.tokens_of(i) is not None)
    rows = log(np.array([ITEM]), [id_], [None], np.zeros((1, BEHAVIOUR)), np.array([START_MS + 10**7]))
    columns = {"item_vector": np.zeros((1, BEHAVIOUR), dtype=np.float32)}
    learner.learn_many(Examples(rows, LOG.height, np.array([START_MS + 10**7]), columns))
    check_codes(learner)
    published = learner.touched()["item_tokens"].to_dicts()
    assert [(row["id"], row["removed"], row["tokens"], row["version"]) for row in published] == [(id_, True, None, LOG.height)]
    assert learner.tokens_of(id_) is None
    assert learner.touched()["item_tokens"].height == 0


def test_eviction_frees_the_codes_of_the_items_longest_unused() -> None:
    vectors = np.random.default_rng(5).normal(size=(2304, BEHAVIOUR))
    ids = [f"i{k}" for k in range(2304)]
    stage, learner = stage_of(replace(CONFIG, slice_items=256))
    stage.apply(one_event_each(ids[:1280], vectors, START_MS), 0)
    stage.publish()
    stage.apply(one_event_each(ids[1280:], vectors[1280:], START_MS + 2000), 0)
    check_codes(learner)
    rows = learner.touched()["item_tokens"]
    gone = rows.filter("removed")["id"].to_list()
    assert gone == ids[: len(gone)]
    assert len(gone) > 0
    assert all(learner.tokens_of(id_) is None for id_ in gone)


def test_publications_say_all_that_a_cache_needs() -> None:
    """A cache that applies every publication holds each item's tokens, and the codebook that each names, bitwise."""
    stage, learner = stage_of(replace(CONFIG, slice_items=20))
    tokens: dict[str, tuple[object, ...]] = {}
    books: dict[str, bytes] = {}
    long = random_log(4, 12_000)
    for start in range(0, long.height, 700):
        stage.apply(long[start : start + 700], 0)
        publication = stage.publish()
        assert publication is not None
        for row in publication.tables.get("item_tokens", pl.DataFrame()).to_dicts():
            tokens.pop(row["id"], None)
            if not row["removed"]:
                assert START_MS <= row["event_ms"] <= publication.clock_ms
                tokens[row["id"]] = (tuple(row["tokens"]), row["codebook_version"])
        for row in publication.tables.get("codebook", pl.DataFrame()).to_dicts():
            books.pop(row["id"], None)
            if not row["removed"]:
                books[row["id"]] = row["centroids"]
        assert {id_: code for id_, (code, _) in tokens.items()} == {
            id_: learner.tokens_of(id_) for id_ in learner._ids.ids if id_ is not None and learner.tokens_of(id_) is not None
        }
        named = {version for _, version in tokens.values()} | {learner.codebook_version}
        assert set(books) == {f"{version}/{level}" for version in named for level in range(CONFIG.levels) if version is not None}
    assert len(named) <= CONFIG.kept_codebooks + 2
    current = b"".join(books[f"{learner.codebook_version}/{level}"] for level in range(CONFIG.levels))
    assert current == learner._refresh.book.words.tobytes()
