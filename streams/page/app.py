"""The app behind the live page: its files, and the answers that its boxes ask for. What one box waits for, the others do not."""

import asyncio
import contextlib
import http.client
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, TypeVar
from urllib.parse import quote

import msgspec
from fastapi import FastAPI, Query, Request, Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from core.errors import FreshetError, SettingsError
from monitoring.scrape import Answer, get, reason
from streams.http import add_metrics
from streams.page.events import Event, EventSender
from streams.page.guard import Guard, body_of
from streams.page.letters import Letters, Replay
from streams.page.threads import Threads
from streams.page.watch import Watch
from streams.problems import add_problems, problem
from streams.settings import Settings

K = 10  # items of the list that is shown
SERVER_SECONDS, SERVER_THREADS = 3.0, 4
MOST_BODY_BYTES = 1 << 20
INDEX = "index.html"
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
SLUG = re.compile(r"[A-Za-z0-9_-]{1,100}")
T = TypeVar("T")


def create_page(s: Settings, registry: CollectorRegistry) -> FastAPI:
    """The app; it watches the processes as long as it runs."""
    watch, letters, sender, threads = Watch(s.metrics_targets), Letters(s), EventSender(s), Threads("lists", SERVER_THREADS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(watch.run())
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await letters.close()
        await sender.close()
        threads.close()

    app = FastAPI(title="Freshet, live", openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, own_name=s.http_host)
    add_problems(app)
    _add_errors(app)
    _add_files(app)
    _add_state(app, s, watch)
    _add_lists(app, s, threads)
    _add_events(app, sender)
    _add_letters(app, letters)
    add_metrics(app, registry)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(SettingsError)
    async def on_settings_error(request: Request, error: SettingsError) -> Response:
        return problem(409, str(error))

    @app.exception_handler(FreshetError)
    async def on_error(request: Request, error: FreshetError) -> Response:
        return problem(503, str(error))


def _add_files(app: FastAPI) -> None:
    for file in (files("monitoring") / "page").iterdir():
        if file.name.rpartition(".")[2] in TYPES:
            app.get("/" if file.name == INDEX else f"/{file.name}")(_answer_of(file))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/runbooks/{slug}")
    async def runbook(slug: str) -> Response:
        """What to do about an alert."""
        found = files("monitoring") / "runbooks" / f"{slug}.md"
        if not SLUG.fullmatch(slug) or not found.is_file():
            raise HTTPException(404, f"there is no runbook {slug!r}")
        return Response(found.read_bytes(), media_type="text/plain; charset=utf-8")


def _answer_of(file: Traversable) -> Callable[[], Awaitable[Response]]:
    content, media_type = file.read_bytes(), f"{TYPES[file.name.rpartition('.')[2]]}; charset=utf-8"

    async def answer() -> Response:
        return Response(content, media_type=media_type)

    return answer


def _add_state(app: FastAPI, s: Settings, watch: Watch) -> None:
    @app.get("/api/state")
    async def state(since: Annotated[float, Query(description="Unix seconds: only points that are newer")] = 0.0) -> Response:
        told = {"now": time.time(), "event_types": s.event_types, "bootstrap_servers": s.bootstrap_servers}
        return _json({**told, **watch.state(since)})


def _add_lists(app: FastAPI, s: Settings, threads: Threads) -> None:
    @app.get("/api/recommend/{user_id:path}")
    async def recommend(user_id: str) -> Response:
        """The server's answer, whatever it is."""
        url = f"{s.server_url.rstrip('/')}/v1/recommend/{quote(user_id, safe='')}?k={K}"
        try:
            answer: Answer = await threads.run(lambda: get(url, SERVER_SECONDS), 2 * SERVER_SECONDS)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HTTPException(503, f"the server at {s.server_url} does not answer: {reason(error)}") from error
        return Response(answer.body, answer.status, media_type=answer.content_type)


def _add_events(app: FastAPI, sender: EventSender) -> None:
    @app.post("/api/events")
    async def events(request: Request) -> Response:
        """Sent as it is: what ingest refuses becomes a dead letter."""
        return _json(await sender.send(await _parsed(request, Event)))


def _add_letters(app: FastAPI, letters: Letters) -> None:
    @app.get("/api/dead-letters")
    async def dead_letters() -> Response:
        return _json(await letters.answer())

    @app.post("/api/dead-letters/replay")
    async def replay(request: Request) -> Response:
        return _json(await letters.send_back(await _parsed(request, Replay)))


async def _parsed(request: Request, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(await body_of(request, MOST_BODY_BYTES), type=type_)
    except msgspec.MsgspecError as error:
        raise HTTPException(400, str(error)) from error


def _json(body: dict[str, object]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
