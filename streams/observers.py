"""What the metrics say of a stage: counted as outputs come, and measured now and then. A stage itself knows no metrics."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import polars as pl

from core.composite import CompositeStage
from core.frames import pick
from core.ids import RowTable
from core.labels import KINDS
from core.schemas import EVENT, LABEL
from core.stage import Stage
from features.impressions import OpenImpressions
from features.label_join import LabelJoin
from features.user_stage import UserStage
from learners.labels import LabelLearner
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
        self._labels = [JoinObserver(stage.labels, stage.config.partition, metrics)] if stage.labels else []

    def applied(self, outputs: Sequence[pl.DataFrame]) -> None:
        for outcome, events in self._outcomes.since(self._stage.outcomes).items():
            self._metrics.judged(outcome, events)
        for rows in outputs:
            ages_ms = rows["sent_ms"].to_numpy() - rows["ts_ms"].to_numpy()
            self._metrics.aged(ages_ms[rows["kind"].to_numpy() == EVENT] / 1000)
            for labels in self._labels:
                labels.applied(rows)

    def look(self) -> None:
        self._metrics.stored("features", self._stage.config.partition, self._stage.store.sizes_bytes())
        for labels in self._labels:
            labels.look()


class JoinObserver:
    """What came of impressions, and the label rows that tell it."""

    def __init__(self, join: LabelJoin, partition: int, metrics: Metrics) -> None:
        self._join, self._partition, self._metrics = join, partition, metrics
        self._outcomes = {label: Rises(counts) for label, counts in join.outcomes.items()}

    def applied(self, rows: pl.DataFrame) -> None:
        """Count the label rows among these of `examples`."""
        label_rows = pick(rows, rows["kind"].to_numpy() == LABEL)
        names, kinds, delays_ms = label_rows["label"].to_list(), label_rows["label_kind"].to_list(), label_rows["delay_ms"].to_list()
        for label in dict.fromkeys(names):
            own = [at for at, name in enumerate(names) if name == label]
            told = Counter(KINDS[kinds[at]] for at in own)
            self._metrics.labelled(label, told, [delays_ms[at] / 1000 for at in own])

    def look(self) -> None:
        for label, counts in self._join.outcomes.items():
            self._metrics.joined(label, self._outcomes[label].since(counts))
        for label, impressions in self._join.open.items():
            self._metrics.undecided(label, self._partition, impressions)


class LearnerObserver:
    """What each part of the learner stage learned, holds and let go; how the tokens do."""

    def __init__(self, stage: Stage, metrics: Metrics) -> None:
        assert isinstance(stage, CompositeStage)
        self._looks: list[Callable[[], None]] = []
        for part in stage.parts:
            self._looks += [TableObserver(part.name, kind, ids, metrics).look for kind, ids in part.tables.items()]
            if isinstance(part, SupaLearner):
                self._looks.append(SupaObserver(part, metrics).look)
            if isinstance(part, OpenImpressions):
                self._looks.append(ImpressionsObserver(part, metrics).look)
            if isinstance(part, LabelLearner):
                self._looks.append(LabelObserver(part, metrics).look)
            if isinstance(part, TokenizerLearner):
                self._looks.append(TokenObserver(part, metrics).look)

    def applied(self, outputs: Sequence[pl.DataFrame]) -> None:
        """Nothing flows out of this stage; its totals are read by `look`."""

    def look(self) -> None:
        for look in self._looks:
            look()


class TableObserver:
    """The ids that one part has rows for."""

    def __init__(self, learner: str, kind: str, ids: RowTable, metrics: Metrics) -> None:
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


class ImpressionsObserver:
    """Labels that came too late for their impressions."""

    def __init__(self, impressions: OpenImpressions, metrics: Metrics) -> None:
        self._impressions, self._metrics, self._missing = impressions, metrics, Rises({"rows": impressions.missing})

    def look(self) -> None:
        self._metrics.missed(**self._missing.since({"rows": self._impressions.missing}))


class LabelObserver:
    """What each label's model is worth."""

    def __init__(self, learner: LabelLearner, metrics: Metrics) -> None:
        self._learner, self._metrics = learner, metrics
        self._updates, self._clipped = Rises(self._totals()), Rises(self._clips())

    def _totals(self) -> dict[str, int]:
        totals = self._learner.model.totals
        return {"updates": int(totals.rows.sum() - totals.refused.sum()), "nonfinite": int(totals.refused.sum())}

    def _clips(self) -> dict[str, int]:
        return dict(zip(self._learner.config.labels, self._learner.model.totals.clipped.tolist(), strict=True))

    def look(self) -> None:
        means = [self._learner.model.means(index) for index in range(len(self._learner.config.labels))]
        losses = [mean["log_loss"] for mean in means if not math.isnan(mean["log_loss"])]
        loss = sum(losses) / len(losses) if losses else math.nan
        self._metrics.updated(self._learner.name, **self._updates.since(self._totals()), loss=loss)
        clipped = self._clipped.since(self._clips())
        for label, mean in zip(self._learner.config.labels, means, strict=True):
            self._metrics.modelled(label, mean["log_loss"], mean["predicted_rate"], mean["observed_rate"], clipped[label])


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
