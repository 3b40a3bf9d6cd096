"""Packed rows come back bit for bit, and rows of which little is set are small."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import sparse_rows
from features.declarations import EntityConfig
from features.entity import observe, plan, views
from features.sparse_rows import WORD_BYTES, pack


def unpack(values, width):
    """The rows of these values, read to odd places among others."""
    rows, at = np.full((2 * len(values) + 1, width), -7, dtype="<i8"), 2 * np.arange(len(values), dtype=np.int64) + 1
    sparse_rows.unpack(values, rows, at)
    assert (np.delete(rows, at, axis=0) == -7).all()
    return rows[at]


WIDTHS = [1, 2, 63, 64, 65, 127, 128, 129, 200]
NAN_BITS = np.array([np.nan, -np.nan, -0.0]).view(np.int64).tolist()
ODD_WORDS = [-1, 1, -(2**63), 2**63 - 1, 1 << 32, *NAN_BITS, 0x7FF0_0000_0000_0001]


def plainly(row):
    """A row packed by the description: the first word, bits of 64 words each, the words that are not zero."""
    width = len(row)
    masks = [sum(1 << at for at, word in enumerate(row[start : start + 64]) if word and start + at) for start in range(0, width, 64)]
    rest = [word for word in row[1:] if word]
    return b"".join((word % (1 << 64)).to_bytes(8, "little") for word in (row[0], *masks, *rest))


def random_rows(seed, count, width, filled):
    random = np.random.default_rng(seed)
    rows = random.integers(-(2**63), 2**63, (count, width))
    odd = random.random(rows.shape) < 0.3
    rows[odd] = random.choice(ODD_WORDS, odd.sum())
    rows[random.random(rows.shape) >= filled] = 0
    return rows


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("filled", [0.0, 0.03, 0.5, 1.0])
def test_rows_come_back_bit_for_bit(width, filled):
    rows = random_rows(width, 30, width, filled)
    packed = pack(rows)
    assert packed == [plainly(row) for row in rows.tolist()]
    back = unpack(list(packed), width)
    assert back.dtype == np.int64 and np.array_equal(back, rows)
    back[:] = 1  # may be written


@settings(deadline=None)
@given(st.integers(1, 140), st.data())
def test_any_rows_come_back_where_some_are_missing(width, data):
    word = st.one_of(st.just(0), st.sampled_from(ODD_WORDS), st.integers(-(2**63), 2**63 - 1))
    told = data.draw(st.lists(st.one_of(st.none(), st.dictionaries(st.integers(0, width - 1), word, max_size=6)), max_size=6))
    rows = np.zeros((len(told), width), dtype=np.int64)
    for row, words in zip(rows, told, strict=True):
        for at, value in (words or {}).items():
            row[at] = value
    values = [None if words is None else value for value, words in zip(pack(rows), told, strict=True)]
    assert np.array_equal(unpack(values, width), rows)


@pytest.mark.parametrize("at", [0, 1, 62, 63, 64, 65, 127, 128, 129])
def test_every_place_has_its_bit(at):
    rows = np.zeros((1, 130), dtype=np.int64)
    rows[0, at] = -7
    assert np.array_equal(unpack(list(pack(rows)), 130), rows)
    assert len(pack(rows)[0]) == WORD_BYTES * (1 + 3 + (at > 0))


def test_what_is_missing_is_zeros():
    assert unpack([None, b"", None], 70).tolist() == [[0] * 70] * 3
    rows = random_rows(1, 1, 70, 0.5)
    assert unpack([None, *pack(rows), None], 70).tolist() == [[0] * 70, *rows.tolist(), [0] * 70]


def test_no_rows_are_no_bytes():
    assert pack(np.empty((0, 70), dtype=np.int64)) == []
    assert unpack([], 70).shape == (0, 70)


def test_rows_may_be_taken_from_between_others():
    rows = random_rows(2, 40, 300, 0.2)
    assert pack(rows[::3, 10:150]) == pack(np.ascontiguousarray(rows[::3, 10:150]))


def test_full_rows_grow_by_their_masks_alone():
    for width in WIDTHS:
        assert len(pack(np.ones((1, width), dtype=np.int64))[0]) == WORD_BYTES * (width + -(-width // 64))


def test_a_row_that_was_seen_once_is_small():
    layout = plan(EntityConfig(distinct="items", session_gap_seconds=1_800), "user", 3)
    rows = np.zeros((1, layout.words), dtype=np.int64)
    observe(layout, views(rows), 0, 1_700_000_000_000, 1, np.nan, 12_345, np.empty(layout.width, dtype=np.float32))
    (value,) = pack(rows)
    assert len(value) < layout.words * WORD_BYTES / 6
    assert np.array_equal(unpack([value], layout.words), rows)
