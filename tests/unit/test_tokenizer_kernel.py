"""Each compiled kernel of the tokenizer against a slow obvious twin."""

from collections import Counter
from itertools import product

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from core.randomness import fill, unit
from learners.tokenizer import codebook, kernel
from learners.tokenizer.content import content_vector

LEVELS, WORDS, DIMENSIONS = 3, 5, 7


def random_book(seed: int, levels: int = LEVELS, words: int = WORDS, dimensions: int = DIMENSIONS) -> kernel.Codebook:
    book = codebook.empty_codebook(levels, words, dimensions)
    scale = 0.6 ** np.arange(levels)[:, None, None]
    book.words[:] = np.random.default_rng(seed).normal(size=book.words.shape) * scale
    for level in range(levels):
        codebook.tabulate(level, book)
    return book


def squared_error(x: np.ndarray, codes: tuple[int, ...], words: np.ndarray) -> float:
    summed = sum(words[level, code].astype(np.float64) for level, code in enumerate(codes))
    return float(np.sum((x.astype(np.float64) - summed) ** 2))


def empty_items(rows: int, levels: int = LEVELS, dimensions: int = DIMENSIONS) -> kernel.Items:
    vectors = [np.zeros((rows, dimensions), dtype=np.float32) for _ in range(2)]
    numbers = [np.zeros(rows, dtype=np.int64) for _ in range(5)]
    small = np.zeros((rows, levels), dtype=np.uint16), np.zeros(rows, dtype=np.uint8), np.zeros(rows, dtype=np.int16)
    return kernel.Items(*vectors, *small, *numbers, np.zeros(rows, dtype=np.bool_))


def empty_taken(places: int = 1024) -> kernel.Taken:
    keys, items = np.full(places, kernel.EMPTY, dtype=np.int64), np.zeros(places, dtype=np.int32)
    return kernel.Taken(keys, items, np.zeros(4, dtype=np.int64), np.zeros(kernel.COUNTS, dtype=np.int64))


RULE = kernel.Rule(DIMENSIONS, 5.0, 0.01, 0.85, 8)


def coded_items(seed: int, rows: int, book: kernel.Codebook) -> kernel.Items:
    items = empty_items(rows)
    items.vector[:] = np.random.default_rng(seed).normal(size=items.vector.shape)
    items.status[:] = kernel.KNOWN
    taken, nothing = empty_taken(), np.zeros(4, dtype=np.bool_)
    kernel.encode_all(np.arange(rows, dtype=np.int32), nothing, 1, 0, items, book, taken, RULE)
    return items


# ---- content


def naive_content(entry: dict[str, object], dimensions: int) -> np.ndarray:
    fields = {
        "word": "".join(c if c.isalnum() or c == "_" else " " for c in str(entry.get("text") or "").lower()).split(),
        "category": entry.get("categories") or [],
        "tag": entry.get("tags") or [],
        "author": [entry["author"]] if entry.get("author") else [],
        "embedding": list(range(len(entry.get("embedding") or []))),  # type: ignore[arg-type]
    }
    total = np.zeros(dimensions)
    for field, values in fields.items():
        part = np.zeros(dimensions)
        for value in values:  # type: ignore[attr-defined]
            h = xxhash.xxh3_64_intdigest(f"{field}/{value}".encode())
            weight = entry["embedding"][value] if field == "embedding" else 1.0  # type: ignore[index]
            part[h % dimensions] += -weight if h >= 2**63 else weight
        total += part / (np.linalg.norm(part) or 1.0)
    return total / (np.linalg.norm(total) or 1.0)


WORDS_OF_TEXT = st.lists(st.sampled_from(["Live", "show", "naïve", "x_1", "now!", "…"]), max_size=6).map(" ".join)
NAMES = st.lists(st.sampled_from(["music", "dance", "cooking", "news"]), max_size=3)
NUMBERS = st.lists(st.floats(-100, 100, width=32), max_size=12)


@given(
    st.fixed_dictionaries(
        {}, optional={"text": WORDS_OF_TEXT, "categories": NAMES, "tags": NAMES, "author": st.text(max_size=3), "embedding": NUMBERS}
    )
)
def test_content_is_the_signed_sum_of_hashed_features(entry: dict[str, object]) -> None:
    vector = content_vector(msgspec.json.encode(entry).decode(), 16)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, naive_content(entry, 16), atol=1e-5)


def test_content_of_huge_embeddings_is_finite_and_unknown_fields_do_not_matter() -> None:
    huge = content_vector('{"embedding": [1e308, -1e308], "start": 5}', 64)
    np.testing.assert_allclose(np.linalg.norm(huge), 1.0, rtol=1e-6)
    assert not content_vector('{"numbers": {"length": 3}, "text": null}', 64).any()


# ---- encoding


@pytest.mark.parametrize("seed", range(5))
def test_a_full_beam_finds_every_code_in_order_of_its_error(seed: int) -> None:
    book, x = random_book(seed), np.random.default_rng(seed + 100).normal(size=DIMENSIONS).astype(np.float32)
    found = kernel.beam_search(x, book, WORDS**LEVELS)
    every = sorted(product(range(WORDS), repeat=LEVELS), key=lambda codes: squared_error(x, codes, book.words))
    assert [tuple(codes) for codes in found.tolist()] == every


def naive_beam(x: np.ndarray, words: np.ndarray, width: int) -> list[tuple[int, ...]]:
    beam: list[tuple[int, ...]] = [()]
    for _ in range(words.shape[0]):
        grown = [(*codes, k) for codes in beam for k in range(words.shape[1])]
        beam = sorted(grown, key=lambda codes: squared_error(x, codes, words))[:width]
    return beam


@pytest.mark.parametrize("width", [1, 3, 8])
def test_beam_search_equals_the_naive_beam(width: int) -> None:
    book = random_book(7, words=20)
    for x in np.random.default_rng(8).normal(size=(40, DIMENSIONS)).astype(np.float32):
        assert [tuple(codes) for codes in kernel.beam_search(x, book, width).tolist()] == naive_beam(x, book.words, width)


def test_tables_of_the_beam() -> None:
    book = random_book(3)
    np.testing.assert_array_equal(book.columns, book.words.transpose(0, 2, 1))
    np.testing.assert_allclose(book.norms, (book.words.astype(np.float64) ** 2).sum(axis=2), rtol=1e-5)
    for level, other in product(range(LEVELS), repeat=2):
        expected = 2 * book.words[other] @ book.words[level].T if other < level else np.zeros((WORDS, WORDS))
        np.testing.assert_allclose(book.cross[level, other], expected, atol=1e-5)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=200))
def test_the_table_of_taken_codes_is_a_counter(steps: list[tuple[bool, int]]) -> None:
    taken, held = empty_taken(places=16), Counter[int]()
    for give, key in steps:
        if give and held[key] > 0:
            kernel.give_back(taken, key)
            held[key] -= 1
        elif not give:
            kernel.take(taken, key)
            held[key] += 1
        assert [kernel.items_of_code(taken, k) for k in range(12)] == [held[k] for k in range(12)]
        assert taken.counts[kernel.ITEMS_SHARING] == sum(n for n in held.values() if n > 1)
    assert np.count_nonzero(taken.keys != kernel.EMPTY) == sum(n > 0 for n in held.values())


def test_equal_items_take_the_codes_of_the_beam_in_turn_and_share_only_when_all_are_taken() -> None:
    book, items, taken = random_book(1), empty_items(10), empty_taken()
    items.vector[:] = np.random.default_rng(2).normal(size=DIMENSIONS)
    items.status[:] = kernel.KNOWN
    kernel.encode_all(np.arange(10, dtype=np.int32), np.zeros(4, dtype=np.bool_), 1, 0, items, book, taken, RULE)
    beam = kernel.beam_search(items.vector[0], book, 8).tolist()
    assert items.codes.tolist() == [*beam, beam[0], beam[0]]
    assert taken.counts[kernel.ITEMS_SHARING] == 3


@pytest.mark.parametrize(("share", "changes"), [(0.86, False), (0.84, True)])
def test_codes_change_only_when_the_error_falls_by_the_hysteresis(share: float, changes: bool) -> None:
    book = codebook.empty_codebook(1, 2, 1)
    book.words[0, :, 0] = [0.0, 1.0]
    codebook.tabulate(0, book)
    items, taken = empty_items(1, levels=1, dimensions=1), empty_taken()
    items.status[:] = kernel.KNOWN
    ratio = np.sqrt(share)  # of the distances to the words 1 and 0
    for x in (0.1, 1 / (1 + ratio)):
        items.vector[0, 0] = x
        kernel.settle(0, 5, kernel.BY_BEHAVIOUR, 0, False, items, book, taken, RULE)
    assert items.codes[0, 0] == changes
    assert taken.counts[kernel.BY_BEHAVIOUR] == changes
    assert taken.counts[kernel.FIRST] == 1


# ---- the codebook


def naive_sweep(x: np.ndarray, codes: np.ndarray, words: np.ndarray) -> np.ndarray:
    words = words.astype(np.float64)
    for level in range(words.shape[0]):
        others = [other for other in range(words.shape[0]) if other != level]
        for k in range(words.shape[1]):
            mine = codes[:, level] == k
            if mine.any():
                words[level, k] = np.mean(x[mine] - sum(words[other, codes[mine, other]] for other in others), axis=0)
    return words


def collected(items: kernel.Items, words: np.ndarray, slices: int = 1) -> codebook.Sums:
    sums = codebook.empty_sums(*words.shape)
    for part in np.array_split(np.arange(items.status.shape[0], dtype=np.int32), slices):
        codebook.collect(part, items, words, sums)
    return sums


@pytest.mark.parametrize("slices", [1, 4])
def test_a_sweep_from_collected_sums_equals_the_naive_sweep(slices: int) -> None:
    book = random_book(4)
    items = coded_items(5, 200, book)
    sums, words = collected(items, book.words, slices), book.words.copy()
    for level in range(LEVELS):
        codebook.centre(level, sums, words)
    np.testing.assert_allclose(words, naive_sweep(items.vector, items.codes, book.words), atol=1e-5)
    before, after = (
        sum(squared_error(x, tuple(c), w) for x, c in zip(items.vector, items.codes, strict=True)) for w in (book.words, words)
    )
    assert after < before
    np.testing.assert_allclose(sums.measure, [before, np.sum(items.vector.astype(np.float64) ** 2)], rtol=1e-5)


def test_words_without_items_go_to_the_worst_coded_items_one_each() -> None:
    book = random_book(6)
    items = coded_items(7, 40, book)
    items.codes[items.codes[:, 1] == 2, 1] = 3
    items.codes[items.codes[:, 2] == 0, 2] = 1
    sums, words = collected(items, book.words), book.words.copy()
    errors = np.array([squared_error(x, tuple(c), book.words) for x, c in zip(items.vector, items.codes, strict=True)])
    worst = np.argsort(-errors)
    np.testing.assert_array_equal(sums.worst_row, worst[:WORDS])
    for level in range(LEVELS):
        codebook.reseed(level, sums, items, words)
    dead = [(level, k) for level in range(LEVELS) for k in range(WORDS) if not np.any(items.codes[:, level] == k)]
    assert {(1, 2), (2, 0)} <= set(dead)
    expected = book.words.copy()
    for row, (level, k) in zip(worst, dead, strict=False):
        others = [expected[other, items.codes[row, other]] for other in range(LEVELS) if other != level]
        expected[level, k] = items.vector[row] - np.sum(others, axis=0)
    np.testing.assert_allclose(words, expected, atol=1e-5)


def naive_first_words(x: np.ndarray, seed: int, iterations: int, shape: tuple[int, ...]) -> np.ndarray:
    rest, words = x.astype(np.float64), np.zeros(shape)
    for level in range(shape[0]):
        draws = np.empty(shape[1], dtype=np.uint64)
        fill(np.uint64(seed), np.uint64(0x746F6B656E), np.uint64(level), draws)
        odds = np.ones(len(x))
        for k in range(shape[1]):
            words[level, k] = rest[min(np.searchsorted(np.cumsum(odds), unit(draws[k]) * odds.sum(), side="right"), len(x) - 1)]
            gaps = ((rest[:, None] - words[level, : k + 1]) ** 2).sum(axis=2)
            odds = gaps.min(axis=1)
        for _ in range(iterations):
            gaps = ((rest[:, None] - words[level]) ** 2).sum(axis=2)
            nearest, farthest = gaps.argmin(axis=1), list(np.argsort(-gaps.min(axis=1), kind="stable"))
            for k in range(shape[1]):
                mine = nearest == k
                words[level, k] = rest[mine].mean(axis=0) if mine.any() else rest[farthest.pop(0)]
        rest = rest - words[level][((rest[:, None] - words[level]) ** 2).sum(axis=2).argmin(axis=1)]
    return words


@pytest.mark.parametrize("seed", range(3))
def test_the_first_words_are_residual_k_means(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(8, 6))[rng.integers(8, size=150)] + 0.3 * rng.normal(size=(150, 6))).astype(np.float32)
    words = np.zeros((2, 8, 6), dtype=np.float32)
    codebook.first_words(x, seed, 10, words)
    np.testing.assert_allclose(words, naive_first_words(x, seed, 10, words.shape), atol=1e-4)


def test_the_first_words_of_fewer_places_than_words_are_finite() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    words = np.full((2, 8, 3), np.nan, dtype=np.float32)
    codebook.first_words(x, 0, 10, words)
    assert np.isfinite(words).all()
    assert max(min(squared_error(row, codes, words) for codes in product(range(8), repeat=2)) for row in x) < 1e-10
