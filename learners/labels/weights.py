"""What a row of a delayed label weighs, by policy and kind, and what its two helpers learn from it.

With f = the model's output, p_dp = P(positive after the window), p_rn = P(a true negative, where a negative was observed):

    loss = a (-log f) + b (-log(1 - f)), a and b held constant,  d loss / d logit = b f - a (1 - f)

    policy              positives                       negatives
    fnw                 a = 1 + f                       b = (1 - f)(1 + f)
    es-dfm              a = 1 + p_dp                    b = (1 + p_dp) p_rn
    defer               a = f / (f - m / 2)             b = (1 - f) / (1 - f + m / 2),  m = min(p_dp, f)
    defuse              at once a = 1 + p_dp; late 1    a = z p_dp, b = (1 - z)(1 + p_dp),  z = 1 - p_rn
    the others          a = 1                           b = 1

At constant features f goes to P(positive) = p, but of window to p - p_dp, of vanilla to p / (1 + p_dp), and of fnc to q = p / (1 + p):
fnc serves q / (1 - q).

DEFER holds exactly two copies of an example: the window's label and, where that was final, the same once more at the horizon; of a late
positive the window's negative and the late row. Its matured_late row teaches the helpers alone, as all matured rows do.
Its weight with p_dp itself in place of m changes sign below f = p_dp / 2 and drives f away; with m, P(positive) is the only rest point.

Sources: FNW and FNC arXiv 1907.06558, ES-DFM 2012.03245, DEFER 2104.14121, DEFUSE 2202.06472.
"""

from core import labels
from core.compiled import compiled
from core.labels import DEFER, DEFUSE, ES_DFM, FNC, FNW, LATE, POSITIVE_KINDS

NOTHING = -1.0  # in place of a target: the row teaches this helper nothing
LARGEST_FNC = 0.5  # q at and above it belongs to no probability
MOST_SERVED = 0.999  # in place of q / (1 - q) there


@compiled
def is_matured(kind: int) -> bool:
    """Whether the row teaches the helpers alone."""
    return kind in (labels.MATURED_IN_WINDOW, labels.MATURED_LATE, labels.MATURED_NEGATIVE)


@compiled
def is_final(kind: int) -> bool:
    """Whether the row stands at the horizon."""
    return kind in (labels.FINAL_POSITIVE, labels.FINAL_NEGATIVE)


@compiled
def is_positive(kind: int) -> bool:
    """Whether y is 1."""
    return kind in POSITIVE_KINDS


@compiled
def _defer(positive: bool, f: float, p_dp: float) -> tuple[float, float]:
    half = 0.5 * min(p_dp, f)
    return (f / (f - half), 0.0) if positive else (0.0, (1.0 - f) / (1.0 - f + half))


@compiled
def _defuse(kind: int, p_dp: float, p_rn: float) -> tuple[float, float]:
    if kind == LATE:
        return 1.0, 0.0
    if is_positive(kind):
        return 1.0 + p_dp, 0.0
    return (1.0 - p_rn) * p_dp, p_rn * (1.0 + p_dp)


@compiled
def weights(policy: int, kind: int, f: float, p_dp: float, p_rn: float) -> tuple[float, float]:
    """(a, b) of a row. All three probabilities lie strictly between 0 and 1."""
    if is_matured(kind):
        return 0.0, 0.0
    positive = is_positive(kind)
    if policy == DEFER:
        return _defer(positive, f, p_dp)
    if policy == DEFUSE:
        return _defuse(kind, p_dp, p_rn)
    if policy == ES_DFM:
        return (1.0 + p_dp, 0.0) if positive else (0.0, (1.0 + p_dp) * p_rn)
    if policy == FNW:
        return (1.0 + f, 0.0) if positive else (0.0, (1.0 - f) * (1.0 + f))
    return (1.0, 0.0) if positive else (0.0, 1.0)


@compiled
def slope(a: float, b: float, f: float) -> float:
    """The loss by the logit of f."""
    return b * f - a * (1.0 - f)


@compiled
def helper_targets(policy: int, kind: int) -> tuple[float, float]:
    """What p_dp and p_rn should have said of the row: 0, 1 or NOTHING. p_rn learns from observed negatives alone."""
    final = policy == DEFER
    if kind == labels.MATURED_LATE:
        return 1.0, 0.0
    if kind == labels.MATURED_NEGATIVE or (final and kind == labels.FINAL_NEGATIVE):
        return 0.0, 1.0
    if kind == labels.MATURED_IN_WINDOW or (final and kind == labels.FINAL_POSITIVE):
        return 0.0, NOTHING
    return NOTHING, NOTHING


@compiled
def served(policy: int, f: float) -> float:
    """The probability that f stands for. Of fnc f / (1 - f), held at MOST_SERVED."""
    if policy != FNC:
        return f
    return MOST_SERVED if is_clipped(policy, f) else min(f / (1.0 - f), MOST_SERVED)


@compiled
def is_clipped(policy: int, f: float) -> bool:
    """Whether f belongs to no probability."""
    return policy == FNC and f >= LARGEST_FNC
