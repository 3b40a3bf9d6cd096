"""Streams from files; what is judged, what is repeated and what it comes to, with models that do as they are told."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from core.errors import SettingsError
from evaluation.links import Stream, evaluate_stream, read_stream
from evaluation.links.scores import score_parts
from evaluation.links.temporal import met_before, numbered

USERS, ITEMS = 5, 6


class Told:
    """Gives ranks that were laid down by position; keeps what it was given. Its clock goes on by `seconds` while it learns, and judges."""

    name = "told"

    def __init__(self, ranks: np.ndarray, seconds: tuple[float, float] = (0.0, 0.0)) -> None:
        self._ranks, self._seconds, self.now = ranks, seconds, 100.0
        self.rows: list[tuple[int, int, int, bool]] = []

    def judge(self, u: np.ndarray, i: np.ndarray, ts_ms: np.ndarray, judged: np.ndarray) -> np.ndarray:
        first = len(self.rows)
        self.rows += zip(u.tolist(), i.tolist(), ts_ms.tolist(), judged.tolist(), strict=True)
        self.now += self._seconds[int(judged.any())]
        return np.where(judged, self._ranks[first : len(self.rows)], 0.0)


def made_up_stream(seed: int, rows: int = 200) -> Stream:
    rng = np.random.default_rng(seed)
    return Stream(rng.integers(0, USERS, rows), rng.integers(0, ITEMS, rows), np.cumsum(rng.integers(0, 3, rows)), USERS, ITEMS)


def made_up_ranks(seed: int, rows: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, 2 * ITEMS + 1, rows) / 2.0


def test_the_last_edges_are_judged_and_all_are_learned_in_order() -> None:
    stream, ranks = made_up_stream(0), made_up_ranks(0)
    model = Told(ranks)
    found = evaluate_stream(stream, model, share=0.15)
    judged = [position >= 170 for position in range(200)]
    assert model.rows == list(zip(stream.u.tolist(), stream.i.tolist(), stream.ts_ms.tolist(), judged, strict=True))
    assert found.rank.tolist() == ranks[170:].tolist()


@pytest.mark.parametrize(("share", "judged"), [(1.0, 200), (0.5, 100), (0.0049, 1), (0.159, 31)])
def test_a_share_is_of_whole_edges_and_one_at_least(share: float, judged: int) -> None:
    assert evaluate_stream(made_up_stream(1), Told(made_up_ranks(1)), share).rank.size == judged


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_of_nothing_or_more_than_all_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        evaluate_stream(made_up_stream(1), Told(made_up_ranks(1)), share)


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_is_repeated_if_it_was_met_anywhere_earlier(seed: int) -> None:
    stream, before, expected = made_up_stream(seed, 40), set(), []
    for pair in zip(stream.u.tolist(), stream.i.tolist(), strict=True):
        expected.append(pair in before)
        before.add(pair)
    assert met_before(stream).tolist() == expected
    assert set(expected) == {True, False}
    found = evaluate_stream(stream, Told(made_up_ranks(seed)), share=0.5)
    assert found.repeated.tolist() == expected[20:]
    assert found.scores == score_parts(found.rank, found.repeated)
    assert found.scores.repeated.n == sum(expected[20:])
    assert found.scores.overall.mrr == pytest.approx(np.mean(1 / made_up_ranks(seed)[20:40]))


def test_learning_and_judging_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Told(made_up_ranks(2), seconds=(0.5, 2.0))
    monkeypatch.setattr("evaluation.links.temporal.time.perf_counter", lambda: model.now)
    found = evaluate_stream(made_up_stream(2), model, share=0.25)
    assert (found.learned_per_second, found.judged_per_second) == (300.0, 25.0)


@pytest.mark.parametrize("wrong", [0.0, 0.5, ITEMS + 0.5, float("nan"), float("inf")])
def test_what_is_no_rank_is_refused(wrong: float) -> None:
    ranks = made_up_ranks(3)
    ranks[199] = wrong
    with pytest.raises(ValueError, match=rf"told: ranks are from 1 to {ITEMS}"):
        evaluate_stream(made_up_stream(3), Told(ranks))


def test_a_rank_of_an_edge_that_is_not_judged_is_refused() -> None:
    class Eager(Told):
        def judge(self, u: np.ndarray, i: np.ndarray, ts_ms: np.ndarray, judged: np.ndarray) -> np.ndarray:
            return np.ones(u.size)

    with pytest.raises(ValueError, match="0 elsewhere"):
        evaluate_stream(made_up_stream(3), Eager(made_up_ranks(3)))


# Files


def written(path: Path, **columns: list[object]) -> Path:
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_a_stream_is_read_in_the_order_of_time_with_numbers_from_0(tmp_path: Path) -> None:
    path = written(tmp_path / "edges.parquet", u=[7, 3, 7, 9], i=[50, 50, 40, 60], ts=[2.0, 1.5, 2.0, 0.0], label=[0, 0, 0, 1])
    stream = read_stream(path)
    assert stream.ts_ms.tolist() == [0, 1_500, 2_000, 2_000]
    assert stream.u.tolist() == [2, 0, 1, 1]
    assert stream.i.tolist() == [2, 1, 1, 0]
    assert (stream.users, stream.items, len(stream)) == (3, 3, 4)
    assert {stream.u.dtype, stream.i.dtype, stream.ts_ms.dtype} == {np.dtype(np.int64)}


def test_columns_have_the_names_that_are_given_and_time_its_unit(tmp_path: Path) -> None:
    path = written(tmp_path / "edges.parquet", item=["b", "a"], ts_ms=[8, 5], user=["x", "x"])
    stream = read_stream(path, {"u": "user", "i": "item", "ts": "ts_ms"}, ms_per_unit=1)
    assert (stream.u.tolist(), stream.i.tolist(), stream.ts_ms.tolist()) == ([0, 0], [0, 1], [5, 8])


def test_a_part_knows_all_users_and_items() -> None:
    part = made_up_stream(4).part(10, 30)
    assert (len(part), part.users, part.items) == (20, USERS, ITEMS)
    assert part.ts_ms.tolist() == made_up_stream(4).ts_ms[10:30].tolist()


def test_edges_of_one_time_stay_in_their_order() -> None:
    stream = numbered(np.arange(50), np.arange(50), np.repeat([1, 0], 25))
    assert stream.u.tolist() == [*range(25, 50), *range(25)]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"u": [1], "when": [1]}, r"has no column i, ts; it has u, when"),
        ({"u": [1, None], "i": [1, 2], "ts": [1, 2]}, "every edge needs"),
        ({"u": [1, 2], "i": [1, 2], "ts": [1.0, float("nan")]}, "every edge needs"),
        ({"u": [1], "i": [1], "ts": ["noon"]}, "time in numbers"),
        ({"u": [], "i": [], "ts": []}, "one at least"),
    ],
)
def test_a_file_that_has_no_edges_says_why(tmp_path: Path, columns: dict[str, list[object]], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_stream(written(tmp_path / "edges.parquet", **columns))


def test_what_is_no_parquet_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("u,i,ts\n1,2,3\n")
    for name in ("edges.csv", "nowhere.parquet"):
        with pytest.raises(SettingsError, match=rf"{name} cannot be read as a Parquet file"):
            read_stream(tmp_path / name)
