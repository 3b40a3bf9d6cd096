"""Buckets of texts: the same wherever and whenever they stand."""

import math

import numpy as np

from learners.labels import bucket_of, buckets_of
from learners.labels.buckets import ABSENT


def test_a_text_has_the_same_bucket_wherever_it_stands() -> None:
    texts = [f"campaign={n}" for n in range(2_000)]
    found = buckets_of(texts, 64)
    assert found.dtype == np.int64
    assert (found.min(), found.max()) == (0, 63)
    np.testing.assert_array_equal(buckets_of(iter(texts[::-1]), 64)[::-1], found)
    assert [bucket_of("campaign", str(n), 64) for n in range(20)] == found[:20].tolist()


def test_absent_texts_have_no_bucket_and_an_empty_text_has_one() -> None:
    assert (buckets_of([None, "site=1", None, ""], 8) == ABSENT).tolist() == [True, False, True, False]
    assert buckets_of([], 8).tolist() == []
    assert buckets_of([None], 8).tolist() == [ABSENT]


def test_buckets_fill_evenly() -> None:
    counts = np.bincount(buckets_of([f"site={n}" for n in range(64_000)], 64, seed=3), minlength=64)
    assert np.abs(counts - 1_000).max() < 5 * math.sqrt(1_000)


def test_the_seed_says_which_values_share_a_bucket() -> None:
    texts = [f"site={n}" for n in range(2_000)]
    by_seed = [buckets_of(texts, 64, seed) for seed in (0, 1, 2)]
    first = np.flatnonzero(by_seed[0] == by_seed[0][0])
    assert all(len(np.unique(found[first])) > 10 for found in by_seed[1:])
    assert [np.mean(found == by_seed[0]) < 0.1 for found in by_seed[1:]] == [True, True]
    assert bucket_of("site", "0", 64, 2) == by_seed[2][0]


def test_these_buckets_are_part_of_stored_models() -> None:
    assert buckets_of(["site=1", "site=2", "campaign x site=1|2"], 1 << 18).tolist() == [213_527, 195_390, 72_622]
    assert buckets_of(["site=1", "site=2", "campaign x site=1|2"], 1 << 18, seed=7).tolist() == [239_862, 14_362, 8_141]
