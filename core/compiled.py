"""Numba behind a typed face: the one module where untyped decorators are let in."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

LINE_BYTES = 64  # what memory hands over at once

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


def _line(_: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, word, word, word]))
        builder.call(fetch, [builder.inttoptr(arguments[0], byte), word(0), word(3), word(1)])  # to read, to be kept, data
        return context.get_dummy_value()

    return numba.types.void(address), generate


_ask_line = cast(Callable[[int], None], intrinsic(_line))


@inlined
def ask(address: int, size: int) -> None:
    """Have `size` bytes of memory brought into the caches while other work goes on. Nothing is read or changed; any address will do."""
    for offset in range(0, size, LINE_BYTES):
        _ask_line(address + offset)


def _same(_: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        context.nrt.incref(builder, signature.return_type, arguments[0])
        return arguments[0]

    return array.copy(layout="C")(array), generate


contiguous = cast(Callable[[np.ndarray], np.ndarray], intrinsic(_same))
"""The same array, which is known to be contiguous though its type does not say so: loops over it can be vectorised."""
