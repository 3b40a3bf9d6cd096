"""Counter-based randomness equals numpy's Philox and remembers nothing."""

import numpy as np
import pytest

from core.randomness import fill, philox, unit

LARGEST = 2**64 - 1


def numpy_block(seed: int, stream: int, position: int, draw: int) -> list[int]:
    """Four words of numpy's generator, which counts up once before it draws."""
    counter = (draw + (position << 64) - 1) % 2**256
    bits = np.random.Philox(key=seed + (stream << 64), counter=counter)
    return [int(word) for word in bits.random_raw(4)]


def block(seed: int, stream: int, position: int, draw: int) -> list[int]:
    out = np.empty(4, dtype=np.uint64)
    philox(np.uint64(seed), np.uint64(stream), np.uint64(position), np.uint64(draw), out)
    return [int(word) for word in out]


@pytest.mark.parametrize("counter", [(0, 0, 0, 0), (1, 2, 3, 4), (LARGEST, LARGEST, LARGEST, LARGEST), (LARGEST, 0, 0, LARGEST)])
def test_corner_counters_equal_numpy(counter: tuple[int, int, int, int]) -> None:
    assert block(*counter) == numpy_block(*counter)


def test_many_counters_equal_numpy() -> None:
    for words in np.random.Generator(np.random.PCG64(3)).integers(0, LARGEST, (200, 4), dtype=np.uint64, endpoint=True):
        seed, stream, position, draw = map(int, words)
        assert block(seed, stream, position, draw) == numpy_block(seed, stream, position, draw)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 17])
def test_fill_is_the_blocks_one_after_another(size: int) -> None:
    out = np.zeros(size, dtype=np.uint64)
    fill(np.uint64(7), np.uint64(8), np.uint64(9), out)
    expected = [word for draw in range(5) for word in numpy_block(7, 8, 9, draw)]
    assert [int(word) for word in out] == expected[:size]


def test_unit_equals_numpys_doubles() -> None:
    words = np.random.Philox(11).random_raw(500)
    expected = np.random.Generator(np.random.Philox(11)).random(500)
    assert [unit(word) for word in words] == expected.tolist()
    assert unit(np.uint64(0)) == 0.0
    assert unit(np.uint64(LARGEST)) == 1.0 - 2.0**-53
