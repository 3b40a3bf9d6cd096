"""The serving cache tells the learner's memory-aware score, to the bit, whatever came and went before."""

from dataclasses import replace

import numpy as np
import pytest
from supa_logs import SMALL, feed, mixed

from core.composite import CompositeStage
from core.stage import Publication
from learners.cache import ParameterCache
from learners.supa import SupaLearner

CONFIG = replace(SMALL, memory_every=2, ring_size=6)
MIXED = mixed(900)


def served(stage: CompositeStage, cache: ParameterCache) -> None:
    publication = stage.publish()
    if publication is not None:
        cache.apply("learner", publication)


def assert_same_scores(learner: SupaLearner, cache: ParameterCache) -> int:
    users = [*filter(None, learner.users.ids.ids), "nobody"]
    items = [*filter(None, learner.items.ids.ids), "nothing"]
    count = 0
    for user in users:
        ours, theirs = cache.score(user, items), learner.score(user, items)
        assert ours.astype(np.float32).tobytes() == theirs.tobytes(), user
        count += int(np.count_nonzero(~np.isnan(ours)))
    return count


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, ring_size=2), replace(CONFIG, undo_types=("hate",))])
def test_the_cache_scores_as_the_learner_does(config) -> None:
    learner, cache = SupaLearner(config), ParameterCache()
    stage = CompositeStage([learner], 1)
    for start in range(0, MIXED.height, 60):
        feed(stage, MIXED[start : start + 60])
        served(stage, cache)
        assert assert_same_scores(learner, cache) > 0
