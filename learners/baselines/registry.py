"""Baselines by name."""

from collections.abc import Callable, Sequence

from core.contender import Contender, LabelModel
from core.errors import SettingsError
from learners.baselines.batch import hourly
from learners.baselines.counters import Counters
from learners.baselines.covisitation import Covisitation
from learners.baselines.edgebank import EdgeBank
from learners.baselines.labels import LabelModels
from learners.baselines.popular import NAME, popular
from learners.baselines.recent import Recent
from learners.baselines.river import online

HOUR_MS = 3_600_000.0
LISTS: dict[str, Callable[[], Contender]] = {
    "recent": Recent,
    "covisitation": lambda: Covisitation("covisitation", 1.5 * HOUR_MS, 1e-9),
    "covisitation-fresh": lambda: Covisitation("covisitation-fresh", 0.5 * HOUR_MS, 1.0),
    "edgebank": EdgeBank,
}
LABELS: dict[str, Callable[[], LabelModel]] = {"counters": lambda: LabelModels("counters", Counters)}
DEFAULT = ("popular-5m", "popular-30m", "popular-2h", "popular-12h", *LISTS, *LABELS)
EXTRA_LISTS = ("als-hourly", "bpr-hourly")  # of the extra `baselines`
EXTRA_LABELS = ("online-lr", "online-fm")


def check(names: Sequence[str]) -> None:
    """Raises SettingsError where a name is none of ours."""
    known = [*LISTS, *LABELS, *EXTRA_LISTS, *EXTRA_LABELS]
    for name in names:
        if name not in known and not NAME.fullmatch(name):
            extra = ", ".join((*EXTRA_LISTS, *EXTRA_LABELS))
            raise SettingsError(
                f"--baseline {name}: there is none; there are popular-<half-life> (popular-90s, -30m, -2h, -1d), "
                f"{', '.join((*LISTS, *LABELS))}, and with `pip install 'freshet[baselines]'` {extra}"
            )


def list_baselines(names: Sequence[str]) -> list[Contender]:
    """Those of the names that make lists, new.

    Raises:
        SettingsError: a name is none of ours, or needs an extra that is not installed.
    """
    check(names)
    lists = [name for name in names if name not in LABELS and name not in EXTRA_LABELS]
    return [LISTS[name]() if name in LISTS else hourly(name) if name in EXTRA_LISTS else popular(name) for name in lists]


def label_baselines(names: Sequence[str]) -> list[LabelModel]:
    """Those of the names that predict labels, new.

    Raises:
        SettingsError: as `list_baselines`.
    """
    check(names)
    return [LABELS[name]() if name in LABELS else online(name) for name in names if name in LABELS or name in EXTRA_LABELS]
