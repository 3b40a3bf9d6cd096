"""Logs for the SUPA learner, and a stage that has nothing else."""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from core.composite import CompositeStage
from core.schemas import EVENT, EXAMPLE_BASE, ITEM
from core.stage import Examples
from learners.supa import SupaConfig, SupaLearner

START_MS = 1_700_000_000_000
RELATIONS = (("engage", ("click", "like")), ("buy", ("purchase",)))
SMALL = SupaConfig(
    seed=3, dimensions=8, relations=RELATIONS, max_users=2048, max_items=2048, ring_size=4, walks=2, walk_length=3, negatives=6
)
EDGES = ("click", "like", "purchase")
TYPES = ("click", "click", "like", "purchase", "impression", "hate", "exit", "view")
Row = tuple[str, str | None, str | None]


def examples(rows: Iterable[Row]) -> pl.DataFrame:
    """(type, user, item) a row, a minute apart; of type "remove" and "describe": the catalogue's."""
    kinds = {"remove": (ITEM, None), "describe": (ITEM, "{}")}
    return pl.DataFrame(
        [
            {
                "kind": kinds.get(type_, (EVENT, None))[0],
                "upstream": -1 if type_ in kinds else 0,
                "clock_ms": START_MS + 60_000 * index,
                "ts_ms": 0 if type_ in kinds else START_MS + 60_000 * index - 7_000_000 * (index % 11 == 0),
                "type": None if type_ in kinds else type_,
                "user_id": user,
                "item_id": item,
                "item": kinds.get(type_, (EVENT, None))[1],
            }
            for index, (type_, user, item) in enumerate(rows)
        ],
        schema=EXAMPLE_BASE,
    )


def mixed(count: int, seed: int = 0, users: int = 40, items: int = 60) -> pl.DataFrame:
    """Edges, other events, and a catalogue whose items come and go."""
    random = np.random.default_rng(seed)
    rows = list[Row]()
    for _ in range(count):
        item = f"i{random.integers(items)}"
        if random.random() < 0.06:
            rows.append(("remove" if random.random() < 0.5 else "describe", None, item))
        else:
            rows.append((str(random.choice(TYPES)), f"u{random.integers(users)}", item))
    return examples(rows)


class Taped(SupaLearner):
    """Keeps the column that later parts read."""

    def __init__(self, config: SupaConfig) -> None:
        super().__init__(config)
        self.tape: list[np.ndarray] = []

    def learn_many(self, examples: Examples) -> None:
        super().learn_many(examples)
        self.tape.append(examples.columns["item_vector"])


def run(rows: pl.DataFrame, cuts: Sequence[int] = (), config: SupaConfig = SMALL) -> Taped:
    learner = Taped(config)
    feed(CompositeStage([learner], 1), rows, cuts)
    return learner


def feed(stage: CompositeStage, rows: pl.DataFrame, cuts: Sequence[int] = ()) -> None:
    ends = [*sorted(cuts), rows.height]
    for start, stop in zip([0, *ends], ends, strict=False):
        stage.apply(rows[start:stop], 0)


def assert_same_tables(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].equals(other[name]), name
