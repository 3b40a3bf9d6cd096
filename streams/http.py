"""The HTTP face of the serving cache: lists, items, health, metrics.

A list takes about 2 ms of the interpreter, which threads would not share, so handlers run in the loop.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Query, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from learners.cache import Item, ParameterCache
from learners.recommend import LINKS, Recommendations, RequestError
from streams.problems import PROBLEMS, Problem, add_problems

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]
Observe = Callable[[str, float], None]

K = 20  # items of a list, unless asked otherwise
NEIGHBOURS = 10


class ListedItem(BaseModel):
    item_id: str
    score: float = Field(description="Comparable within one link only")
    link: str = Field(description="What put the item in the list: " + ", ".join(LINKS))


class RecommendAnswer(BaseModel):
    user_id: str
    source: str = Field(description="The first link that gave something; `none` for an empty list")
    items: list[ListedItem] = Field(description="Best first")
    event_ms: int | None = Field(description="Event time of the newest event behind what was used")
    clock_ms: int = Field(description="Event time that the cache has reached")
    versions: dict[str, int] = Field(description="Writer -> rows of its input behind the answer")


class NeighbourAnswer(BaseModel):
    item_id: str
    similarity: float = Field(description="Cosine of the vectors, or share of the token prefix where a vector is missing")


class ItemAnswer(BaseModel):
    item_id: str
    tokens: list[int] | None
    codebook_version: int | None
    log2_popularity: float | None = Field(description="Comparable between items; null before the first event")
    first_ms: int | None
    start_ms: int | None
    end_ms: int | None
    event_ms: int = Field(description="Event time of the newest event behind what is known")
    neighbours: list[NeighbourAnswer]


Status = Callable[[bool, bool], dict[str, object]]  # reset, freshness


def create_app(
    cache: ParameterCache,
    registry: CollectorRegistry | None,
    ready: Callable[[], str | None],
    lifespan: Lifespan | None = None,
    observe: Observe | None = None,
    status: Status | None = None,
) -> FastAPI:
    """The app over a running cache.

    Args:
        registry: metrics to serve under /metrics; None leaves the path out.
        ready: None once the cache has caught up, else the reason why it has not.
        observe: told (source, seconds) of every list that was answered.
        status: what /v1/status answers; None leaves the path out.
    """
    app = FastAPI(title="Freshet", description="Recommendations from what was learned a moment ago.", lifespan=lifespan)
    add_problems(app)
    _add_recommend(app, cache, observe)
    _add_items(app, cache)
    _add_health(app, ready)
    if registry is not None:
        add_metrics(app, registry)
    if status is not None:
        _add_status(app, status)
    return app


def _add_recommend(app: FastAPI, cache: ParameterCache, observe: Observe | None) -> None:
    @app.get("/v1/recommend/{user_id:path}", response_model=RecommendAnswer, responses=PROBLEMS)
    async def recommend(
        user_id: str,
        k: Annotated[int, Query(description="Items at most")] = K,
        link: Annotated[list[str] | None, Query(description="Links to try, in order; none given: all")] = None,
    ) -> Response:
        """A list for a user; one who is not known gets what is popular."""
        began = time.perf_counter()
        answer = cache.recommend(_checked_id(user_id, "user_id"), k, link)
        if observe is not None:
            observe(answer.source, time.perf_counter() - began)
        return _json(_list_body(user_id, answer))


def _add_items(app: FastAPI, cache: ParameterCache) -> None:
    @app.get("/v1/items/{item_id:path}", response_model=ItemAnswer, responses=PROBLEMS)
    async def item(item_id: str, neighbours: Annotated[int, Query(description="Nearest items at most")] = NEIGHBOURS) -> Response:
        """What is known of an item."""
        known = cache.item(_checked_id(item_id, "item_id"), neighbours)
        if known is None:
            raise HTTPException(404, f"item {item_id!r} is not known: it was never in the catalogue or an event, or was removed")
        return _json(_item_body(known))


def _add_health(app: FastAPI, ready: Callable[[], str | None]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def readyz() -> dict[str, str]:
        """200 once the cache has caught up, 503 with the reason before."""
        reason = ready()
        if reason is not None:
            raise HTTPException(503, reason)
        return {"status": "ready"}


def add_metrics(app: FastAPI, registry: CollectorRegistry) -> None:
    """`/metrics` of this process."""

    @app.get("/metrics", response_class=Response)
    async def metrics(accept: Annotated[str, Header()] = "") -> Response:
        """Prometheus text, OpenMetrics where it is asked for."""
        encode, content_type = choose_encoder(accept)
        return Response(encode(registry), headers={"content-type": content_type})


def _add_status(app: FastAPI, status: Status) -> None:
    @app.get("/v1/status")
    async def answer(reset: bool = False, freshness: bool = True) -> Response:
        """How far the cache is, and how fresh: quantiles over the last events, or over those since a `reset`.

        Who asks often does without `freshness`: the quantiles take a millisecond.
        """
        return _json(status(reset, freshness))


def _checked_id(id_: str, name: str) -> str:
    if not id_:
        raise RequestError(f"{name} is missing: it is the rest of the path")
    return id_


def _json(body: dict[str, object]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _list_body(user_id: str, answer: Recommendations) -> dict[str, object]:
    return {
        "user_id": user_id,
        "source": answer.source,
        "items": [listed._asdict() for listed in answer.items],
        "event_ms": answer.event_ms,
        "clock_ms": answer.clock_ms,
        "versions": answer.versions,
    }


def _item_body(known: Item) -> dict[str, object]:
    return {
        "item_id": known.item_id,
        "tokens": known.tokens,
        "codebook_version": known.codebook_version,
        "log2_popularity": known.log2_popularity,
        "first_ms": known.first_ms,
        "start_ms": known.start_ms,
        "end_ms": known.end_ms,
        "event_ms": known.event_ms,
        "neighbours": [neighbour._asdict() for neighbour in known.neighbours],
    }
