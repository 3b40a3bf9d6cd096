"""Steps down a gradient, row by row.

Source: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011, with one sum of squares per row.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, contiguous, inlined
from learners.supa.neighbours import Slots
from learners.supa.table import dot

EPSILON = 1e-10


class Rates(NamedTuple):
    """Of AdaGrad."""

    vectors: float
    biases: float
    max_gradient_norm: float


@inlined
def step_size(sums: np.ndarray, at: tuple[int, ...], squares: float, dimensions: int, rate: float, most: float) -> float:
    """What a gradient is multiplied by: row-wise AdaGrad, gradients longer than `most` scaled down. Adds to the row's sum."""
    clip = 1.0 if squares <= most * most else most / math.sqrt(squares)
    sums[at] += np.float32(clip * clip * squares / dimensions)
    return clip * rate / math.sqrt(float(sums[at]) + EPSILON)


@inlined
def descend(values: np.ndarray, step: float, gradient: np.ndarray) -> None:
    """values -= step * gradient."""
    to, of, scale = contiguous(values), contiguous(gradient), np.float32(step)
    for i in range(to.shape[0]):
        to[i] -= scale * of[i]


@compiled
def update_contexts(
    context: np.ndarray, sums: np.ndarray, slots: Slots, count: int, slope: np.ndarray, h: np.ndarray, rates: Rates
) -> None:
    """One AdaGrad step of the contexts in the slots; the arguments are as in `differentiate`."""
    squares, d = float(dot(h, h)), h.shape[0]
    for k in range(count):
        at = (slots.row[k], slots.relation[k])
        step = step_size(sums, at, slope[k] * slope[k] * squares, d, rates.vectors, rates.max_gradient_norm)
        descend(context[at], step * slope[k], h)


@compiled
def update_biases(bias: np.ndarray, sums: np.ndarray, slots: Slots, count: int, slope: np.ndarray, rates: Rates) -> None:
    """One AdaGrad step of the biases in the slots."""
    for k in range(count):
        at = (slots.row[k], slots.relation[k])
        bias[at] -= np.float32(slope[k] * step_size(sums, at, slope[k] * slope[k], 1, rates.biases, rates.max_gradient_norm))


@compiled
def update_long(long: np.ndarray, sums: np.ndarray, row: int, gradient: np.ndarray, rates: Rates) -> None:
    """One AdaGrad step of an end's long vector by the loss by h*."""
    squares = float(dot(gradient, gradient))
    step = step_size(sums, (row,), squares, gradient.shape[0], rates.vectors, rates.max_gradient_norm)
    descend(long[row], step, gradient)
