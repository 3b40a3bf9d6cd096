"""The HTTP face: what it answers, and how it says no."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import polars as pl
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from core.hashing import fingerprint
from core.stage import Publication
from learners.cache import ParameterCache
from streams.http import create_app

ODD_IDS = ["a/b", "/leading", "trailing/", "a b", "ü-日本", "50%", "q?x=1&y#z", "a//b", "..hidden", "https://shop.example/p/1?c=2"]


class Client:
    """Asks an app without a socket or a thread."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._ask("GET", path, **options))

    def post(self, path: str) -> httpx.Response:
        return asyncio.run(self._ask("POST", path))

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://freshet") as client:
            return await client.request(method, path, **options)


def filled_cache() -> ParameterCache:
    items = [*ODD_IDS, "plain"]
    base = {"version": 3, "event_ms": 700, "removed": False}
    popularity = pl.DataFrame({"id": items, "log2_popularity": [float(n) for n in range(len(items))], "first_ms": list(range(len(items)))})
    tokens = pl.Series([[1, n] for n in range(len(items))], dtype=pl.Array(pl.UInt16, 2))
    history = pl.DataFrame({"id": ODD_IDS, "recent": [fingerprint("plain")] * len(ODD_IDS)})
    tables = {
        "item_popularity": popularity.with_columns(**{name: pl.lit(value) for name, value in base.items()}),
        "item_tokens": pl.DataFrame({"id": items, "tokens": tokens, **base, "codebook_version": 4}),
        "user_history": history.with_columns(**{name: pl.lit(value) for name, value in base.items()}),
    }
    cache = ParameterCache()
    cache.apply("learner", Publication(tables, 3, 900, np.empty(0, dtype=np.int64)))
    return cache


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(create_app(filled_cache(), None, lambda: None))


def test_an_unknown_user_gets_what_is_popular(client: Client) -> None:
    answer = client.get("/v1/recommend/stranger", params={"k": 2})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "user_id": "stranger",
        "source": "popular",
        "items": [
            {"item_id": "plain", "score": 10.0, "link": "popular"},
            {"item_id": ODD_IDS[-1], "score": 9.0, "link": "popular"},
        ],
        "event_ms": 700,
        "clock_ms": 900,
        "versions": {"learner": 3},
    }


@pytest.mark.parametrize("id_", ODD_IDS)
def test_ids_may_hold_any_character(client: Client, id_: str) -> None:
    listed = client.get(f"/v1/recommend/{quote(id_, safe='')}").json()
    assert listed["user_id"] == id_
    assert listed["source"] == "similar"
    item = client.get(f"/v1/items/{quote(id_, safe='')}").json()
    assert (item["item_id"], item["tokens"]) == (id_, [1, ODD_IDS.index(id_)])


def test_links_can_be_chosen_and_repeated(client: Client) -> None:
    listed = client.get("/v1/recommend/a/b?k=2&link=newest&link=popular").json()
    assert [item["link"] for item in listed["items"]] == ["newest", "newest"]
    assert [item["item_id"] for item in listed["items"]] == [ODD_IDS[-1], ODD_IDS[-2]]


def test_an_item_shows_its_parameters_and_neighbours(client: Client) -> None:
    item = client.get("/v1/items/plain", params={"neighbours": 1}).json()
    assert item == {
        "item_id": "plain",
        "tokens": [1, 10],
        "codebook_version": 4,
        "log2_popularity": 10.0,
        "first_ms": 10,
        "start_ms": None,
        "end_ms": None,
        "event_ms": 700,
        "neighbours": [{"item_id": "..hidden", "similarity": 0.5}],
    }


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/items/unheard", 404, "'unheard' is not known"),
        ("/v1/items/", 400, "item_id is missing"),
        ("/v1/recommend/", 400, "user_id is missing"),
        ("/v1/recommend/u?k=0", 400, "k must be between 1 and 200"),
        ("/v1/recommend/u?k=201", 400, "k must be between 1 and 200"),
        ("/v1/recommend/u?k=many", 400, "k: "),
        ("/v1/recommend/u?k=" + "9" * 5000, 400, "k"),
        ("/v1/recommend/u?link=trending", 400, "no link 'trending'"),
        ("/v1/items/plain?neighbours=-1", 400, "neighbours must be between 0 and 200"),
        ("/v2/recommend/u", 404, "Not Found"),
    ],
)
def test_a_problem_is_told_in_a_sentence(client: Client, path: str, status: int, said: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert said in problem["detail"]


def test_a_wrong_method_says_which_is_allowed(client: Client) -> None:
    answer = client.post("/v1/recommend/u")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_ready_only_once_the_cache_has_caught_up() -> None:
    reasons = ["`parameters` is 120 records behind", None]
    client = Client(create_app(ParameterCache(), None, lambda: reasons[0]))
    assert client.get("/healthz").status_code == 200
    waiting = client.get("/readyz")
    assert (waiting.status_code, waiting.json()["detail"]) == (503, reasons[0])
    reasons.pop(0)
    assert client.get("/readyz").status_code == 200


def test_metrics_in_both_formats() -> None:
    registry = CollectorRegistry()
    Counter("answers", "Lists answered", registry=registry).inc(3)
    client = Client(create_app(ParameterCache(), registry, lambda: None))
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert "answers_total 3.0" in plain.text
    assert "# EOF" not in plain.text
    opened = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


def test_no_registry_no_metrics(client: Client) -> None:
    assert client.get("/metrics").status_code == 404


def test_every_answered_list_is_observed_by_its_source() -> None:
    seen: list[tuple[str, float]] = []
    client = Client(create_app(filled_cache(), None, lambda: None, observe=lambda source, seconds: seen.append((source, seconds))))
    for path in ("stranger", "a/b", "stranger?link=personal", "stranger?k=0"):
        client.get(f"/v1/recommend/{path}")
    assert [source for source, _ in seen] == ["popular", "similar", "none"]
    assert all(seconds > 0 for _, seconds in seen)


def test_the_lifespan_runs_around_the_app() -> None:
    events = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        events.append("up")
        yield
        events.append("down")

    async def run() -> None:
        app = create_app(ParameterCache(), None, lambda: None, lifespan)
        async with app.router.lifespan_context(app):
            events.append("serving")

    asyncio.run(run())
    assert events == ["up", "serving", "down"]


def test_the_schema_describes_the_answers(client: Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    listed = client.get("/v1/recommend/u").json()
    assert set(schemas["RecommendAnswer"]["properties"]) == set(listed)
    assert set(schemas["ListedItem"]["properties"]) == set(listed["items"][0])
    item = client.get("/v1/items/plain").json()
    assert set(schemas["ItemAnswer"]["properties"]) == set(item)
    assert set(schemas["NeighbourAnswer"]["properties"]) == set(item["neighbours"][0])


def test_status_says_what_was_asked_for() -> None:
    asked: list[tuple[bool, bool]] = []

    def status(reset: bool, freshness: bool) -> dict[str, object]:
        asked.append((reset, freshness))
        return {"versions": {"learner/0": 7}}

    client = Client(create_app(ParameterCache(), None, lambda: None, status=status))
    assert client.get("/v1/status").json() == {"versions": {"learner/0": 7}}
    assert client.get("/v1/status?reset=true&freshness=false").status_code == 200
    assert asked == [(False, True), (True, False)]
