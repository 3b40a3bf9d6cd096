"""About how many different ids there were: HyperLogLog with a byte per register.

Source: Flajolet, Fusy, Gandouet, Meunier, "HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm", AofA 2007.
Standard error 1.04 / sqrt(REGISTERS), 9 %. Ours and not a library's, because a row is 128 bytes in an array under one kernel: an object
and a call per event and entity would cost more than all other features together.
"""

import math

import numpy as np

from core.compiled import compiled

REGISTERS = 128
REGISTER_BITS = 7
_SCALE = 0.7213 / (1.0 + 1.079 / REGISTERS) * REGISTERS * REGISTERS
_HALVES = np.exp2(-np.arange(64.0))


@compiled
def add_distinct(registers: np.ndarray, sums: np.ndarray, word: int) -> None:
    """Count an id by a word of its hash.

    Args:
        registers: uint8 [REGISTERS]. Updated.
        sums: float64 [2]: how many registers are in use, and the sum of 2^-register over these, so that asking costs nothing. Updated.
        word: uniformly distributed 64 bits.
    """
    bits = np.uint64(word)
    register = np.int64(bits & np.uint64(REGISTERS - 1))
    rest = bits >> np.uint64(REGISTER_BITS)
    rank = 1
    while rank < 64 - REGISTER_BITS and rest & np.uint64(1) == 0:
        rest >>= np.uint64(1)
        rank += 1
    held = registers[register]
    if rank > held:
        sums[0] += held == 0
        sums[1] += _HALVES[rank] - (_HALVES[held] if held else 0.0)
        registers[register] = rank


@compiled
def estimate_distinct(sums: np.ndarray) -> float:
    """About how many ids were counted; small numbers by the registers still empty."""
    empty = REGISTERS - sums[0]
    estimate: float = _SCALE / (empty + sums[1])
    if estimate <= 2.5 * REGISTERS and empty:
        estimate = REGISTERS * math.log(REGISTERS / empty)
    return estimate
