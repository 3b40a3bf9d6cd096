"""A catalogue entry as a vector, by signed feature hashing.

Source: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import xxhash

_WORD = re.compile(r"\w+")
_SIGN_BIT = 63


class Entry(msgspec.Struct):
    """The parts of a catalogue entry that say what an item is about; other fields are ignored."""

    text: str | None = None
    categories: list[str] | None = None
    tags: list[str] | None = None
    author: str | None = None
    embedding: list[float] | None = None


def content_vector(raw: str, dimensions: int) -> np.ndarray:
    """float32 [dimensions] of length 1; zeros where the entry says nothing.

    Each field is hashed and scaled to length 1 by itself, so that a long text does not drown the categories.

    Args:
        raw: the catalogue entry, JSON.
        dimensions: width of the vector.
    """
    entry = msgspec.json.decode(raw, type=Entry)
    words = _WORD.findall(entry.text.lower()) if entry.text else []
    total = unit(hashed("word", words, dimensions))
    total += unit(hashed("category", entry.categories or [], dimensions))
    total += unit(hashed("tag", entry.tags or [], dimensions))
    total += unit(hashed("author", [entry.author] if entry.author else [], dimensions))
    total += unit(projected(entry.embedding or [], dimensions))
    return unit(total).astype(np.float32)


def hashed(field: str, values: Iterable[str], dimensions: int) -> np.ndarray:
    """float64 [dimensions]: each value adds +1 or -1 at the place that its hash names."""
    places, signs = _hashes([f"{field}/{value}" for value in values], dimensions)
    vector = np.zeros(dimensions)
    np.add.at(vector, places, signs)
    return vector


def projected(embedding: Sequence[float], dimensions: int) -> np.ndarray:
    """float64 [dimensions]: the embedding's coordinates hashed like words; inner products are kept on average."""
    places, signs = _hashes([f"embedding/{j}" for j in range(len(embedding))], dimensions)
    vector = np.zeros(dimensions)
    np.add.at(vector, places, signs * unit(np.array(embedding, dtype=np.float64)))
    return vector


def _hashes(names: Sequence[str], dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    hashes = [xxhash.xxh3_64_intdigest(name.encode()) for name in names]
    places = np.array([h % dimensions for h in hashes], dtype=np.int64)
    signs = np.array([1.0 - 2.0 * (h >> _SIGN_BIT) for h in hashes], dtype=np.float64)
    return places, signs


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1; zeros stay. Divides by the largest part first, so that no square overflows."""
    largest = np.abs(vector).max(initial=0.0)
    if largest == 0.0:
        return vector
    scaled = vector / largest
    length = np.sqrt(np.sum(scaled * scaled))
    return np.asarray(scaled / length)
