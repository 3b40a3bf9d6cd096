"""One row of a late label: what the model said, what the row weighs, one step of each head. Compiled; a slow twin stands in the tests.

A label has three logistic heads over the same features: f, which is served, and the helpers p_dp and p_rn (see `learners.labels.weights`).

    logit_h = bias_h + sum over present buckets w_h + sum_j w_hj x_j,   w -= rate g / sqrt(initial + G),  G = sum of g^2, g's own included

Source of the optimiser: Duchi, Hazan, Singer, "Adaptive subgradient methods", JMLR 2011, diagonal form.
"""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from core.labels import DEFER, LATE
from core.rows import CHUNK_BITS
from learners.labels.weights import NOTHING, helper_targets, is_clipped, is_final, is_matured, is_positive, served, slope, weights

MAIN, P_DP, P_RN = range(3)  # heads
HEADS = 3
LIMIT = 35.0  # of logits: every probability stays off 0 and 1, and its logarithm finite
EVERY, LOSS, PREDICTED, OBSERVED = range(4)  # columns of the running sums


class Weights(NamedTuple):
    """A row a coordinate. First the numbers and the bias of each label, which every example uses, then the buckets of each."""

    weight: np.ndarray  # float64 [rows, HEADS]
    squares: np.ndarray  # float64 [rows, HEADS], AdaGrad's sums
    dirty: np.ndarray  # bool [chunks], changed since the last snapshot


class Totals(NamedTuple):
    """What was learned from so far, a row a label."""

    rows: np.ndarray  # int64 [labels, kinds]
    clipped: np.ndarray  # int64 [labels], fnc rows that met an f at which no probability is left
    refused: np.ndarray  # int64 [labels], rows whose gradient was not finite; they changed nothing
    sums: np.ndarray  # float64 [labels, 4], decayed: clicks, their loss, predicted and observed positives


class Rule(NamedTuple):
    """What stays the same from row to row: see `LogisticConfig`."""

    labels: int
    buckets: int
    numerics: int
    rate: float
    helper_rate: float
    initial_squares: float
    keep: float  # of the running sums, from a click to the next


@inlined
def dense_row(rule: Rule, label: int) -> int:
    """Of the label's first number; its bias is `numerics` behind it."""
    return label * (rule.numerics + 1)


@inlined
def bucket_row(rule: Rule, label: int, bucket: int) -> int:
    return rule.labels * (rule.numerics + 1) + label * rule.buckets + bucket


@compiled
def probability(logit: float) -> float:
    """Logistic function of a logit held to LIMIT; NaN of NaN."""
    if logit > LIMIT:
        logit = LIMIT
    elif logit < -LIMIT:
        logit = -LIMIT
    return 1.0 / (1.0 + math.exp(-logit))


@compiled
def add_logits(of: Weights, rule: Rule, label: int, categorical: np.ndarray, numeric: np.ndarray, logits: np.ndarray) -> bool:
    """Fill `logits` float64 [HEADS]; False where one is not finite."""
    dense = dense_row(rule, label)
    for h in range(HEADS):
        logit = of.weight[dense + rule.numerics, h]
        for j in range(rule.numerics):
            logit += of.weight[dense + j, h] * numeric[j]
        for k in range(categorical.shape[0]):
            if categorical[k] >= 0:
                logit += of.weight[bucket_row(rule, label, categorical[k]), h]
        logits[h] = logit
    return math.isfinite(logits[MAIN]) and math.isfinite(logits[P_DP]) and math.isfinite(logits[P_RN])


@inlined
def step(of: Weights, rule: Rule, row: int, x: float, slopes: np.ndarray) -> None:
    """AdaGrad on one coordinate of each head, whose feature has value x."""
    for h in range(HEADS):
        gradient = slopes[h] * x
        if gradient != 0.0:
            of.squares[row, h] += gradient * gradient
            rate = rule.rate if h == MAIN else rule.helper_rate
            of.weight[row, h] -= rate * gradient / math.sqrt(rule.initial_squares + of.squares[row, h])
            of.dirty[row >> CHUNK_BITS] = True


@inlined
def times_from(categorical: np.ndarray, k: int) -> int:
    """How often the bucket at k occurs in the example; 0 where it stood before k, or is absent."""
    if categorical[k] < 0:
        return 0
    for before in range(k):
        if categorical[before] == categorical[k]:
            return 0
    times = 1
    for behind in range(k + 1, categorical.shape[0]):
        times += categorical[behind] == categorical[k]
    return times


@compiled
def descend(of: Weights, rule: Rule, label: int, categorical: np.ndarray, numeric: np.ndarray, slopes: np.ndarray) -> None:
    """A step of every coordinate of the example. A bucket that two of its features share is one coordinate of value 2."""
    dense = dense_row(rule, label)
    step(of, rule, dense + rule.numerics, 1.0, slopes)
    for j in range(rule.numerics):
        step(of, rule, dense + j, float(numeric[j]), slopes)
    for k in range(categorical.shape[0]):
        times = times_from(categorical, k)
        if times:
            step(of, rule, bucket_row(rule, label, categorical[k]), float(times), slopes)


@compiled
def watch(sums: np.ndarray, keep: float, policy: int, kind: int, f: float) -> None:
    """Bring the running sums of a label, float64 [4], up to date with a row that met the served probability f.

    The first label of a click counts the click; a late positive takes back the negative that stood for it, so that over a horizon loss
    and rates are those of final labels. Second copies and matured rows tell nothing new of the main head.
    """
    positive = is_positive(kind)
    if is_matured(kind) or (policy == DEFER and is_final(kind)):
        return
    if kind == LATE:
        sums[LOSS] += math.log(1.0 - f) - math.log(f)
    else:
        sums *= keep
        sums[EVERY] += 1.0
        sums[LOSS] -= math.log(f if positive else 1.0 - f)
        sums[PREDICTED] += f
    sums[OBSERVED] += positive


@compiled
def learn_row(
    of: Weights, rule: Rule, totals: Totals, label: int, policy: int, kind: int, categorical: np.ndarray, numeric: np.ndarray,
    logits: np.ndarray, slopes: np.ndarray,
) -> None:  # fmt: skip
    """Say, weigh, learn. `logits` and `slopes`: float64 [HEADS], room."""
    totals.rows[label, kind] += 1
    if not add_logits(of, rule, label, categorical, numeric, logits):
        totals.refused[label] += 1
        return
    f, p_dp, p_rn = probability(logits[MAIN]), probability(logits[P_DP]), probability(logits[P_RN])
    totals.clipped[label] += is_clipped(policy, f)
    watch(totals.sums[label], rule.keep, policy, kind, served(policy, f))
    a, b = weights(policy, kind, f, p_dp, p_rn)
    late, negative = helper_targets(policy, kind)
    slopes[MAIN] = slope(a, b, f)
    slopes[P_DP] = 0.0 if late == NOTHING else p_dp - late
    slopes[P_RN] = 0.0 if negative == NOTHING else p_rn - negative
    descend(of, rule, label, categorical, numeric, slopes)


@compiled
def learn_rows(
    of: Weights,
    rule: Rule,
    totals: Totals,
    label: np.ndarray,
    policy: np.ndarray,
    kind: np.ndarray,
    categorical: np.ndarray,
    numeric: np.ndarray,
) -> None:
    """Learn rows in order.

    Args:
        of, totals: Updated.
        label, policy, kind: int64 [n], as in `core.labels`.
        categorical: int64 [n, k], buckets, -1 where absent.
        numeric: float32 [n, numerics].
    """
    logits, slopes = np.empty(HEADS), np.empty(HEADS)
    for i in range(label.shape[0]):
        learn_row(of, rule, totals, label[i], policy[i], kind[i], categorical[i], numeric[i], logits, slopes)


@compiled
def predict_rows(of: Weights, rule: Rule, label: int, policy: int, categorical: np.ndarray, numeric: np.ndarray, out: np.ndarray) -> None:
    """Fill float64 [n, HEADS]: the probability served, p_dp, p_rn; NaN where a number told of the example is none."""
    logits = np.empty(HEADS)
    for i in range(out.shape[0]):
        told = add_logits(of, rule, label, categorical[i], numeric[i], logits)
        for h in range(HEADS):
            out[i, h] = probability(logits[h]) if told else math.nan
        out[i, MAIN] = served(policy, out[i, MAIN])
