"""A local replay whose lists are judged: a batch of events, first looked for in what would be served, then learned."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from core.snapshot import Snapshot
from streams.logs.parts import Part, Place
from streams.pipeline import PARTS
from streams.prequential import K, ListScores, Prequential
from streams.producing import Message
from streams.replay.kept import Kept
from streams.replay.local import LocalPipeline
from streams.settings import Settings

_LOCAL, _SCORES = "local", "scores.json"


class JudgedReplay:
    """All stages in one process, and two prequential scores of a sample of the clicks.

    State: the pipeline's and the scores.
    """

    def __init__(self, s: Settings, work_dir: Path, share: float, parts: Sequence[str] = PARTS, kept: Kept | None = None) -> None:
        """`share`: of the clicks, the judged ones, by a hash of their position; `parts`: of the learner stage; `kept`: its checkpoints."""
        self.local, self._kept = LocalPipeline(s, work_dir, parts), kept
        self.scores = Prequential(lambda user, links: [item.item_id for item in self.local.cache.recommend(user, K, links).items], share)

    def items(self, messages: Iterable[Message]) -> None:
        """The catalogue, before any event."""
        self.local.feed_items(messages)

    def begin(self, part: Part) -> None:
        """Look for the clicks of a whole part, of which nothing is learned yet."""
        if self.scores.share:
            judge_all(self.scores, part.place.events - len(part.messages), part.messages)

    def take(self, messages: Sequence[Message], ts_ms: np.ndarray, place: Place) -> None:
        """Learn the next events; see `Taker.take`."""
        self.local.feed_events(messages, max(1, len(messages)))
        if self._kept is not None and self._kept.due():
            self.keep(place.after(len(messages)))

    def keep(self, place: Place) -> None:
        """A checkpoint, where there are any."""
        if self._kept is not None:
            self._kept.save(place, self)

    def snapshot(self, into: Snapshot) -> None:
        into.write(_SCORES, msgspec.json.encode([vars(scores) for scores in self._lists()]))
        self.local.snapshot(into.within(_LOCAL))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot, before anything is fed.

        Raises:
            SnapshotError: it was made under other settings.
        """
        for scores, stored in zip(self._lists(), msgspec.json.decode((directory / _SCORES).read_bytes()), strict=True):
            vars(scores).update(stored)
        self.local.restore(directory / _LOCAL)

    def _lists(self) -> tuple[ListScores, ListScores]:
        return self.scores.served, self.scores.popular

    def result(self) -> dict[str, object]:
        """The scores, and a digest of each stage's state."""
        return {
            "judged": self.scores.served.judged,
            "sample": self.scores.share,
            "hit_rate_20": round(self.scores.served.hit_rate, 4),
            "mrr_20": round(self.scores.served.mrr, 4),
            "popular_hit_rate_20": round(self.scores.popular.hit_rate, 4),
            "popular_mrr_20": round(self.scores.popular.mrr, 4),
            "digests": self.local.digests(),
        }

    def close(self) -> None:
        self.local.close()


def judge_all(judge: Prequential, first: int, messages: Sequence[Message]) -> None:
    """Judge a batch before it is learned. What cannot be read is a dead letter, and nobody's click."""
    for position, (_, value) in enumerate(messages, first):
        event = as_event(value)
        if event is not None:
            judge.judge(position, *event)


def as_event(value: bytes | None) -> tuple[str, str, str] | None:
    """(type, user_id, item_id) of a plain JSON event, None for anything else."""
    try:
        event = msgspec.json.decode(value or b"")
        return str(event["type"]), str(event["user_id"]), str(event["item_id"])
    except (ValueError, KeyError, TypeError):
        return None
