"""Who may ask the page: only itself. It has no password, so other sites must not reach it through the browser of whoever runs it."""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.problems import problem

OPEN_PATHS = ("/metrics", "/healthz")  # numbers and "ok", for machines that may call us by any name
HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Middleware: refuses other sites' requests, and gives every answer the HEADERS."""

    def __init__(self, app: ASGIApp, own_name: str) -> None:
        """`own_name`: what we are called besides localhost and addresses, which no other site can be."""
        self._app, self._own_name = app, own_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = None if scope["path"] in OPEN_PATHS else self._refusal(scope["method"], Headers(scope=scope))
        app = problem(*refused) if refused else self._app
        await app(scope, receive, _with_headers(send))

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason; None for a request that is welcome."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return 403, f"the page does not answer to the name {host!r}: open it by its address, as localhost, or as `http_host` says"
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, f"a page of {origin} asked, and this one is {host}: only its own requests are answered"
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "send application/json"
        return None

    def _is_ours(self, host: str) -> bool:
        """A name that another site could point at us is none of ours."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in ("localhost", self._own_name) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending


async def body_of(request: Request, most_bytes: int) -> bytes:
    """The body, as long as it is no longer than that.

    Raises:
        HTTPException: it is.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise HTTPException(413, f"the body has more than {most_bytes} bytes")
    return bytes(body)
