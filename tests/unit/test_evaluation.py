"""Scores of lists, ranks and labels against naive twins; judgements saved, loaded and compared; and prequential scores of a replay."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import SettingsError
from core.ranks import mean_rank
from evaluation.bootstrap import CLUSTERS, REPLICATES, interval, totals, two_sided_p, weights
from evaluation.compare import compare
from evaluation.judgements import PARTS, Judgements, Rows, comparable, coverage
from evaluation.labels import drawn_auc, pairs_won, score_labels
from evaluation.lists import gains, rank_gains
from evaluation.summary import result

SLICES = ("new_pair", "new_user", "new_item", "head")
OPPOSITES = dict(zip(("repeated_pair", "old_user", "old_item", "tail"), SLICES, strict=True))
LABELLED = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.5001, 1.0]), st.integers(0, 3)), min_size=1, max_size=40)


def arrays(rows: list[tuple[int, float, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, p, user = zip(*rows, strict=True)
    return np.array(y, dtype=np.uint8), np.array(p, dtype=np.float32), np.array(user, dtype=np.int32)


def naive_auc(y: Sequence[float], p: Sequence[float]) -> float | None:
    pairs = [(p[i] > p[j]) + 0.5 * (p[i] == p[j]) for i in range(len(y)) for j in range(len(y)) if y[i] == 1 and y[j] == 0]
    return sum(pairs) / len(pairs) if pairs else None


def naive_gauc(y: np.ndarray, p: np.ndarray, user: np.ndarray) -> tuple[float | None, int]:
    told = [(naive_auc(y[user == u], p[user == u]), int((user == u).sum())) for u in sorted(set(user.tolist()))]
    both = [(own, n) for own, n in told if own is not None]
    return (sum(own * n for own, n in both) / sum(n for _, n in both) if both else None), len(both)


@given(LABELLED)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, float, int]]) -> None:
    y, p, user = arrays(rows)
    order = np.lexsort((p, user))
    of_users = pairs_won(user[order], y[order], p[order], 4)
    for number, found in enumerate(of_users.auc.tolist()):
        expected = naive_auc(y[user == number], p[user == number])
        assert found == pytest.approx(np.nan if expected is None else expected, nan_ok=True)
    assert of_users.positives.tolist() == [int(y[user == number].sum()) for number in range(4)]
    assert of_users.negatives.tolist() == [int((1 - y[user == number]).sum()) for number in range(4)]


@settings(deadline=None)
@given(LABELLED, st.integers(0, 9))
def test_a_replicate_of_auc_is_the_auc_of_the_rows_drawn(rows: list[tuple[int, float, int]], seed: int) -> None:
    y, p, user = arrays(rows)
    drawn = np.random.default_rng(seed).poisson(1.0, size=(4, 3)).astype(np.uint8)
    order = np.argsort(p, kind="stable")
    found = drawn_auc(y[order], p[order], user[order].astype(np.int64), drawn)
    for replicate in range(3):
        often = drawn[user, replicate]
        expected = naive_auc(np.repeat(y, often), np.repeat(p, often))
        assert math.isnan(found[replicate]) if expected is None else found[replicate] == pytest.approx(expected)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), min_size=1, max_size=12), st.data())
@settings(deadline=None)
def test_ties_share_their_mean_rank(scores: list[float], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(scores) - 1))
    among = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    key = [-math.inf if math.isnan(score) else score for score in scores]
    others = [key[k] for k in range(len(scores)) if among[k] and k != at]
    best, worst = 1 + sum(k > key[at] for k in others), 1 + sum(k >= key[at] for k in others)
    assert mean_rank(np.array(scores), np.array(among), at) == (best + worst) / 2


def test_gains_of_ranks() -> None:
    found = gains(np.arange(23, dtype=np.uint16))
    for rank in range(23):
        listed = 1 <= rank <= 20
        expected = {f"hr@{cut}": float(1 <= rank <= cut) for cut in (1, 5, 10, 20)}
        expected |= {"mrr@20": 1 / rank if listed else 0.0, "ndcg@20": 1 / math.log2(1 + rank) if listed else 0.0}
        assert {name: values[rank] for name, values in found.items()} == pytest.approx(expected)
    ranks, candidates = np.array([1.0, 1.5, 10.5, 20.0, 51.0]), np.array([1.0, 2.0, 20.0, 21.0, 101.0])
    full = rank_gains(ranks, candidates)
    assert full["mrr"].tolist() == pytest.approx([1.0, 1 / 1.5, 1 / 10.5, 1 / 20, 1 / 51])
    assert full["hit@20"].tolist() == [1, 1, 1, 1, 0]
    assert full["hit@50"].tolist() == [1, 1, 1, 1, 0]
    assert full["ndcg@10"].tolist() == pytest.approx([1.0, 1 / math.log2(2.5), 0, 0, 0])
    assert full["mean_percentile"].tolist() == pytest.approx([0.0, 0.5, 0.5, 0.95, 0.5])


def poisson_by_inversion(drawn: float) -> int:
    k, mass = 0, math.exp(-1.0)
    cdf = mass
    while drawn >= cdf:
        k += 1
        mass /= k
        cdf += mass
    return k


def test_weights_are_poisson_and_a_function_of_user_and_replicate() -> None:
    """The twin is numpy's own Philox with the same key and counter, and Poisson's distribution inverted term by term."""
    for user in (0, 1, 77, CLUSTERS - 1):
        counter = ((user << 64) - 1) % (1 << 256)  # numpy counts up before it draws
        raw = np.random.Philox(counter=counter, key=[0, 0x626F6F74]).random_raw(REPLICATES)
        assert weights()[user].tolist() == [poisson_by_inversion((int(bits) >> 11) * 2.0**-53) for bits in raw]
    drawn = weights().astype(np.float64)
    assert abs(drawn.mean() - 1) < 0.005
    assert abs(drawn.var() - 1) < 0.01


def test_totals_count_each_cluster_as_often_as_it_is_drawn() -> None:
    sums = np.random.default_rng(1).normal(size=(37, 3))
    found = totals(sums)
    for replicate in (0, 1, REPLICATES - 1):
        expected = sum(int(weights()[cluster, replicate]) * sums[cluster] for cluster in range(37))
        assert found[replicate].tolist() == pytest.approx(expected.tolist())


def frame(n: int, users: int, seed: int, **more: np.ndarray) -> pl.DataFrame:
    """Made-up base columns, an hour having about a tenth of the rows."""
    rng = np.random.default_rng(seed)
    base = {
        "position": np.arange(n) * 3,
        "ts_ms": np.sort(rng.integers(1_700_000_000_000, 1_700_000_000_000 + 36_000_000, n)),
        "user": rng.integers(0, users, n).astype(np.int32),
        "item": rng.integers(0, 50, n).astype(np.int32),
    }
    return pl.DataFrame({**base, **{name: rng.random(n) < 0.4 for name in SLICES}, **more})


def made_up(n: int = 600, seed: int = 0) -> Judgements:
    rng = np.random.default_rng(seed + 100)
    lists = frame(n, 60, seed, served=rng.integers(0, 21, n), popular=np.where(rng.random(n) < 0.5, 0, rng.integers(1, 21, n)))
    full = rng.integers(1, 400, n).astype(np.float32)
    ranks = frame(
        n, 60, seed, candidates=np.full(n, 400, dtype=np.int32), supa=full, popular=np.where(rng.random(n) < 0.1, np.nan, full / 2)
    )
    ranks = ranks.with_columns(unable=pl.lit(math.nan, pl.Float32))
    y, p = (rng.random(n) < 0.3).astype(np.uint8), rng.random(n).astype(np.float32)
    labels = frame(n, 60, seed, y=y, counters=np.round(p, 1), supa=np.where(rng.random(n) < 0.2, np.nan, (p + y) / 2).astype(np.float32))
    labels = labels.with_columns(label=pl.lit("click"), revealed_ms=pl.col("ts_ms") + 2_000)
    return Judgements(lists, ranks, labels, {"first_position": 0, "log": {"mapping": "made-up"}, "run": {}})


def part_of(rows: pl.DataFrame, part: str) -> pl.DataFrame:
    if part == "all":
        return rows
    return rows.filter(pl.col(part)) if part in SLICES else rows.filter(~pl.col(OPPOSITES[part]))


def test_every_part_and_hour_is_the_mean_of_its_own_rows() -> None:
    found = made_up()
    told = result(found, 300)
    rows = found.lists.filter(pl.col("position") >= 300)
    for part in PARTS:
        own = part_of(rows, part)
        ranks = own["popular"].to_list()
        assert told["lists"]["popular"][part]["n"] == own.height
        assert told["lists"]["popular"][part]["hr@5"] == pytest.approx(sum(1 <= rank <= 5 for rank in ranks) / len(ranks), rel=1e-5)
        assert told["lists"]["popular"][part]["mrr@20"] == pytest.approx(sum(1 / r for r in ranks if r) / len(ranks), rel=1e-5)
    hours = told["by_hour"]["lists"]
    assert len(hours["ts_ms"]) > 5
    for at, hour in enumerate(hours["ts_ms"]):
        own = rows.filter(pl.col("ts_ms").is_between(hour, hour + 3_599_999))
        assert hours["n"][at] == own.height
        assert hours["served"]["hr@20"][at] == pytest.approx(float((own["served"] > 0).mean()), rel=1e-5)


def test_an_interval_is_that_of_users_drawn_with_their_rows() -> None:
    """The naive twin draws by hand. And the interval has the width that the normal distribution gives to independent users."""
    found = made_up()
    told = result(found, 0)
    user, hit = found.lists["user"].to_numpy(), (found.lists["served"].to_numpy() > 0).astype(np.float64)
    naive = []
    for replicate in range(REPLICATES):
        often = [int(weights()[u, replicate]) for u in user.tolist()]
        naive.append(sum(w * h for w, h in zip(often, hit.tolist(), strict=True)) / sum(often))
    assert told["lists"]["served"]["all"]["ci95"]["hr@20"] == pytest.approx(np.quantile(naive, [0.025, 0.975]).tolist(), rel=1e-5)
    other = (found.lists["popular"].to_numpy() > 0).astype(np.float64)
    pair = told["paired"]["lists"]["popular"]["hr@20"]
    assert pair["difference"] == pytest.approx(float((hit - other).mean()), rel=1e-5)
    low, high = told["lists"]["served"]["all"]["ci95"]["hr@20"]
    share = hit.mean()
    assert (high - low) / (2 * 1.96 * math.sqrt(share * (1 - share) / hit.size)) == pytest.approx(1.0, abs=0.35)


def test_p_is_never_zero_and_one_where_nothing_differs() -> None:
    assert two_sided_p(np.zeros(200)) == 1.0
    assert two_sided_p(np.ones(200)) == pytest.approx(2 / 201)
    assert two_sided_p(np.array([-1.0] * 50 + [1.0] * 150)) == pytest.approx(102 / 201)
    assert two_sided_p(np.full(200, np.nan)) is None
    assert interval(np.full(200, np.nan)) is None


def test_labels_against_a_naive_account() -> None:
    rows = made_up().labels
    y, p = rows["y"].to_numpy(), rows["counters"].to_numpy()
    told = score_labels(y, p, Rows(rows))
    for part in PARTS:
        own = part_of(rows, part)
        ys, ps = own["y"].to_list(), own["counters"].to_list()
        clipped = [min(max(at, 1e-6), 1 - 1e-6) for at in ps]
        loss = [-math.log(at if of else 1 - at) for of, at in zip(ys, clipped, strict=True)]
        expected = {
            "auc": naive_auc(ys, ps),
            "gauc": naive_gauc(own["y"].to_numpy(), own["counters"].to_numpy(), own["user"].to_numpy())[0],
            "log_loss": sum(loss) / len(loss),
            "calibration": sum(ps) / sum(ys),
        }
        assert {name: told[part].values[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    expected_bins: dict[int, list[tuple[int, float]]] = {}
    pairs = list(zip(y.tolist(), p.tolist(), strict=True))
    for of, at in pairs:
        middle = sum(other < at for _, other in pairs) + sum(other == at for _, other in pairs) / 2
        expected_bins.setdefault(int(10 * middle / len(pairs)), []).append((of, at))
    bins = told["all"].values["bins"]
    assert [of["n"] for of in bins] == [len(inside) for _, inside in sorted(expected_bins.items())]
    for of, (_, inside) in zip(bins, sorted(expected_bins.items()), strict=True):
        assert (of["y"], of["p"]) == pytest.approx(tuple(sum(values) / len(inside) for values in zip(*inside, strict=True)), rel=1e-5)


def test_bins_hold_a_tenth_of_the_rows_each() -> None:
    p = np.random.default_rng(2).permutation(1_000).astype(np.float32) / 1_000
    y = (np.arange(1_000) % 3 == 0).astype(np.uint8)
    bins = score_labels(y, p, Rows(frame(1_000, 9, 0)))["all"].values["bins"]
    order = np.argsort(p)
    expected = [(100, float(p[part].mean()), float(y[part].mean())) for part in np.split(order, 10)]
    assert [(of["n"], of["p"], of["y"]) for of in bins] == [pytest.approx(of, rel=1e-5) for of in expected]


def test_a_replicate_of_each_label_score_is_the_score_of_the_rows_drawn() -> None:
    rows = made_up(200).labels
    y, p, user = rows["y"].to_numpy(), rows["counters"].to_numpy(), rows["user"].to_numpy()
    told = score_labels(y, p, Rows(rows))["all"]
    for replicate in (0, 7):
        often = weights()[user, replicate]
        ys, ps = np.repeat(y, often), np.repeat(p, often).astype(np.float64)
        copies = np.concatenate([[u * 100 + copy for copy in range(w)] for u, w in zip(user, often, strict=True)]).astype(np.int64)
        clipped = np.clip(ps, 1e-6, 1 - 1e-6)
        expected = {
            "auc": naive_auc(ys, ps),
            "gauc": naive_gauc(ys, ps, copies)[0],  # each copy of a user is a user
            "log_loss": float(-np.where(ys == 1, np.log(clipped), np.log1p(-clipped)).mean()),
            "calibration": float(ps.sum() / ys.sum()),
        }
        assert {name: of[replicate] for name, of in told.replicates.items()} == pytest.approx(expected, rel=1e-5)


def test_all_are_compared_on_the_rows_that_all_have() -> None:
    found = made_up()
    share = coverage(found.ranks)
    assert share["supa"] == 1.0
    assert 0.8 < share["popular"] < 1.0
    assert share["unable"] == 0.0
    rows = comparable(found.ranks)
    assert "unable" not in rows.columns
    assert rows.height == found.ranks["popular"].is_not_nan().sum()
    told = result(found, 0)
    assert set(told["ranks"]) == {"supa", "popular"}
    assert [told["ranks"][name]["all"]["n"] for name in told["ranks"]] == [rows.height] * 2
    assert told["ranks"]["popular"]["all"]["coverage"] == pytest.approx(share["popular"], rel=1e-5)
    both = found.labels.filter(pl.col("supa").is_not_nan())
    assert told["labels"]["click"]["counters"]["all"]["n"] == both.height
    assert told["labels"]["click"]["delay_seconds"] == {"p50": 2.0, "p90": 2.0, "p99": 2.0}
    at = told["by_hour"]["labels"]["click"]
    hour = both.filter(pl.col("ts_ms").is_between(at["ts_ms"][3], at["ts_ms"][3] + 3_599_999))
    assert at["supa"]["auc"][3] == pytest.approx(naive_auc(hour["y"].to_list(), hour["supa"].to_list()), rel=1e-5)


def test_a_result_is_json_even_where_nothing_was_judged() -> None:
    found = made_up()
    for first in (0, 10**9):
        told = result(found, first)
        assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["lists"]["served"]["all"]["n"] == 0
    one_kind = Judgements(found.lists, found.ranks, found.labels.with_columns(y=pl.lit(0, pl.UInt8)))
    assert result(one_kind, 0)["labels"]["click"]["supa"]["all"]["auc"] is None
    apart = found.labels.with_columns(
        counters=pl.when(pl.col("head")).then(math.nan).otherwise(0.5), supa=pl.when(pl.col("head")).then(0.5).otherwise(math.nan)
    )
    told = result(Judgements(found.lists, found.ranks, apart), 0)["labels"]["click"]
    assert (told["supa"]["all"]["n"], told["supa"]["all"]["auc"]) == (0, None), "no row that both have"


def test_judgements_come_back_as_they_were_saved(tmp_path: Path) -> None:
    found = made_up()
    found.save(tmp_path / "run")
    loaded = Judgements.load(tmp_path / "run")
    assert [getattr(loaded, name).equals(getattr(found, name)) for name in ("lists", "ranks", "labels")] == [True] * 3
    assert loaded.meta == found.meta
    assert result(loaded, 0) == result(found, 0)
    (tmp_path / "run" / "meta.json").write_text('{"format": 99}')
    with pytest.raises(SettingsError, match="another format"):
        Judgements.load(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"no meta\.json"):
        Judgements.load(tmp_path)


def test_a_run_compared_with_itself_does_not_differ() -> None:
    told = compare(made_up(), made_up())
    for section in (told["lists"], told["ranks"], told["labels"]["click"]):
        assert section
        for contender in section.values():
            for of in (value for part in contender.values() for value in part.values() if isinstance(value, dict)):
                assert (of["difference"], of["ci95"], of["p"]) in (((0.0), [0.0, 0.0], 1.0), (None, None, None))


def test_two_runs_differ_as_their_own_results_do() -> None:
    a, other = made_up(), made_up(seed=0)
    better = np.where(np.arange(600) % 4 == 0, 1, other.lists["served"].to_numpy())
    b = Judgements(
        other.lists.with_columns(served=pl.Series(better)),
        other.ranks.filter(pl.col("position") % 2 == 0).with_columns(supa=pl.col("supa") + 1),
        other.labels.with_columns(supa=pl.col("y").cast(pl.Float32)).drop("counters"),
        {"first_position": 600},
    )
    told = compare(a, b)
    before, after = result(a, 600)["lists"]["served"], result(b, 600)["lists"]["served"]
    for part in PARTS:
        for metric in ("hr@20", "mrr@20"):
            of = told["lists"]["served"][part][metric]
            assert (of["a"], of["b"]) == (before[part][metric], after[part][metric])
            assert of["difference"] == pytest.approx(of["b"] - of["a"], abs=1e-5)
    all_ = told["lists"]["served"]["all"]["mrr@20"]
    assert all_["ci95"][0] > 0
    assert all_["p"] == pytest.approx(2 / 201, rel=1e-5)
    assert told["ranks"]["supa"]["all"]["n"] == b.ranks.filter(pl.col("position") >= 600).height
    assert told["ranks"]["supa"]["all"]["mrr"]["difference"] < 0
    assert set(told["labels"]["click"]) == {"supa"}
    assert told["labels"]["click"]["supa"]["all"]["auc"]["b"] == 1.0
    assert told["labels"]["click"]["supa"]["all"]["log_loss"]["difference"] < 0


def test_runs_over_other_logs_are_refused() -> None:
    a = made_up()
    fewer = Judgements(a.lists[:-1], a.ranks, a.labels)
    with pytest.raises(SettingsError, match=r"lists: 600 and 599 rows.*--from"):
        compare(a, fewer)
    item = pl.when(pl.col("position") == 9).then(49 - pl.col("item")).otherwise(pl.col("item"))
    with pytest.raises(SettingsError, match="at position 9 lists have item"):
        compare(a, Judgements(a.lists.with_columns(item=item), a.ranks, a.labels))
    with pytest.raises(SettingsError, match="labels have y"):
        compare(a, Judgements(a.lists, a.ranks, a.labels.with_columns(y=1 - pl.col("y"))))
