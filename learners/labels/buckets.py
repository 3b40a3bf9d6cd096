"""Categorical features as bucket numbers: "field=value" hashed, so that a model's size does not depend on how many values there are."""

from collections.abc import Iterable

import numpy as np

from core.hashing import fingerprints

ABSENT = -1  # in place of a bucket: the example lacks the feature


def buckets_of(texts: Iterable[str | None], buckets: int, seed: int = 0) -> np.ndarray:
    """int64 [n] in 0..buckets - 1, ABSENT where the text is None.

    xxh3 of the text's UTF-8; `buckets` is a power of two. Two values share a bucket with odds 1 / buckets; which ones do depends on `seed`.
    Texts are "field=value", of crossed features "field x field=value|value", so that equal values of two fields differ.
    """
    told = list(texts)
    words = fingerprints("" if text is None else text for text in told)
    mixed = words[:, 0] + np.uint64(seed) * words[:, 1]
    return np.where([text is None for text in told], ABSENT, (mixed & np.uint64(buckets - 1)).astype(np.int64))


def bucket_of(name: str, value: str, buckets: int, seed: int = 0) -> int:
    """The bucket of one value of a field."""
    return int(buckets_of([f"{name}={value}"], buckets, seed)[0])
