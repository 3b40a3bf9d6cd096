"""Lists of a simulated world, judged by its truth: oracles have no regret, and lists that lag are found to lag by as much."""

import io
import json

import numpy as np
import polars as pl
import pytest

from core.errors import SettingsError
from evaluation.world import TruthJudge, World, WorldConfig, entries
from tests.naive_world import HOUR_MS, SMALL, assert_expected

T0, END_MS = SMALL.start_ms, SMALL.start_ms + 3 * HOUR_MS
ITEMS = pl.concat(entries(SMALL, END_MS))


def ids(items: np.ndarray) -> list[str]:
    return [f"i{item}" for item in items.tolist()]


def live_ids(items: pl.DataFrame, ts_ms: int) -> list[str]:
    return items.filter((pl.col("start") <= ts_ms) & (pl.col("end") > ts_ms))["item_id"].to_list()


def test_the_best_list_is_that_of_a_look_at_everything() -> None:
    world, rng = World(SMALL), np.random.default_rng(1)
    for ts_ms in rng.integers(T0, END_MS, 30).tolist():
        user, everything = int(rng.integers(50)), live_ids(ITEMS, ts_ms)
        without = rng.choice(everything, 25, replace=False)
        left = world.item_numbers(sorted(set(everything) - set(without)))
        utility = world.utilities(ts_ms, user, left)
        found = world.best(ts_ms, user, 20, world.item_numbers(without.tolist()))
        assert found.tolist() == left[np.argsort(-utility)[:20]].tolist()
        dead = sorted(set(ITEMS["item_id"]) - set(everything))
        assert not world.utilities(ts_ms, user, world.item_numbers(dead)).any()
    assert (world.best(T0, 1, 300, np.empty(0, dtype=np.int64)) == -1).sum() == 100


def test_an_oracle_has_no_regret_and_chance_has() -> None:
    world, rng = World(SMALL), np.random.default_rng(2)
    oracle, reverse, chance, short = (TruthJudge(World(SMALL), 10, 1.0) for _ in range(4))
    for ts_ms in np.linspace(T0, END_MS, 200).astype(np.int64).tolist():
        user, everything = int(rng.integers(50)), live_ids(ITEMS, ts_ms)
        seen = rng.choice(everything, 5, replace=False).tolist()
        best = ids(world.best(ts_ms, user, 10, world.item_numbers(seen)))
        oracle.judge(ts_ms, f"u{user}", best, seen)
        reverse.judge(ts_ms, f"u{user}", best[::-1], seen)
        chance.judge(ts_ms, f"u{user}", rng.permutation(sorted(set(everything) - set(seen)))[:10].tolist(), seen)
        short.judge(ts_ms, f"u{user}", [best[0], best[0], *seen, best[1]], seen)
    for judge in (oracle, reverse):
        assert judge.result()["regret"] == judge.result()["relative_regret"] == 0.0
    told = chance.result()
    assert told["lists"] == 200
    assert told["regret"] > 0.2
    assert 0.5 < told["relative_regret"] < 1
    assert told["best"] == pytest.approx(oracle.result()["gain"])
    assert sum(told["by_hour"]["n"]) == 200
    assert short.result()["relative_regret"] > 0.75, "twice, seen and empty count nothing"
    json.dumps(told, allow_nan=False)


STEADY = WorldConfig(seed=5, users=12, items=300, item_life_hours=1e7, room_share=0.0, drift=0.0, change_hours=20.0, quality_sd=0.0)
STEP_MS = 600_000


def followed(lag_ms: int | None, steps: int = 400, judge: TruthJudge | None = None, first: int = 0) -> TruthJudge:
    """Lists each ten minutes that are best for the taste of `lag_ms` before (None: of the beginning)."""
    world, judge = World(STEADY), judge or TruthJudge(World(STEADY), 10, 1.0)
    for step in range(first, steps):
        ts_ms = T0 + step * STEP_MS
        known_ms = T0 if lag_ms is None else max(T0, ts_ms - lag_ms)
        for user in range(12):
            judge.judge(ts_ms, f"u{user}", ids(world.best(known_ms, user, 10, np.empty(0, dtype=np.int64))))
    return judge


@pytest.mark.parametrize("lag_ms", [0, 3 * HOUR_MS, 5 * HOUR_MS + 1])
def test_the_time_until_a_change_shows_is_the_lag_of_the_lists(lag_ms: int) -> None:
    told = followed(lag_ms).result()["changes"]
    assert told["n"] > 20
    assert told["fall"] > 0.3
    for level in ("0.5", "0.8"):
        regained = told["regained"][level]
        for quantile in ("p50", "p90"):
            assert lag_ms / 1_000 <= regained["seconds"][quantile] < lag_ms / 1_000 + STEP_MS / 1_000
            assert regained["lists"][quantile] in (lag_ms // STEP_MS + 1, lag_ms // STEP_MS + 2)
        assert regained["never"] < 0.1


def test_a_list_that_never_changes_never_regains() -> None:
    told = followed(None, 150).result()["changes"]
    assert told["n"] >= 8
    assert told["regained"]["0.8"] == {"seconds": {"p50": None, "p90": None}, "lists": {"p50": None, "p90": None}, "never": 1.0}


def test_a_judge_goes_on_where_it_was_saved() -> None:
    whole, half = followed(HOUR_MS, 200), followed(HOUR_MS, 90)
    file = io.BytesIO()
    np.savez(file, **half.save())
    file.seek(0)
    again = TruthJudge(World(STEADY), 10, 1.0)
    with np.load(file, allow_pickle=False) as state:
        again.load(dict(state))
    assert followed(HOUR_MS, 200, again, 90).result() == whole.result()


def test_a_share_of_the_users_is_judged_and_no_bot() -> None:
    judge = TruthJudge(World(WorldConfig(users=10_000)), 5, 0.2)
    chosen = [judge.judges(f"u{user}") for user in range(10_005)]
    assert_expected(sum(chosen[:10_000]), np.full(10_000, 0.2))
    assert not any(chosen[10_000:])
    judge.judge(T0, f"u{chosen.index(False)}", ["i1"])
    assert judge.result()["lists"] == 0


@pytest.mark.parametrize("user_id, item_id", [("u1", "x"), ("u1", "v7"), ("someone", "i1"), ("u99999", "i1")])
def test_ids_of_another_log_are_refused(user_id: str, item_id: str) -> None:
    with pytest.raises(SettingsError, match="is no id of this world"):
        TruthJudge(World(SMALL), 5, 1.0).judge(T0, user_id, [item_id])


def test_a_list_from_before_the_world_is_refused() -> None:
    with pytest.raises(SettingsError, match="start_ms"):
        TruthJudge(World(SMALL), 5, 1.0).judge(T0 - 1, "u1", ["i1"])
