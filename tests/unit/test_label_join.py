"""The streaming join of labels: held to its slow twin on random logs, then rule by rule."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from core.errors import SettingsError, SnapshotError
from core.labels import JOIN_OUTCOMES, KINDS, POLICIES
from core.snapshot import Snapshot
from features.label_config import JoinConfig, LabelConfig
from features.label_join import Emitted, JoinRows, LabelJoin
from tests.naive_labels import NaiveLabel, Row, Told, join

TYPES = ("impression", "click", "purchase", "exit", "view")
CLICK = LabelConfig("click", ("click",), window_seconds=60, horizon_seconds=240)
MS = 1_000
START_MS = 1_767_225_610_000  # ten seconds into a cell of Sliver's clock


def rows_of(rows: Sequence[Row]) -> JoinRows:
    codes = [-1 if row.type is None else TYPES.index(row.type) for row in rows]
    columns = [[getattr(row, name) for row in rows] for name in ("ts_ms", "clock_ms", "pair", "request", "ordinal")]
    ts_ms, clock_ms, pair, request, ordinal = (np.array(column, dtype=np.int64) for column in columns)
    return JoinRows(ts_ms, clock_ms, np.array(codes), pair.reshape(-1, 2), request, ordinal)


def told_of(emitted: Emitted) -> list[Told]:
    at, row, label, kind, ordinal, ts_ms, delay_ms = (column.tolist() for column in emitted)
    return [Told(*told) for told in zip(at, row, label, [KINDS[k] for k in kind], ordinal, ts_ms, delay_ms, strict=True)]


def random_log(seed: int, rows: int, users: int = 3, items: int = 3) -> list[Row]:
    """Events out of order, some far behind the clock; ticks; events of no item; requests on some."""
    random, clock_ms, log = np.random.default_rng(seed), 0, []
    now_ms = START_MS
    for ordinal in range(rows):
        now_ms += int(random.exponential(4 * MS))
        type_ = None if random.random() < 0.1 else TYPES[random.choice(len(TYPES), p=(0.5, 0.2, 0.1, 0.15, 0.05))]
        ts_ms = now_ms - int(random.exponential(20 * MS)) * (random.random() < 0.3)
        clock_ms = max(clock_ms, now_ms - 5 * MS) if ordinal > 5 else 0
        pair = (0, 0) if random.random() < 0.05 else (int(random.integers(1, users + 1)), int(random.integers(1, items + 1)))
        log.append(Row(ts_ms, clock_ms, type_, pair, int(random.integers(4)) * (random.random() < 0.4), ordinal))
    return log


def labels(*policies: str, window: int = 60, horizon: int = 240) -> tuple[LabelConfig, ...]:
    return tuple(
        LabelConfig(f"{name}-{policy}", (name,), policy=policy, window_seconds=window, horizon_seconds=horizon)
        for policy in policies
        for name in ("click", "purchase")
    )


def check_sums(of: LabelJoin) -> None:
    for label, counts in of.outcomes.items():
        assert counts["opened"] == counts["matched"] + counts["expired"] + counts["capped"] + of.open[label]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_a_random_log_joins_as_its_slow_twin_does(policy: str, seed: int) -> None:
    log, config = random_log(seed, 1_500), JoinConfig(labels(policy), max_open=(1_000, 40, 7, 1)[seed])
    naive = [NaiveLabel(label, config.max_open) for label in config.labels]
    fast = LabelJoin(config, TYPES)
    assert told_of(fast.take(rows_of(log))) == join(naive, log)
    for label, of in zip(config.labels, naive, strict=True):
        assert fast.outcomes[label.name] == {name: of.counts[name] for name in JOIN_OUTCOMES}
        assert fast.open[label.name] == of.open
    check_sums(fast)
    assert all(fast.outcomes[f"click-{policy}"][name] for name in ("opened", "matched", "orphan", *["repeated"] * (seed == 0)))


def test_labels_of_every_policy_are_told_in_one_order() -> None:
    log, config = random_log(9, 1_500), JoinConfig(labels(*POLICIES), max_open=50)
    told = told_of(LabelJoin(config, TYPES).take(rows_of(log)))
    assert told == join([NaiveLabel(label, 50) for label in config.labels], log)
    assert {row.kind for row in told} == set(KINDS)


def test_a_window_as_long_as_the_horizon() -> None:
    log, config = random_log(3, 1_500), JoinConfig(labels(*POLICIES, window=120, horizon=120), max_open=50)
    assert told_of(LabelJoin(config, TYPES).take(rows_of(log))) == join([NaiveLabel(label, 50) for label in config.labels], log)


def cut(log: Sequence[Row], seed: int) -> list[Sequence[Row]]:
    ends = np.sort(np.random.default_rng(seed).integers(0, len(log) + 1, 60)).tolist()
    return [log[a:b] for a, b in zip([0, *ends], [*ends, len(log)], strict=True)]


def shifted(emitted: Emitted, by: int) -> list[Told]:
    return [told._replace(at=told.at + by, row=told.row + by) for told in told_of(emitted)]


def test_how_the_log_is_cut_and_restarts_change_nothing(tmp_path: Path) -> None:
    log, config = random_log(5, 2_000), JoinConfig(labels(*POLICIES), max_open=30)
    whole = LabelJoin(config, TYPES)
    expected, got, taken, of = told_of(whole.take(rows_of(log))), [], 0, LabelJoin(config, TYPES)
    for part, rows in enumerate(cut(log, 1)):
        got += shifted(of.take(rows_of(rows)), taken)
        taken += len(rows)
        if part % 7 == 0:
            save(of, tmp_path / str(part))
            of = LabelJoin(config, TYPES)
            of.restore(tmp_path / str(part))
    assert got == expected
    assert (of.outcomes, of.open, of.digest()) == (whole.outcomes, whole.open, whole.digest())


def save(of: LabelJoin, directory: Path) -> None:
    directory.mkdir()
    into = Snapshot(directory)
    of.snapshot(into)
    into.flush()


def test_a_snapshot_of_other_labels_is_refused(tmp_path: Path) -> None:
    save(LabelJoin(JoinConfig((CLICK,), max_open=10), TYPES), tmp_path / "one")
    with pytest.raises(SnapshotError, match="max_open"):
        LabelJoin(JoinConfig((CLICK,), max_open=11), TYPES).restore(tmp_path / "one")


def test_many_rows_at_once_are_told_whole() -> None:
    """More than the kernel is given room for."""
    n = 10_000
    log = [Row(START_MS, START_MS, "impression", (1 + i, 1), 0, i) for i in range(n)]
    log.append(Row(START_MS, START_MS + 3_600 * MS, None, (0, 0), 0, n))
    told = told_of(LabelJoin(JoinConfig((CLICK,), max_open=n), TYPES).take(rows_of(log)))
    assert [row.ordinal for row in told] == list(range(n))
    assert {row.kind for row in told} == {"final_negative"}


def one(policy: str, *events: tuple[float, str], until: float = 1_000.0, **more: int) -> list[tuple[str, float, float]]:
    """Rows of one impression at time 0 under a policy: kind, seconds since the impression, clock at which it came."""
    label = LabelConfig("click", ("click",), policy=policy, window_seconds=60, horizon_seconds=240)
    log = [Row(START_MS, START_MS, "impression", (1, 1), 0, 0)]
    for ordinal, (seconds, type_) in enumerate(events, 1):
        at_ms = START_MS + int(seconds * MS)
        log += [Row(at_ms, at_ms, type_, (1, 1), 0, ordinal)]
    ticks = [Row(0, START_MS + s * MS, None, (0, 0), 0, 99) for s in range(0, int(until), 1)]
    log = sorted([*log, *ticks], key=lambda row: row.clock_ms)
    told = told_of(LabelJoin(JoinConfig((label,)), TYPES).take(rows_of(log)))
    return [(row.kind, row.delay_ms / MS, (log[row.at - 1].clock_ms - START_MS) / MS) for row in told]


def kinds(policy: str, *events: tuple[float, str]) -> list[tuple[str, float]]:
    return [(kind, delay) for kind, delay, _ in one(policy, *events)]


def test_the_table_of_emissions() -> None:
    never, early, late = (), ((20.0, "click"),), ((100.0, "click"),)
    assert [kinds("window", *of) for of in (never, early, late)] == [[("negative", 60)], [("in_window", 60)], [("negative", 60)]]
    assert kinds("vanilla", *late) == [("negative", 60), ("late", 100)]
    assert kinds("vanilla", *never) == [("negative", 60)]
    assert kinds("fnw", *early) == [("negative", 0), ("late", 20)] == kinds("fnc", *early)
    assert kinds("wait", *late) == [("final_positive", 240)]
    for policy in ("es-dfm", "defuse"):
        assert kinds(policy, *never) == [("negative", 60), ("matured_negative", 240)]
        assert kinds(policy, *early) == [("in_window", 60), ("matured_in_window", 240)]
        assert kinds(policy, *late) == [("negative", 60), ("late", 100), ("matured_late", 240)]
    assert kinds("defer", *never) == [("negative", 60), ("final_negative", 240)]
    assert kinds("defer", *early) == [("in_window", 60), ("final_positive", 240)]
    assert kinds("defer", *late) == [("negative", 60), ("late", 100), ("matured_late", 240)]


def test_sliver_tells_a_positive_in_its_cell_and_a_negative_when_the_user_leaves() -> None:
    """The impression lies ten seconds into a cell of thirty."""
    assert kinds("sliver", (15.0, "click")) == [("in_window", 20)]
    assert kinds("sliver", (25.0, "click")) == [("in_window", 50)]
    assert kinds("sliver", (25.0, "exit")) == [("final_negative", 50)]
    assert kinds("sliver", (25.0, "exit"), (30.0, "click")) == [("in_window", 50)]
    assert kinds("sliver", (25.0, "exit"), (60.0, "click")) == [("final_negative", 50)]
    assert kinds("sliver") == [("final_negative", 260)]
    assert kinds("sliver", (15.0, "click"), (45.0, "click")) == [("in_window", 20)]


@pytest.mark.parametrize(("policy", "bound"), [("vanilla", 60), ("wait", 240)])
def test_bounds_belong_to_what_they_bound(policy: str, bound: int) -> None:
    label = LabelConfig("click", ("click",), policy=policy, window_seconds=60, horizon_seconds=240)
    told = []
    for beyond_ms in (0, 1):
        events = [("impression", 0), ("click", bound * MS + beyond_ms)]
        log = [Row(START_MS + ms, START_MS, type_, (1, 1), 0, i) for i, (type_, ms) in enumerate(events)]
        after = Row(0, START_MS + 999 * MS, None, (0, 0), 0, 9)
        told.append([row.kind for row in told_of(LabelJoin(JoinConfig((label,)), TYPES).take(rows_of([*log, after])))])
    assert told == {"vanilla": [["in_window"], ["negative", "late"]], "wait": [["final_positive"], ["final_negative"]]}[policy]


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"name": ""}, "name"),
        ({"policy": "hope"}, "policy"),
        ({"window_seconds": 0}, "window_seconds"),
        ({"horizon_seconds": 59, "policy": "defer"}, "horizon_seconds"),
        ({"horizon_seconds": 0}, "horizon_seconds"),
        ({"horizon_seconds": 10**10}, "horizon_seconds"),
        ({"positive": ()}, "positive"),
        ({"opens": ("click",)}, "opens"),
    ],
)
def test_settings_that_cannot_be_used_are_named(changes: dict[str, object], setting: str) -> None:
    settings: dict[str, object] = {"name": "click", "positive": ("click",), "window_seconds": 60, "horizon_seconds": 240, **changes}
    with pytest.raises(SettingsError, match=f"`{setting}`"):
        LabelConfig(**settings)  # type: ignore[arg-type]


def test_a_type_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match="clack"):
        LabelJoin(JoinConfig((LabelConfig("click", ("clack",)),)), TYPES)
