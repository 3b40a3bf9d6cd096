"""Live judgements equal a naive account over the same cache; what the cache knew already is left out; the allowance holds."""

import threading
from collections.abc import Sequence

import polars as pl
import pytest
from prometheus_client import CollectorRegistry
from test_cache import popularity, publication, table

from core.schemas import BATCHES, EVENT, ITEM
from learners.cache import ParameterCache
from monitoring.metrics import Metrics
from streams import judge as module
from streams.following import Follower
from streams.judge import Allowance, Judge
from streams.settings import load


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def rows(*events: tuple[str, str, str, int], kind: int = EVENT) -> pl.DataFrame:
    """(type, user, item, ts_ms) each."""
    told = [{"kind": kind, "type": type_, "user_id": user, "item_id": item, "ts_ms": at} for type_, user, item, at in events]
    return pl.DataFrame([{**row, "source": 0, "offset": 0, "sent_ms": row["ts_ms"]} for row in told], schema=BATCHES)


def cache(known: Sequence[str] = ()) -> ParameterCache:
    """Items a, b, c by popularity; users who are known were last seen at 1,001 ms."""
    made = ParameterCache()
    made.apply("w", publication(item_popularity=popularity(["a", "b", "c"], [3.0, 2.0, 1.0])))
    made.apply("f", publication(user_history=table(list(known), recent=[b""] * len(known)).cast({"recent": pl.Binary})))
    return made


def judging(registry: CollectorRegistry, held: ParameterCache, per_second: float = 100) -> Judge:
    return Judge(load(judged_clicks_per_second=per_second), held, Metrics(registry))


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(f"freshet_prequential_{name}_total", labels) or 0.0


def test_clicks_are_looked_for_in_both_lists(clock: Clock, registry: CollectorRegistry) -> None:
    held = cache()
    judging(registry, held).judge(rows(("click", "u", "b", 5), ("view", "u", "a", 6), ("click", "v", "z", 7), ("click", "v", "c", 8)))
    judging_items = rows(("click", "u", "a", 5), kind=ITEM)
    judging(CollectorRegistry(), held).judge(judging_items)
    assert value(registry, "judged") == 3
    assert value(registry, "overtaken") == 0
    for name in ("served", "popular"):
        assert value(registry, "hits", list=name) == 2
        assert value(registry, "reciprocal_ranks", list=name) == pytest.approx(1 / 2 + 1 / 3)


def test_a_click_that_the_cache_knows_of_is_left_out(clock: Clock, registry: CollectorRegistry) -> None:
    judge = judging(registry, cache(["u"]))
    judge.judge(rows(("click", "u", "a", 1_001), ("click", "u", "a", 1_002), ("click", "stranger", "a", 1)))
    assert value(registry, "overtaken") == 1
    assert value(registry, "judged") == 2


def test_no_more_than_the_allowance(clock: Clock, registry: CollectorRegistry) -> None:
    judge = judging(registry, cache(), per_second=2)
    many = rows(*(("click", f"u{at}", "a", 5) for at in range(10)))
    judge.judge(many)
    judge.judge(many)
    assert value(registry, "judged") == 2
    clock.now += 0.5
    judge.judge(many)
    assert value(registry, "judged") == 3
    clock.now += 60
    judge.judge(many)
    assert value(registry, "judged") == 5, "time without clicks is not saved up"


def test_less_than_one_a_second_still_comes_to_one(clock: Clock) -> None:
    allowance, taken = Allowance(0.1), 0
    for _ in range(1_000):
        clock.now += 0.1
        count = allowance.whole()
        allowance.take(count)
        taken += count
    assert taken == pytest.approx(11, abs=1)


def test_none_are_judged_where_the_setting_is_0(registry: CollectorRegistry) -> None:
    judge = judging(registry, cache(), per_second=0)
    judge.start()
    judge.stop()
    assert "judge" not in {thread.name for thread in threading.enumerate()}


def test_a_follower_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.following.RETRY_SECONDS", 0.01)
    failures: list[Exception] = []
    ran = threading.Event()

    async def follow(stop: threading.Event) -> None:
        if len(failures) < 2:
            raise OSError("no cluster")
        ran.set()
        stop.wait(5)

    follower = Follower("follower", follow, failures.append)
    follower.start()
    assert ran.wait(5)
    follower.stop()
    assert [str(error) for error in failures] == ["no cluster"] * 2
    assert "follower" not in {thread.name for thread in threading.enumerate()}
