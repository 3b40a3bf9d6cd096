"""Baselines' lists against twins that keep everything in dicts; cuts, removals, restarts, scores; names and extras."""

import io
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from core.contender import SEEN_ITEMS, Run
from core.errors import SettingsError
from learners.baselines import batch, registry
from learners.baselines.covisitation import NEIGHBOURS, Covisitation
from learners.baselines.popular import Popular

K, USERS, ITEMS = 5, 8, 24
HOUR_MS = 3_600_000
T0 = 472_222 * HOUR_MS


def made_up(seed, rows=500, users=USERS, items=ITEMS, steps_ms=(0, 0, 1_000, 60_000, 900_000, -600_000)):
    """Some items are popular, times stand still or go back, some rows are impressions; `seen` is any set of items."""
    rng = np.random.default_rng(seed)
    seen = np.full((rows, SEEN_ITEMS), -1, dtype=np.int32)
    for row in seen:
        held = rng.integers(0, 6)
        row[:held] = rng.permutation(items)[:held]
    ts_ms = T0 + np.cumsum(rng.choice(steps_ms, rows))
    item = np.minimum(rng.geometric(0.12, rows) - 1, items - 1).astype(np.int32)
    user = rng.integers(0, users, rows).astype(np.int32)
    engaged, judged = rng.random(rows) < 0.8, rng.random(rows) < 0.7
    return Run(np.arange(rows), ts_ms, user, item, engaged, judged, seen, users, items)


def known_so_far(run, start, stop):
    """A part that tells no more numbers than were given up to its end."""
    return replace(run.part(start, stop), users=int(run.user[:stop].max()) + 1, items=int(run.item[:stop].max()) + 1)


class Twin:
    """A list is what `keys` says, highest first: item -> anything that compares. Subclasses learn and give keys."""

    def judge(self, run, k):
        return np.array([self._row(run, i, k) for i in range(len(run))], dtype=np.int32)

    def _row(self, run, i, k):
        user, item, ts_ms = int(run.user[i]), int(run.item[i]), int(run.ts_ms[i])
        self.before(ts_ms)
        rank = self.rank(self.keys(user, ts_ms), item, set(run.seen[i].tolist()), k) if run.judged[i] else 0
        if run.engaged[i]:
            self.learn(user, item, ts_ms)
        return rank

    @staticmethod
    def rank(keys, item, seen, k):
        keys = {other: key for other, key in keys.items() if other not in seen}
        if item not in keys:
            return 0
        rank = 1 + sum(key >= keys[item] for other, key in keys.items() if other != item)
        return rank if rank <= k else 0

    def before(self, ts_ms):
        pass


class PopularTwin(Twin):
    def __init__(self, half_life_ms):
        self.half_life_ms, self.log2 = half_life_ms, {}

    def keys(self, user, ts_ms):
        return {item: (0, score) for item, score in self.log2.items()}

    def learn(self, user, item, ts_ms):
        self.log2[item] = plus_one(self.log2.get(item, -math.inf), ts_ms / self.half_life_ms)

    def remove(self, items):
        for item in items:
            self.log2.pop(item, None)


def plus_one(log2, now):
    top = max(log2, now)
    return top + math.log2(2.0 ** (now - top) + 2.0 ** (log2 - top))


class RecentTwin(PopularTwin):
    def __init__(self):
        self.log2, self.learned = {}, 0

    def learn(self, user, item, ts_ms):
        self.learned += 1
        self.log2[item] = self.learned


class CovisitationTwin(PopularTwin):
    def __init__(self, half_life_ms, least):
        super().__init__(30 * 60_000)
        self.steps, self.last, self.step_ms, self.least = {}, {}, half_life_ms, least

    def keys(self, user, ts_ms):
        least = ts_ms / self.step_ms + math.log2(self.least)
        near = self.steps.get(self.last.get(user), {})
        return super().keys(user, ts_ms) | {item: (1, score) for item, score in near.items() if score >= least}

    def learn(self, user, item, ts_ms):
        super().learn(user, item, ts_ms)
        last = self.last.get(user)
        if last is not None and last != item:
            near = self.steps.setdefault(last, {})
            if item not in near and len(near) == NEIGHBOURS:
                del near[min(near, key=near.get)]
            near[item] = plus_one(near.get(item, -math.inf), ts_ms / self.step_ms)
        self.last[user] = item

    def remove(self, items):
        super().remove(items)
        for near in self.steps.values():
            for item in items:
                near.pop(item, None)


class EdgeBankTwin(PopularTwin):
    def __init__(self):
        super().__init__(30 * 60_000)
        self.own = {}

    def keys(self, user, ts_ms):
        own = self.own.get(user, [])
        return super().keys(user, ts_ms) | {item: (1, at) for at, item in enumerate(own)}

    def learn(self, user, item, ts_ms):
        super().learn(user, item, ts_ms)
        own = self.own.setdefault(user, [])
        if item in own:
            own.remove(item)
        own.append(item)

    def remove(self, items):
        super().remove(items)
        self.own = {user: [item for item in own if item not in items] for user, own in self.own.items()}


class HourlyTwin(Twin):
    def __init__(self, fit):
        self.fit, self.hour, self.log, self.model = fit, None, [], {}

    def before(self, ts_ms):
        if self.hour is None or ts_ms // HOUR_MS > self.hour:
            self.hour, self.model = ts_ms // HOUR_MS, {}
            since_ms = (self.hour - batch.WINDOW_HOURS) * HOUR_MS
            self.log = [row for row in self.log if row[2] >= since_ms][-batch.WINDOW_PAIRS :]
            if self.log:
                self.model = self.factors([row[:2] for row in self.log])

    def factors(self, pairs):
        users, items = sorted({user for user, _ in pairs}), sorted({item for _, item in pairs})
        counts = np.zeros((len(users), len(items)), dtype=np.float32)
        for user, item in pairs:
            counts[users.index(user), items.index(item)] += 1
        of_user, of_item = self.fit(csr_matrix(counts))
        return {"users": dict(zip(users, of_user, strict=True)), "items": dict(zip(items, of_item, strict=True))}

    def keys(self, user, ts_ms):
        vector = self.model.get("users", {}).get(user)
        return {} if vector is None else {item: product(vector, other) for item, other in self.model["items"].items()}

    def learn(self, user, item, ts_ms):
        self.log.append((user, item, ts_ms))

    def remove(self, items):
        self.log = [row for row in self.log if row[1] not in items]
        for item in items:
            self.model.get("items", {}).pop(item, None)


def product(a, b):
    total = np.float32(0.0)
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def most_engaged(counts):
    """A fit with many ties: all users like an item by its count."""
    return np.ones((counts.shape[0], 1), dtype=np.float32), np.asarray(counts.sum(axis=0), dtype=np.float32).T.copy()


def of_registry(name):
    return lambda: registry.list_baselines([name])[0]


PAIRS = {
    "popular-30m": (of_registry("popular-30m"), lambda: PopularTwin(30 * 60_000)),
    "recent": (of_registry("recent"), RecentTwin),
    "covisitation": (of_registry("covisitation"), lambda: CovisitationTwin(1.5 * HOUR_MS, 1e-9)),
    "covisitation-fresh": (of_registry("covisitation-fresh"), lambda: CovisitationTwin(0.5 * HOUR_MS, 1.0)),
    "edgebank": (of_registry("edgebank"), EdgeBankTwin),
    "als-hourly": (of_registry("als-hourly"), lambda: HourlyTwin(batch.fit_als)),
    "bpr-hourly": (of_registry("bpr-hourly"), lambda: HourlyTwin(batch.fit_bpr)),
    "hourly with ties": (lambda: batch.HourlyRefit("ties", most_engaged), lambda: HourlyTwin(most_engaged)),
}
each = pytest.mark.parametrize("name", list(PAIRS))


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(batch, "WINDOW_HOURS", 2)
    monkeypatch.setattr(batch, "WINDOW_PAIRS", 110)


@each
@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_the_twins_with_removals_in_between(name, seed):
    new, twin = (make() for make in PAIRS[name])
    run = made_up(seed)
    cuts, ranks = [0, 130, 131, 290, 500], []
    for start, stop in pairwise(cuts):
        found = new.judge(known_so_far(run, start, stop), K)
        assert found.tolist() == twin.judge(run.part(start, stop), K).tolist()
        ranks += found.tolist()
        gone = np.array([0, 2, start % ITEMS, ITEMS + 40], dtype=np.int32)
        new.remove(gone)
        twin.remove(gone.tolist())
        assert not np.isfinite(scores := new.scores(0, ITEMS))[[0, 2]].any()
        assert scores.shape == (ITEMS,)
    assert len(set(ranks)) == K + 1, "hits at all ranks, and misses"
    assert not np.array(ranks)[~run.judged].any()


@each
def test_any_cut_gives_the_same_ranks_and_the_same_state(name):
    run, make = made_up(7), PAIRS[name][0]
    whole, cut = make(), make()
    expected = whole.judge(run, K)
    assert cut.judge(run.part(0, 0), K).size == 0
    sizes, parts, at = (1, 2, 3, 50, 7, 1, 90), [], 0
    while at < len(run):
        stop = min(at + sizes[len(parts) % len(sizes)], len(run))
        parts.append(cut.judge(known_so_far(run, at, stop), K))
        at = stop
    assert np.concatenate(parts).tolist() == expected.tolist()
    for user in range(USERS):
        np.testing.assert_array_equal(cut.scores(user, ITEMS), whole.scores(user, ITEMS))


@each
@pytest.mark.parametrize("stop", [0, 1, 250])
def test_a_saved_contender_goes_on_as_if_it_had_not_stopped(name, stop):
    run, make = made_up(3), PAIRS[name][0]
    first, second = make(), make()
    first.judge(run.part(0, stop), K)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **(state := first.save()))
    expected = first.judge(run.part(stop, len(run)), K).tolist()
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        assert all(np.array_equal(state[field], stored[field]) for field in stored), "what is saved does not change any more"
        second.load(dict(stored))
    assert second.judge(run.part(stop, len(run)), K).tolist() == expected
    one, other = first.save(), second.save()
    assert list(one) == list(other)
    assert all(one[field].tobytes() == other[field].tobytes() for field in one)


@each
def test_scores_rank_as_lists_do(name):
    """As of the event before; so the time of the two is the same here."""
    new, twin = (make() for make in PAIRS[name])
    run, known = made_up(5), 0
    for i in range(len(run)):
        new.judge(run.part(i, i + 1), K)
        twin.judge(run.part(i, i + 1), K)
        user, ts_ms = int(run.user[i - 1]), int(run.ts_ms[i])
        keys, scores = twin.keys(user, ts_ms), new.scores(user, ITEMS)
        assert set(np.flatnonzero(~np.isnan(scores)).tolist()) == set(keys)
        assert ranked(keys) == ranked({item: scores[item] for item in keys})
        known += len(keys)
    assert known > 4_000


def ranked(keys):
    """item -> how many are above it."""
    return {item: sum(other > key for other in keys.values()) for item, key in keys.items()}


@each
def test_of_an_unknown_user_and_of_no_events_there_are_scores_too(name):
    new = PAIRS[name][0]()
    assert np.isnan(new.scores(0, 3)).all()
    new.judge(made_up(1), K)
    assert new.scores(USERS + 10, ITEMS + 10).shape == (ITEMS + 10,)


def test_popularity_is_the_decayed_count():
    run, half_life_ms = made_up(2), 600_000
    new = Popular(half_life_ms, "popular-10m")
    new.judge(run, K)
    now_ms = int(run.ts_ms[-1])
    counts = np.zeros(ITEMS)
    np.add.at(counts, run.item[run.engaged], 0.5 ** ((now_ms - run.ts_ms[run.engaged]) / half_life_ms))
    told = 2.0 ** (new.scores(0, ITEMS) - now_ms / half_life_ms)
    np.testing.assert_allclose(np.nan_to_num(told), counts, rtol=1e-6)


def test_neighbours_beyond_the_room_push_out_the_lowest():
    items = NEIGHBOURS + 60
    run = made_up(11, rows=2_500, users=2, items=items, steps_ms=(1_000, 7_000, 60_000))
    rng = np.random.default_rng(1)
    run = replace(run, item=np.where(run.position % 3, 0, rng.integers(1, items, len(run))).astype(np.int32))
    new, twin = Covisitation("covisitation", 1.5 * HOUR_MS, 1e-9), CovisitationTwin(1.5 * HOUR_MS, 1e-9)
    assert new.judge(run, 60).tolist() == twin.judge(run, 60).tolist()
    assert len(twin.steps[0]) == NEIGHBOURS


def test_fits_of_the_same_pairs_are_the_same_bits_and_learn():
    """Two tastes: users and items of the same half. A fit puts what a user has not had of his half above the other half."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 40, 1_500)
    item = 2 * rng.integers(0, 10, 1_500) + user % 2
    for fit in (batch.fit_als, batch.fit_bpr):
        one, other = (batch.fitted(user, item, fit) for _ in range(2))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
        products = one.user_factors @ one.item_factors
        same_half = np.arange(40)[:, None] % 2 == np.arange(20) % 2
        assert products[same_half].mean() > products[~same_half].mean()


def test_names_are_checked_and_extras_are_no_default():
    with pytest.raises(SettingsError, match=r"--baseline trending: .*popular-<half-life>.*edgebank.*counters.*als-hourly.*online-fm"):
        registry.check(["recent", "trending"])
    with pytest.raises(SettingsError, match="popular-0m"):
        registry.list_baselines(["popular-0m"])
    assert [baseline.name for baseline in registry.list_baselines(registry.DEFAULT)] == [
        "popular-5m", "popular-30m", "popular-2h", "popular-12h", "recent", "covisitation", "covisitation-fresh", "edgebank",
    ]  # fmt: skip
    assert [baseline.name for baseline in registry.label_baselines(registry.DEFAULT)] == ["counters"]


@pytest.mark.parametrize(
    ("name", "library"), [("als-hourly", "implicit"), ("bpr-hourly", "implicit"), ("online-lr", "river"), ("online-fm", "river")]
)
def test_without_its_library_a_baseline_says_what_to_install(monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SettingsError, match=rf"--baseline {name} .*pip install 'freshet\[baselines\]'"):
        registry.list_baselines([name]) + registry.label_baselines([name])


def test_the_registry_loads_no_extra():
    code = "import learners.baselines.registry, sys; sys.exit(len({'river', 'implicit', 'threadpoolctl'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
