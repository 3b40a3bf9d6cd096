"""Where each policy's weights lead at constant features, and that two ways of getting them wrong are found out."""

from collections.abc import Sequence

from rich.table import Table

from benchmarks.label_scores import show
from core.labels import DEFER, DEFUSE, FINAL_POSITIVE, LATE, POLICIES, POSITIVE_KINDS
from evaluation.delayed import PAIRS, Delay, Emissions, Weigh, emissions, rest_point, rest_points
from learners.labels.weights import weights

TOLERANCE = 1e-3


def defer_three_copies(true: Delay) -> Emissions:
    """DEFER's rows with a late positive sent once more at the horizon: wrong, it then counts three times."""
    return [*emissions(DEFER, true), (FINAL_POSITIVE, true.p_dp)]


def defuse_two_more(policy: int, kind: int, f: float, p_dp: float, p_rn: float) -> tuple[float, float]:
    """DEFUSE with 2 + p_dp on every positive: wrong, though public code has it."""
    return (2.0 + p_dp, 0.0) if kind in (*POSITIVE_KINDS[:1], LATE) else weights(policy, kind, f, p_dp, p_rn)


def found(policy: int, true: Delay, rows: Emissions | None = None, weigh: Weigh = weights) -> list[float]:
    """Rest points of a policy, by default with its own rows and weights."""
    return rest_points(policy, emissions(policy, true) if rows is None else rows, true, weigh)


def distance(policy: int, true: Delay, points: Sequence[float]) -> float:
    """Of the farthest rest point from where the only one belongs; 1 where there is none."""
    return max((abs(point - rest_point(policy, true)) for point in points), default=1.0)


def is_exact(policy: int, true: Delay, points: Sequence[float]) -> bool:
    return len(points) == 1 and distance(policy, true, points) <= TOLERANCE


def tried(true: Delay) -> dict[str, tuple[int, list[float]]]:
    """Name -> policy, its rest points; the two wrong ones at the end."""
    own = {name: (policy, found(policy, true)) for policy, name in enumerate(POLICIES)}
    wrong = {
        "defer, three copies": (DEFER, found(DEFER, true, defer_three_copies(true))),
        "defuse, 2 + p_dp": (DEFUSE, found(DEFUSE, true, weigh=defuse_two_more)),
    }
    return {**own, **wrong}


def exactness() -> tuple[dict[str, float], dict[str, str]]:
    """A table of the rest points; how many policies are exact, and how many of the wrong ones are found out."""
    of_pairs = {true: tried(true) for true in (Delay(*pair) for pair in PAIRS)}
    table = Table("rest points", *(f"p = {true.p:g}, p_dp = {true.p_dp:g}" for true in of_pairs), "off, 1e-3", "")
    exact: dict[str, bool] = {}
    for name in next(iter(of_pairs.values())):
        points = {true: of[name] for true, of in of_pairs.items()}
        exact[name] = all(is_exact(policy, true, found) for true, (policy, found) in points.items())
        off = max(1_000.0 * distance(policy, true, found) for true, (policy, found) in points.items())
        places = ("|".join(f"{point:.4f}" for point in found) for _, found in points.values())
        table.add_row(name, *places, f"{off:.1f}", "exact" if exact[name] else "WRONG")
    show(table)
    right = sum(exact[name] for name in POLICIES)
    found_out = sum(not exact[name] for name in exact if name not in POLICIES)
    told: dict[str, float] = {"exact_policies": right, "of_policies": len(POLICIES), "wrong_variants_found": found_out}
    return told, {"exactness": f"within {TOLERANCE:g} of where the only rest point belongs"}
