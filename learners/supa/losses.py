"""The losses of one end of an edge, and what they are by what they depend on. A torch twin of each stands in the tests."""

import math

import numpy as np

from core.compiled import compiled, inlined
from learners.supa.descent import EPSILON, descend
from learners.supa.neighbours import Slots
from learners.supa.table import dot

LOSS_SHARE = 1 / 4096  # of one end's loss in the moving average: the last few thousand edges
TINY = 1e-300  # keeps a softmax defined where every term but one is 0


@inlined
def softmax_slopes(weight: np.ndarray, count: int, slope: np.ndarray) -> None:
    """From logits to the loss by logit, in place. L = - sum over targets j of w_j log(e^x_j / (e^x_j + sum over negatives e^x))."""
    top, rivals, pull = np.max(slope[:count]), 0.0, 0.0
    for k in range(count):
        slope[k] = math.exp(slope[k] - top)
        rivals += slope[k] if weight[k] == 0.0 else 0.0
    for k in range(count):
        if weight[k] > 0.0:
            total = rivals + slope[k] + TINY
            pull += weight[k] / total
            slope[k] = -weight[k] * rivals / total
        else:
            slope[k] *= pull


@inlined
def sigmoid_slopes(weight: np.ndarray, count: int, slope: np.ndarray) -> None:
    """As above. L = - sum over targets j of w_j log sigmoid(x_j) - sum over negatives of log sigmoid(-x)."""
    for k in range(count):
        if weight[k] > 0.0:
            slope[k] = -weight[k] / (1.0 + math.exp(slope[k]))
        else:
            slope[k] = 1.0 / (1.0 + math.exp(-slope[k]))


@inlined
def lose(slope: float, loss: np.ndarray) -> None:
    """Add what an end lost on the node that it met: - log of its softmax or sigmoid, which is 1 + the slope of its logit."""
    loss[0] += LOSS_SHARE * (-math.log(max(1.0 + slope, EPSILON)) - loss[0])
    loss[1] += LOSS_SHARE * (1.0 - loss[1])


@compiled
def differentiate(context: np.ndarray, bias: np.ndarray, slots: Slots, count: int, sigmoid: bool, h: np.ndarray, slope: np.ndarray,
                  gradient: np.ndarray) -> bool:  # fmt: skip
    """The loss of one end, by what it depends on; False where a number is not finite.

    Args:
        context, bias: of `Table`.
        h: float32 [d], h* of the end.
        slope: float64 [slots], filled with the loss by each slot's product of h* and context, and by its bias.
        gradient: float32 [d], filled with the loss by h*.
    """
    for k in range(count):
        at = (slots.row[k], slots.relation[k])
        slope[k] = slots.scale[k] * (dot(h, context[at]) + bias[at])
    if sigmoid:
        sigmoid_slopes(slots.weight, count, slope)
    else:
        softmax_slopes(slots.weight, count, slope)
    gradient[:] = 0.0
    for k in range(count):
        slope[k] *= slots.scale[k]
        descend(gradient, -slope[k], context[slots.row[k], slots.relation[k]])
    return math.isfinite(dot(gradient, gradient)) and math.isfinite(dot(h, h))
