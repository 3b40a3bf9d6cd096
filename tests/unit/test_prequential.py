"""Prequential scores against a naive account of the same clicks."""

from collections.abc import Sequence

import pytest

from streams.prequential import ListScores, Prequential, sampled


def test_ranks_count_from_one_and_a_miss_is_nothing() -> None:
    scores = ListScores()
    assert (scores.hit_rate, scores.mrr) == (0.0, 0.0)
    for items, clicked in ((["a", "b"], "a"), (["a", "b", "c", "d"], "d"), (["a"], "z"), ([], "a")):
        scores.add(items, clicked)
    assert (scores.judged, scores.hits) == (4, 2)
    assert scores.hit_rate == 0.5
    assert scores.mrr == pytest.approx((1 + 1 / 4) / 4)


def test_the_sample_is_a_function_of_the_position() -> None:
    chosen = [position for position in range(20_000) if sampled(position, 0.1)]
    assert chosen == [position for position in range(20_000) if sampled(position, 0.1)]
    assert 1_800 < len(chosen) < 2_200
    assert set(chosen) <= {position for position in range(20_000) if sampled(position, 0.2)}
    assert all(sampled(position, 1.0) for position in range(1_000))
    assert not any(sampled(position, 0.0) for position in range(1_000))


def test_only_sampled_clicks_are_judged_on_both_lists() -> None:
    asked: list[tuple[str, Sequence[str] | None]] = []

    def recommend(user_id: str, links: Sequence[str] | None) -> list[str]:
        asked.append((user_id, links))
        return ["x", "hit"] if links is None else ["hit"]

    judge = Prequential(recommend, share=0.5)
    expected = [at for at in range(100) if at % 2 == 0 and sampled(at, 0.5)]
    for at in range(100):
        judge.judge(at, "click" if at % 2 == 0 else "view", f"u{at}", "hit" if at % 4 == 0 else "miss")
    hits = sum(at % 4 == 0 for at in expected)
    assert asked == [(f"u{at}", links) for at in expected for links in (None, ["popular"])]
    assert (judge.served.judged, judge.served.hits, judge.popular.hits) == (len(expected), hits, hits)
    assert judge.served.mrr == pytest.approx(judge.popular.mrr / 2)
