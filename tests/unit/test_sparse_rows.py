"""Packed rows are what the description says, come back bit for bit, and are small where little of a row is set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import sparse_rows
from features.declarations import EntityConfig
from features.entity import observe, plan, views
from features.sparse_rows import GROUP_WORDS, WORD_BYTES, Flat, flat, most_bytes, nexts, pack_rows, unpack

WIDTHS = [1, 2, 7, 8, 9, 63, 64, 65, 66, 72, 127, 128, 129, 200]
NAN_BITS = np.array([np.nan, -np.nan, -0.0]).view(np.int64).tolist()
ODD_WORDS = [-1, 1, 255, 256, -256, -(2**63), 2**63 - 1, 1 << 32, 0x0100_0000_0000_0001, *NAN_BITS, 0x7FF0_0000_0000_0001]
OTHER = -7  # in rows that nothing is told of
any_word = st.one_of(st.just(0), st.sampled_from(ODD_WORDS), st.integers(-(2**63), 2**63 - 1))


def pack(rows: np.ndarray, at: np.ndarray, clear: bool = False) -> Flat:
    return sparse_rows.pack(rows, at, nexts(rows.shape[1]), clear)


def raw(word: int) -> bytes:
    return (word % (1 << 64)).to_bytes(WORD_BYTES, "little")


def bits(told: list[bool], size: int) -> bytes:
    return sum(1 << at for at, is_so in enumerate(told) if is_so).to_bytes(size, "little")


def plainly(row: list[int]) -> bytes:
    """A row packed by the description. The first word of all is there as it is, and has no bit."""
    starts, behind = range(0, len(row), 8), [0, *row[1:]]
    parts = [raw(row[0]), bits([any(row[start : start + 8]) for start in starts], -(-len(starts) // 8))]
    for start in starts:
        if any(row[start : start + 8]):
            words = behind[start : start + 8]
            parts.append(bits([word != 0 for word in words], 1))
            parts += [bits([byte != 0 for byte in raw(word)], 1) + raw(word).replace(b"\0", b"") for word in words if word]
    joined = b"".join(parts)
    return joined.ljust(-(-len(joined) // 8) * 8, b"\0")


def everywhere(rows: np.ndarray) -> np.ndarray:
    return np.arange(len(rows))


def unpacked(packed: Flat, width: int) -> np.ndarray:
    """Read to odd places among others, from the last to the first."""
    at = 2 * np.arange(packed.ends.size)[::-1] + 1
    rows = np.full((2 * at.size + 1, width), OTHER)
    rows[at] = 0
    unpack(packed, rows, at)
    assert (np.delete(rows, at, axis=0) == OTHER).all()
    return rows[at]


def random_rows(seed: int, count: int, width: int, filled: float) -> np.ndarray:
    """int64 [count, width], random bytes of them zero, and words."""
    random = np.random.default_rng(seed)
    words = random.integers(0, 256, (count, width, WORD_BYTES), dtype=np.uint8) * (random.random((count, width, WORD_BYTES)) < 0.8)
    rows: np.ndarray = words.astype(np.uint8).view(np.int64)[:, :, 0]
    odd = random.random(rows.shape) < 0.3
    rows[odd] = random.choice(ODD_WORDS, odd.sum())
    rows[random.random(rows.shape) >= filled] = 0
    return rows


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("filled", [0.0, 0.03, 0.5, 1.0])
def test_rows_are_packed_by_the_description_and_come_back(width: int, filled: float) -> None:
    rows = random_rows(width, 30, width, filled)
    packed = pack(rows, everywhere(rows))
    assert packed.split() == [plainly(row) for row in rows.tolist()]
    assert np.array_equal(unpacked(packed, width), rows)


@settings(deadline=None)
@given(st.integers(1, 200), st.data())
def test_any_rows_come_back_from_any_places(width: int, data: st.DataObject) -> None:
    told = data.draw(st.lists(st.dictionaries(st.integers(0, width - 1), any_word, max_size=12), max_size=6))
    at, clear = np.array(data.draw(st.permutations(range(len(told)))), dtype=np.int64)[: len(told) // 2 + 1], data.draw(st.booleans())
    rows = np.zeros((len(told), width), dtype=np.int64)
    for row, words in zip(rows, told, strict=True):
        row[list(words)] = list(words.values())
    before = rows.copy()
    packed = pack(rows, at, clear)
    assert packed.split() == [plainly(row) for row in before[at].tolist()]
    assert np.array_equal(unpacked(packed, width), before[at])
    if clear:
        before[at] = 0
    assert np.array_equal(rows, before), "the packed rows are zeros where that was asked for, and no other changed"


@pytest.mark.parametrize("at", [0, 1, 6, 7, 8, 9, 62, 63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("shift", range(0, 64, 8))
def test_every_byte_of_every_word_has_its_bit(at: int, shift: int) -> None:
    rows = np.zeros((1, 130), dtype=np.int64)
    rows[0, at] = np.array(0x80 << shift, dtype=np.uint64).view(np.int64)
    packed = pack(rows, everywhere(rows))
    assert packed.split() == [plainly(rows[0].tolist())]
    assert np.array_equal(unpacked(packed, 130), rows)
    assert packed.sizes.tolist() == [2], "the first word, bits of 17 groups, and five bytes at most"


def test_rows_whose_value_has_no_words_stay_as_they_are() -> None:
    rows = np.full((5, 70), OTHER)
    unpack(flat([b"", b"", b""]), rows, np.array([4, 0, 2]))
    assert (rows == OTHER).all()
    told = random_rows(1, 2, 70, 0.5)
    first, second = pack(told, everywhere(told)).split()
    rows[[1, 3]] = 0
    unpack(flat([b"", first, b"", second, b""]), rows, np.array([0, 3, 2, 1, 4]))
    assert np.array_equal(rows[[3, 1]], told)
    assert (rows[[0, 2, 4]] == OTHER).all()


@pytest.mark.parametrize("clear", [False, True])
def test_no_rows_are_no_bytes(clear: bool) -> None:
    none = np.empty(0, dtype=np.int64)
    for rows in (np.full((3, 70), OTHER), np.empty((0, 70), dtype=np.int64)):
        packed = pack(rows, none, clear)
        assert packed.split() == []
        unpack(packed, rows, none)
        unpack(flat([]), rows, none)
        assert (rows == OTHER).all()


def test_values_may_be_taken_apart_and_joined() -> None:
    rows = random_rows(3, 20, 90, 0.3)
    packed = pack(rows, everywhere(rows))
    values = packed.split()
    again = flat(values)
    assert again.split() == values
    assert again.words.tolist() == packed.words[: packed.ends[-1]].tolist()
    assert (again.sizes * WORD_BYTES).tolist() == [len(value) for value in values]
    assert again.starts.tolist() == [0, *again.ends.tolist()[:-1]]
    for count in (0, 1, 7, 20):
        assert packed.first(count).split() == values[:count]
        assert np.array_equal(unpacked(packed.first(count), 90), rows[:count])
    again.words[0] = 1  # may be written


def test_rows_may_be_taken_from_between_others() -> None:
    rows = random_rows(2, 40, 300, 0.2)
    part = rows[::3, 10:150]
    assert pack(part, everywhere(part)).split() == [plainly(row) for row in part.tolist()]


@pytest.mark.parametrize("lowest_byte", [1, 255])
def test_no_row_takes_more_than_it_may(lowest_byte: int) -> None:
    """Nor is a byte written behind what all may take."""
    for width in range(1, 201):
        full = np.random.default_rng(width).integers(lowest_byte, 256, (3, width, WORD_BYTES), dtype=np.uint8)
        rows, most, ends = full.view(np.int64)[:, :, 0], most_bytes(width), np.empty(3, dtype=np.int64)
        into = np.full(3 * most + 64, 0xAA, dtype=np.uint8)
        pack_rows(rows, everywhere(rows), nexts(rows.shape[1]), False, into, ends)
        assert most % WORD_BYTES == 0
        assert np.diff(ends, prepend=0).max() * WORD_BYTES <= most
        assert (into[3 * most :] == 0xAA).all()
        assert Flat(into[: ends[-1] * WORD_BYTES].view(np.int64), ends).split() == [plainly(row) for row in rows.tolist()]


def test_a_row_that_was_seen_once_is_small() -> None:
    layout = plan(EntityConfig(distinct="items", session_gap_seconds=1_800), "user", 3)
    rows = np.zeros((1, layout.words), dtype=np.int64)
    rows[0, 0] = 1_700_000_000_000
    observe(layout, views(rows), 0, 1_700_000_000_000, 1, np.nan, 12_345, np.empty(layout.width, dtype=np.float32))
    packed = pack(rows, everywhere(rows))
    assert packed.ends[0] < layout.words / 12
    assert np.array_equal(unpacked(packed, layout.words), rows)


@pytest.mark.parametrize(("width", "parts"), [(50, [(8, 34), (40, 50)]), (64, [(0, 64)]), (40, [(8, 9), (16, 24), (24, 33)])])
def test_parts_that_are_empty_at_their_start_are_passed_over_and_change_no_byte(width: int, parts: list[tuple[int, int]]) -> None:
    rows = np.random.default_rng(width).integers(-3, 3, (60, width))
    for start, stop in parts:
        rows[::2, start:stop] = 0
    rows[1::2, [start for start, _ in parts]] = 7
    packed = sparse_rows.pack(rows, everywhere(rows), nexts(width, parts))
    assert packed.split() == pack(rows, everywhere(rows)).split()


def test_a_part_leads_to_the_words_behind_it() -> None:
    assert nexts(50).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert nexts(50, [(8, 34), (40, 50)]).tolist() == [1, 4, 3, 4, 5, 6, 7]
    assert nexts(3 * GROUP_WORDS, [(0, 5)]).tolist() == [1, 2, 3]
