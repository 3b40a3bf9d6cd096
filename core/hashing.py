"""Hashes that are part of the data: changing one is a rebuild."""

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash

PARTITION_HASH = "xxh3_64(user_id) mod partitions"
FINGERPRINT_BYTES = 16


def partition_of(user_id: str, partitions: int) -> int:
    """The `batches` partition of a user, whatever the producer's own partitioner did."""
    return xxhash.xxh3_64_intdigest(user_id.encode()) % partitions


def fingerprint(text: str) -> bytes:
    """16 bytes that stand for an id in fixed-width rows; among 10^9 ids, odds of any collision are 10^-21."""
    return xxhash.xxh3_128_digest(text.encode())


def fingerprints(texts: Iterable[str]) -> np.ndarray:
    """uint64 [n, 2], one fingerprint a row. Without a line of Python per text, which would cost as much as the hash."""
    joined = b"".join(map(xxhash.xxh3_128_digest, map(str.encode, texts)))
    return np.frombuffer(joined, dtype="<u8").reshape(-1, 2)


def fingerprints_of_some(texts: Sequence[str | None]) -> np.ndarray:
    """int64 [n, 2], zeros where there is no text. May be written."""
    if None not in texts:
        return fingerprints(texts).view(np.int64).copy()  # type: ignore[arg-type]  # none of them is None
    found = np.zeros((len(texts), 2), dtype=np.int64)
    named = [at for at, text in enumerate(texts) if text is not None]
    found[named] = fingerprints(text for text in texts if text is not None).view(np.int64)
    return found
