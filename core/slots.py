"""Numbers by hash, compiled: open addressing, for kernels that hold the keys themselves.

A slot is hash << 32 | 1 + number, 0 where it is empty. From the place of its hash on a number is found without an empty slot between; there
are twice as many slots as numbers, or more.
"""

import numpy as np

from core.compiled import compiled

HASH_BITS = 31
_LOW = (1 << 32) - 1


def empty_slots(numbers: int) -> np.ndarray:
    """int64 [2^k], for that many numbers."""
    return np.zeros(1 << max(1, (2 * numbers - 1).bit_length()), dtype=np.int64)


@compiled
def number_of(slot: int) -> int:
    """-1 of an empty one."""
    return (slot & _LOW) - 1


@compiled
def insert(slots: np.ndarray, hash_: int, number: int) -> None:
    """Put a number that is not there."""
    mask = slots.shape[0] - 1
    at = hash_ & mask
    while slots[at]:
        at = (at + 1) & mask
    slots[at] = hash_ << 32 | (number + 1)


@compiled
def remove(slots: np.ndarray, hash_: int, number: int) -> None:
    """Take out a number that is there, and move up those behind it that would not be found past the gap."""
    mask, own = slots.shape[0] - 1, hash_ << 32 | (number + 1)
    gap = hash_ & mask
    while slots[gap] != own:
        gap = (gap + 1) & mask
    at = (gap + 1) & mask
    while slots[at]:
        home = (slots[at] >> 32) & mask
        if (at - home) & mask >= (at - gap) & mask:
            slots[gap] = slots[at]
            gap = at
        at = (at + 1) & mask
    slots[gap] = 0


def numbers(slots: np.ndarray) -> np.ndarray:
    """int32 [n]: all of them, in no order of meaning."""
    held: np.ndarray = (slots[slots != 0] & _LOW) - 1
    return held.astype(np.int32)
