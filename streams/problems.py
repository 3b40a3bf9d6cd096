"""How our HTTP faces say no: problem details (RFC 9457)."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from learners.recommend import RequestError


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="What is wrong, and what would do")


PROBLEMS: dict[int | str, dict[str, Any]] = {400: {"model": Problem}, 404: {"model": Problem}}


def add_problems(app: FastAPI) -> None:
    """Every refusal of the app is a problem."""

    @app.exception_handler(RequestError)
    async def on_request_error(request: Request, error: RequestError) -> Response:
        return problem(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        return problem(400, "; ".join(_fault(e["loc"], e["msg"], e["input"]) for e in error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, error.detail, error.headers)


def problem(status: int, detail: str, headers: Any = None) -> Response:
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(body.model_dump_json(), status, headers, media_type="application/problem+json")


def _fault(location: Sequence[str | int], message: str, given: object) -> str:
    return f"{location[-1]}: {message} (got {given!r})"
