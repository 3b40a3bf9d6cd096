"""The chain against a naive twin over dicts: same lists, same scores to the bit, same evidence."""

import math
import random
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hashing import fingerprint
from core.stage import Publication
from learners.cache import ParameterCache
from learners.recommend import CacheConfig, RequestError

WIDTH, LEVELS, HALF_LIFE_MS = 3, 3, 1_000
OWN = {
    "user_history": {"recent": pl.Binary},
    "user_vectors": {"vector": pl.Array(pl.Float32, WIDTH)},
    "item_popularity": {"log2_popularity": pl.Float64, "first_ms": pl.Int64, "start_ms": pl.Int64, "end_ms": pl.Int64},
    "item_vectors": {"vector": pl.Array(pl.Float32, WIDTH), "bias": pl.Float32},
    "item_tokens": {"tokens": pl.Array(pl.UInt16, LEVELS), "codebook_version": pl.Int64},
}
ITEM_TABLES = ("item_popularity", "item_vectors", "item_tokens")
Row = dict[str, object]


@dataclass
class Twin:
    """The cache as dicts: table -> id -> row. Slow, obvious, and without an index."""

    config: CacheConfig
    tables: dict[str, dict[str, Row]] = field(default_factory=lambda: {name: {} for name in OWN})
    clock_ms: int = 0

    def apply(self, writer: str, tables: dict[str, list[Row]], clock_ms: int) -> int:
        if not self.config.tombstones:
            self._forget()
        stale = 0
        for name, rows in tables.items():
            for row in rows:
                held = self.tables[name].get(row["id"])
                if held is not None and held["writer"] == writer and row["version"] < held["version"]:
                    stale += 1
                else:
                    self.tables[name][row["id"]] = {**row, "writer": writer}
        self.clock_ms = max(self.clock_ms, clock_ms)
        return stale

    def _forget(self) -> None:
        for space in ("user_", "item_"):
            tables = [table for name, table in self.tables.items() if name.startswith(space)]
            for id_ in {id_: None for table in tables for id_ in table}:
                if all(id_ not in table or table[id_]["removed"] for table in tables):
                    for table in tables:
                        table.pop(id_, None)

    def row(self, name: str, id_: str) -> Row | None:
        row = self.tables[name].get(id_)
        return row if row and not row["removed"] else None

    def items(self) -> list[str]:
        return list({id_: None for name in ITEM_TABLES for id_ in self.tables[name]})

    def shown(self, item: str, now_ms: int) -> bool:
        row = self.tables["item_popularity"].get(item)
        if row is None:
            return True
        started = row["start_ms"] is None or row["start_ms"] <= now_ms
        return not row["removed"] and started and (row["end_ms"] is None or now_ms < row["end_ms"])

    def recent(self, user: str) -> list[str]:
        history = self.row("user_history", user)
        if history is None:
            return []
        raw = history["recent"]
        held = {fingerprint(item): item for item in self.items()}
        keys = [raw[at : at + 16] for at in range(0, len(raw), 16)][: self.config.seen_items]
        return [held[key] for key in keys if key in held]

    def personal(self, user: str, item: str) -> float | None:
        mine, its = self.row("user_vectors", user), self.row("item_vectors", item)
        if mine is None or its is None:
            return None
        value = float(dot(mine["vector"], its["vector"])) + float(np.float32(its["bias"]))
        if self.config.popularity_weight:
            value += self.config.popularity_weight * math.log(2) * self.log2(item)
        return value

    def log2(self, item: str) -> float:
        row = self.row("item_popularity", item)
        return -math.inf if row is None or row["log2_popularity"] is None else row["log2_popularity"]

    def similar(self, sources: list[str], item: str) -> float | None:
        sources = [s for s in sources if self.row("item_vectors", s) or self.row("item_tokens", s)][: self.config.similar_items]
        if not sources:
            return None
        vector, total = self.row("item_vectors", item), 0.0
        units = [unit(row["vector"]) for s in sources if (row := self.row("item_vectors", s))]
        if vector and units:
            query = [np.float32(0)] * WIDTH
            for one in units:
                query = [a + b for a, b in zip(query, one, strict=True)]
            total = float(dot(query, vector["vector"]) * inverse_norm(vector["vector"]))
        for source in sources:
            if not (vector and self.row("item_vectors", source)):
                total += self.shared(source, item)
        return total / len(sources) if total > 0 else None

    def shared(self, a: str, b: str) -> float:
        one, two = self.row("item_tokens", a), self.row("item_tokens", b)
        if not one or not two:
            return 0.0
        same = [x == y for x, y in zip(one["tokens"], two["tokens"], strict=True)]
        return [*same, False].index(False) / LEVELS

    def popular(self, item: str) -> float | None:
        return self.log2(item)

    def newest(self, item: str) -> float | None:
        row = self.row("item_popularity", item)
        return None if row is None or row["first_ms"] is None else float(row["first_ms"])

    def recommend(self, user: str, k: int, links: list[str], now_ms: int) -> tuple[list[tuple[str, float, str]], int | None]:
        seen = self.recent(user)
        taken, out = set(seen), []
        scores = {
            "personal": lambda item: self.personal(user, item),
            "similar": lambda item: self.similar(seen, item),
            "popular": self.popular,
            "newest": self.newest,
        }
        for link in links:
            scored = [(scores[link](item), item) for item in self.items() if item not in taken and self.shown(item, now_ms)]
            ranked = sorted((-value, item) for value, item in scored if value is not None and value > -math.inf)
            picked = [(item, -negated, link) for negated, item in ranked[: k - len(out)]]
            taken.update(item for item, _, _ in picked)
            out += picked
        return out, self.evidence_ms(user, out)

    def evidence_ms(self, user: str, out: list[tuple[str, float, str]]) -> int | None:
        used = {"personal": ["item_vectors"], "similar": ["item_vectors", "item_tokens"]}
        if self.config.popularity_weight:
            used["personal"].append("item_popularity")
        rows = [self.row(name, user) for name in ("user_history", "user_vectors")]
        rows += [self.row(name, item) for item, _, link in out for name in used.get(link, ["item_popularity"])]
        return max((row["event_ms"] for row in rows if row), default=None)


def dot(a: list[float], b: list[float]) -> np.float32:
    total = np.float32(0)
    for x, y in zip(a, b, strict=True):
        total = np.float32(total + np.float32(np.float32(x) * np.float32(y)))
    return total


def inverse_norm(vector: list[float]) -> np.float32:
    norm = math.sqrt(sum(float(x) ** 2 for x in vector))
    return np.float32(1 / norm) if norm else np.float32(0)


def unit(vector: list[float]) -> list[np.float32]:
    return [np.float32(x) * inverse_norm(vector) for x in vector]


def random_row(rng: random.Random, name: str, items: list[str]) -> Row:
    def number() -> float:
        return float(np.float32(rng.choice([-1.0, 0.0, 1.0, rng.gauss(0, 1)])))

    if name == "user_history":
        return {"recent": b"".join(fingerprint(rng.choice([*items, "never seen"])) for _ in range(rng.randrange(5)))}
    if name == "item_tokens":
        return {"tokens": [rng.randrange(2) for _ in range(LEVELS)], "codebook_version": rng.randrange(2)}
    if name == "item_popularity":
        times = [rng.choice([None, rng.randrange(10)]) for _ in range(3)]
        log2 = rng.choice([None, 1.0, 2.0, rng.random()])
        return {"log2_popularity": log2, "first_ms": times[0], "start_ms": times[1], "end_ms": times[2]}
    vector = [number() for _ in range(WIDTH)]
    return {"vector": vector} if name == "user_vectors" else {"vector": vector, "bias": number()}


def random_publication(rng: random.Random, users: list[str], items: list[str], version: int | None) -> dict[str, list[Row]]:
    tables = {}
    for name in rng.sample(list(OWN), rng.randrange(len(OWN) + 1)):
        ids = rng.choices(users if name.startswith("user_") else items, k=rng.randrange(1, 8))
        tables[name] = [one_row(rng, name, id_, items, version) for id_ in ids]
    return tables


def one_row(rng: random.Random, name: str, id_: str, items: list[str], version: int | None) -> Row:
    base = {"id": id_, "version": rng.randrange(5) if version is None else version, "event_ms": rng.randrange(100)}
    removed = rng.random() < 0.2
    own = dict.fromkeys(OWN[name]) if removed and rng.random() < 0.5 else random_row(rng, name, items)
    return {**base, "removed": removed, **own}


def published(tables: dict[str, list[Row]], clock_ms: int) -> Publication:
    base = {"id": pl.String, "version": pl.Int64, "event_ms": pl.Int64, "removed": pl.Boolean}
    frames = {name: pl.DataFrame(rows, schema={**base, **OWN[name]}, orient="row") for name, rows in tables.items()}
    return Publication(frames, 0, clock_ms, np.empty(0, dtype=np.int64))


def assert_same_answers(cache: ParameterCache, twin: Twin, rng: random.Random, users: list[str], items: list[str]) -> None:
    for user in [*users, "nobody"]:
        k, links = rng.randrange(1, 12), rng.sample(["personal", "similar", "popular", "newest"], rng.randrange(1, 5))
        now_ms = rng.choice([None, rng.randrange(12)])
        answer = cache.recommend(user, k, links, now_ms)
        expected, event_ms = twin.recommend(user, k, links, twin.clock_ms if now_ms is None else now_ms)
        assert [tuple(item) for item in answer.items] == expected
        assert answer.event_ms == event_ms
        assert answer.source == (expected[0][2] if expected else "none")
        scores = [twin.personal(user, item) for item in items]
        assert cache.score(user, items).tolist() == pytest.approx([math.nan if s is None else s for s in scores], rel=0, abs=0, nan_ok=True)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    weight=st.sampled_from([0.0, 0.5]),
    tombstones=st.sampled_from([0, 1_000]),
    similar_items=st.integers(0, 3),
)
def test_answers_equal_the_naive_twin(seed: int, weight: float, tombstones: int, similar_items: int) -> None:
    rng, config = (
        random.Random(seed),
        CacheConfig(popularity_weight=weight, tombstones=tombstones, seen_items=3, similar_items=similar_items),
    )
    cache, twin = ParameterCache(config), Twin(config)
    users, items = [f"u{n}" for n in range(4)], [f"i{n}" for n in range(rng.randrange(1, 12))]
    for step in range(rng.randrange(1, 8)):
        clock_ms, writer = rng.randrange(10), rng.choice(["w", "w", "other"])
        tables = random_publication(rng, users, items, None if tombstones else step)
        stale = twin.apply(writer, {name: sorted(rows, key=lambda row: row["version"]) for name, rows in tables.items()}, clock_ms)
        applied = cache.apply(writer, published(tables, clock_ms))
        superseded = sum(len(rows) - len({row["id"] for row in rows}) for rows in tables.values())
        assert stale <= applied.stale <= stale + superseded
        assert_same_answers(cache, twin, rng, users, items)


def one_table(name: str, rows: list[Row], version: int = 1) -> Publication:
    own = dict.fromkeys(OWN[name])
    return published({name: [{"version": version, "event_ms": 0, "removed": False, **own, **row} for row in rows]}, 0)


def test_rankings_over_many_blocks_are_those_of_a_sort() -> None:
    rng, cache = random.Random(3), ParameterCache()
    items = [f"i{n}" for n in range(12_000)]
    ended = [rng.random() < 0.5 and n < 6_000 for n in range(len(items))]
    log2 = [rng.gauss(10 if gone else 0, 1) if rng.random() < 0.9 else None for gone in ended]
    first = [rng.randrange(50) for _ in items]
    rows = [
        {"id": id_, "log2_popularity": value, "first_ms": at, "end_ms": 0 if gone else None}
        for id_, value, at, gone in zip(items, log2, first, ended, strict=True)
    ]
    cache.apply("w", one_table("item_popularity", rows))
    alive = [n for n in range(len(items)) if not ended[n]]
    for k in (1, 20, 200):
        popular = sorted((-log2[n], items[n]) for n in alive if log2[n] is not None)[:k]
        assert [(-item.score, item.item_id) for item in cache.recommend("u", k, ["popular"]).items] == popular
        newest = sorted((-first[n], items[n]) for n in alive)[:k]
        assert [(-item.score, item.item_id) for item in cache.recommend("u", k, ["newest"]).items] == newest


def test_a_kept_ranking_grows_when_seen_items_eat_into_it() -> None:
    cache = ParameterCache(CacheConfig(seen_items=150))
    items = [f"i{n:03d}" for n in range(200)]
    cache.apply("w", one_table("item_popularity", [{"id": id_, "log2_popularity": 0.0} for id_ in items]))
    history = b"".join(fingerprint(id_) for id_ in items[:150])
    cache.apply("w", one_table("user_history", [{"id": "u", "recent": history}]))
    for user, first in (("nobody", 0), ("u", 150), ("nobody", 0)):
        assert [item.item_id for item in cache.recommend(user, 20).items] == items[first : first + 20]


def test_a_rows_place_changes_no_bit_of_its_score() -> None:
    rng, cache = random.Random(5), ParameterCache()
    vector = [rng.gauss(0, 1) for _ in range(WIDTH)]
    items = [f"i{n:03d}" for n in range(300)]
    cache.apply("w", one_table("item_vectors", [{"id": id_, "vector": vector, "bias": 0.1} for id_ in items]))
    cache.apply("w", one_table("user_vectors", [{"id": "u", "vector": [rng.gauss(0, 1) for _ in range(WIDTH)]}]))
    answer = cache.recommend("u", 200).items
    assert [item.item_id for item in answer] == items[:200]
    assert {item.score for item in answer} == {float(cache.score("u", ["i299"])[0])}


def test_live_rooms_are_listed_while_they_are_open() -> None:
    cache = ParameterCache()
    rooms = [{"id": "room", "log2_popularity": 9.0, "start_ms": 100, "end_ms": 200}, {"id": "film", "log2_popularity": 1.0}]
    cache.apply("w", one_table("item_popularity", rooms))

    def listed(now_ms: int | None = None) -> list[str]:
        return [item.item_id for item in cache.recommend("u", 5, ["popular"], now_ms).items]

    assert [listed(now) for now in (99, 100, 199, 200)] == [["film"], ["room", "film"], ["room", "film"], ["film"]]
    assert listed() == ["film"]
    cache.apply("w", Publication({}, 2, 150, np.empty(0, dtype=np.int64)))
    assert listed() == ["room", "film"]
    cache.apply("w", Publication({}, 3, 250, np.empty(0, dtype=np.int64)))
    assert (listed(), listed(150)) == (["film"], ["room", "film"])


def test_scores_that_overflow_are_not_listed() -> None:
    cache = ParameterCache()
    cache.apply(
        "w", one_table("item_vectors", [{"id": id_, "vector": [x, -x, x], "bias": 0.0} for id_, x in (("huge", 3e38), ("one", 1.0))])
    )
    cache.apply("w", one_table("user_vectors", [{"id": "u", "vector": [3.0, 3.0, 3.0]}]))
    assert [item.item_id for item in cache.recommend("u", 5).items] == ["one"]


@pytest.mark.parametrize("k", [0, -1, 201])
def test_a_k_out_of_range_is_an_error_that_says_the_range(k: int) -> None:
    with pytest.raises(RequestError, match=r"between 1 and 200 .*max_k"):
        ParameterCache().recommend("u", k)
    if k:
        with pytest.raises(RequestError, match="between 0 and 200"):
            ParameterCache().item("i", k)


def test_an_unknown_link_is_an_error_that_lists_the_links() -> None:
    with pytest.raises(RequestError, match=r"'trending'.*personal, similar, popular, newest"):
        ParameterCache().recommend("u", 5, ["trending"])
