"""Hashes are data: their values are fixed for ever."""

import numpy as np
import pytest

from core.hashing import FINGERPRINT_BYTES, fingerprint, fingerprints, partition_of


def test_the_hash_is_xxh3() -> None:
    """The published values for empty input (xxHash, XXH3)."""
    assert partition_of("", 2**64) == 0x2D06800538D394C2
    assert fingerprint("").hex() == "99aa06d3014798d86001c324468d497f"


@pytest.mark.parametrize("partitions", [1, 3, 4, 16])
def test_users_spread_over_all_partitions(partitions: int) -> None:
    counts = np.bincount([partition_of(f"u{i}", partitions) for i in range(4_000)], minlength=partitions)
    assert len(counts) == partitions
    assert counts.min() > 0.8 * 4_000 / partitions


def test_fingerprints_are_one_row_per_text() -> None:
    texts = ["u1", "", "ü", "u1"]
    rows = fingerprints(texts)
    assert rows.shape == (4, 2)
    assert [row.tobytes() for row in rows] == [fingerprint(text) for text in texts]
    assert len(fingerprint("ü")) == FINGERPRINT_BYTES
    assert len({row.tobytes() for row in fingerprints(f"u{i}" for i in range(10_000))}) == 10_000
    assert fingerprints([]).shape == (0, 2)
