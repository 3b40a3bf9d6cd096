"""Counter-based randomness: Philox4x64-10, a pure function of (seed, stream, position, draw).

Nothing is remembered between draws, so a restart, a replay or another cut into batches sees the same numbers.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Equal to `numpy.random.Philox` (tested).
"""

import numpy as np

from core.compiled import compiled

_M0 = np.uint64(0xD2E7470EE14C6C93)
_M1 = np.uint64(0xCA5A826395121157)
_W0 = np.uint64(0x9E3779B97F4A7C15)
_W1 = np.uint64(0xBB67AE8584CAA73B)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_TO_UNIT = 1.0 / 9007199254740992.0  # 2^-53
_MANTISSA_SHIFT = np.uint64(11)


@compiled
def _mul_high(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 bits of the 128-bit product."""
    a_low, a_high = a & _LOW, a >> _HALF
    b_low, b_high = b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF)


@compiled
def philox(seed: np.uint64, stream: np.uint64, position: np.uint64, draw: np.uint64, out: np.ndarray) -> None:
    """Four uint64 into `out` for one counter; key = (seed, stream), counter = (draw, position, 0, 0)."""
    k0, k1 = seed, stream
    c0, c1, c2, c3 = draw, position, np.uint64(0), np.uint64(0)
    for _ in range(10):
        high0, low0 = _mul_high(_M0, c0), _M0 * c0
        high1, low1 = _mul_high(_M1, c2), _M1 * c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += _W0
        k1 += _W1
    out[0], out[1], out[2], out[3] = c0, c1, c2, c3


@compiled
def fill(seed: np.uint64, stream: np.uint64, position: np.uint64, out: np.ndarray) -> None:
    """Fill the uint64 array `out` with the draws 0, 1, ... of one position."""
    block = np.empty(4, dtype=np.uint64)
    for start in range(0, out.shape[0], 4):
        philox(seed, stream, position, np.uint64(start // 4), block)
        for k in range(min(4, out.shape[0] - start)):
            out[start + k] = block[k]


@compiled
def unit(bits: np.uint64) -> float:
    """64 random bits as a float64 in [0, 1)."""
    return float(bits >> _MANTISSA_SHIFT) * _TO_UNIT
