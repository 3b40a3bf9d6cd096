"""Numba behind a typed face: the one module where untyped decorators are let in."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile `function` to machine code on first call, cached on disk, releasing the GIL while it runs."""
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function))


def inlined(function: F) -> F:
    """As `compiled`, for small helpers called from kernels."""
    return cast(F, numba.njit(cache=True, nogil=True, inline="always", error_model="numpy")(function))


def summed(function: F) -> F:
    """As `compiled`, for sums: their terms are added in the order that suits the machine, ten times as fast.

    The order depends on the machine and the length alone, so two runs on one machine give the same bytes.
    """
    return cast(F, numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"}, error_model="numpy")(function))
