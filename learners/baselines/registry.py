"""Baselines by name."""

import re
from collections.abc import Callable, Sequence

from core.contender import Contender, LabelModel
from core.errors import SettingsError
from learners.baselines.counters import Counters
from learners.baselines.covisitation import Covisitation
from learners.baselines.edgebank import EdgeBank
from learners.baselines.popular import popular
from learners.baselines.recent import Recent

HOUR_MS = 3_600_000.0
LISTS: dict[str, Callable[[], Contender]] = {
    "recent": Recent,
    "covisitation": lambda: Covisitation("covisitation", 1.5 * HOUR_MS, 1e-9),
    "covisitation-fresh": lambda: Covisitation("covisitation-fresh", 0.5 * HOUR_MS, 1.0),
    "edgebank": EdgeBank,
}
LABELS: dict[str, Callable[[], LabelModel]] = {"counters": Counters}
DEFAULT = ("popular-5m", "popular-30m", "popular-2h", "popular-12h", *LISTS, *LABELS)


def check(names: Sequence[str]) -> None:
    """Raises SettingsError where a name is none of ours."""
    for name in names:
        if name not in LISTS and name not in LABELS and not re.fullmatch(r"popular-\d+[smhd]", name):
            raise SettingsError(
                f"--baseline {name}: there is none; there are popular-<half-life> (popular-30m), {', '.join([*LISTS, *LABELS])}"
            )


def list_baselines(names: Sequence[str]) -> list[Contender]:
    """Those of the names that make lists, new."""
    check(names)
    return [LISTS[name]() if name in LISTS else popular(name) for name in names if name not in LABELS]


def label_baselines(names: Sequence[str]) -> list[LabelModel]:
    """Those of the names that predict labels, new."""
    check(names)
    return [LABELS[name]() for name in names if name in LABELS]
