"""What the metrics say of a stage: counted as outputs come, and measured now and then. A stage itself knows no metrics."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import polars as pl

from core.composite import CompositeStage
from core.ids import IdMap
from core.schemas import EVENT
from core.stage import Stage
from features.user_stage import UserStage
from learners.supa.learner import SupaLearner
from learners.tokenizer.learner import TokenizerLearner
from monitoring.metrics import Metrics


class Observer(Protocol):
    """Made once a stage is restored: what it says from then on is counted, not what its checkpoint brought."""

    def applied(self, outputs: Sequence[pl.DataFrame]) -> None:
        """Records were applied, and gave these."""

    def look(self) -> None:
        """Measure what is there; called about twice a second, beside `apply`."""


class Rises:
    """How much totals went up since they were last looked at."""

    def __init__(self, totals: Mapping[str, int]) -> None:
        self._seen = dict(totals)

    def since(self, totals: Mapping[str, int]) -> dict[str, int]:
        rises = {name: total - self._seen[name] for name, total in totals.items()}
        self._seen = dict(totals)
        return rises


class FeatureObserver:
    """What the feature stage decided, the age of accepted events, the size of its store."""

    def __init__(self, stage: Stage, metrics: Metrics) -> None:
        assert isinstance(stage, UserStage)
        self._stage, self._metrics, self._outcomes = stage, metrics, Rises(stage.outcomes)

    def applied(self, outputs: Sequence[pl.DataFrame]) -> None:
        for outcome, events in self._outcomes.since(self._stage.outcomes).items():
            self._metrics.judged(outcome, events)
        for rows in outputs:
            ages_ms = rows["sent_ms"].to_numpy() - rows["ts_ms"].to_numpy()
            self._metrics.aged(ages_ms[rows["kind"].to_numpy() == EVENT] / 1000)

    def look(self) -> None:
        self._metrics.stored("features", self._stage.config.partition, self._stage.store.sizes_bytes())


class LearnerObserver:
    """What each part of the learner stage learned, holds and let go; how the tokens do."""

    def __init__(self, stage: Stage, metrics: Metrics) -> None:
        assert isinstance(stage, CompositeStage)
        self._looks: list[Callable[[], None]] = []
        for part in stage.parts:
            self._looks += [TableObserver(part.name, kind, ids, metrics).look for kind, ids in part.tables.items()]
            if isinstance(part, SupaLearner):
                self._looks.append(SupaObserver(part, metrics).look)
            if isinstance(part, TokenizerLearner):
                self._looks.append(TokenObserver(part, metrics).look)

    def applied(self, outputs: Sequence[pl.DataFrame]) -> None:
        """Nothing flows out of this stage; its totals are read by `look`."""

    def look(self) -> None:
        for look in self._looks:
            look()


class TableObserver:
    """The ids that one part has rows for."""

    def __init__(self, learner: str, kind: str, ids: IdMap, metrics: Metrics) -> None:
        self._learner, self._kind, self._ids, self._metrics = learner, kind, ids, metrics
        self._turnover = Rises(self._totals())

    def _totals(self) -> dict[str, int]:
        return {"admitted": self._ids.admitted, "evicted": self._ids.evicted}

    def look(self) -> None:
        self._metrics.held(self._learner, self._kind, len(self._ids), self._ids.capacity)
        self._metrics.turned_over(self._learner, self._kind, **self._turnover.since(self._totals()))


class SupaObserver:
    """Updates and loss."""

    def __init__(self, learner: SupaLearner, metrics: Metrics) -> None:
        self._learner, self._metrics, self._updates = learner, metrics, Rises(self._totals(learner))

    @staticmethod
    def _totals(learner: SupaLearner) -> dict[str, int]:
        return {"updates": learner.updates, "nonfinite": learner.nonfinite_updates}

    def look(self) -> None:
        self._metrics.updated(self._learner.name, **self._updates.since(self._totals(self._learner)), loss=self._learner.loss)


class TokenObserver:
    """Changes of tokens, and what the codebook is worth."""

    def __init__(self, tokenizer: TokenizerLearner, metrics: Metrics) -> None:
        self._tokenizer, self._metrics = tokenizer, metrics
        self._changes, self._encodes = Rises(tokenizer.recoded), Rises({"encodes": tokenizer.encodes})

    def look(self) -> None:
        of = self._tokenizer
        self._metrics.recoded(self._changes.since(of.recoded), **self._encodes.since({"encodes": of.encodes}))
        version = of.codebook_version
        self._metrics.tokenized(of.items, of.collisions, of.distortion, of.utilisation, -1 if version is None else version)
