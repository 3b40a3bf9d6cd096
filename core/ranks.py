"""Where an item stands among others by their scores."""

import numpy as np

from core.compiled import compiled


@compiled
def mean_rank(scores: np.ndarray, among: np.ndarray, at: int) -> float:
    """Rank of scores[at] among the candidates, 1 is first; equal scores share their mean rank, NaN is below all and equal to NaN.

    Args:
        scores: float [n].
        among: bool [n], the candidates; `at` counts whether or not it is one.
    """
    own, above, equal = scores[at], 0, 0
    for k in range(scores.shape[0]):
        if among[k] and k != at:
            if np.isnan(own):
                above += not np.isnan(scores[k])
                equal += np.isnan(scores[k])
            else:
                above += scores[k] > own
                equal += scores[k] == own
    return 1.0 + above + equal / 2.0
