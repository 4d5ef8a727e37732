"""Every failure as an HTTP answer: one readable line in `detail`, never a stack trace."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from api.schemas import ErrorBody
from shared.errors import ClientError, FalconerError, PayloadTooLarge, status_code

MAX_LISTED = 5  # errors named in one answer
MAX_NAME = 100  # characters of a name that the caller chose

log = structlog.get_logger(__name__)


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        msgspec.json.encode(body), status, dict(headers or {}), media_type="application/json"
    )


def error_response(error: FalconerError) -> Response:
    """The one translation from the error tree to HTTP."""
    field = error.field if isinstance(error, ClientError) else None
    body = ErrorBody(named(field, error.message), getattr(error, "job_id", None))
    headers = {}
    if (retry_after_s := getattr(error, "retry_after_s", None)) is not None:
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, PayloadTooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    return json_response(body, status_code(error), headers)


def named(field: str | None, message: str) -> str:
    return f"{field}: {message}" if field else message


def describe(errors: Sequence[Mapping[str, Any]]) -> str:
    """Pydantic's errors as one line that names each field and its limit."""
    lines = [
        named(".".join(str(part)[:MAX_NAME] for part in error["loc"]), reason(error))
        for error in errors[:MAX_LISTED]
    ]
    if len(errors) > MAX_LISTED:
        lines.append(f"and {len(errors) - MAX_LISTED} more")
    return "; ".join(lines)


def reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown parameter"
    message = str(error["msg"]).replace("Input should", "should")
    value = error["input"]
    # Numbers help to see the mistake; texts are not repeated, they may be long or private.
    return f"{message}, got {value!r}" if isinstance(value, int | float) else message


def install_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(FalconerError)
    async def _named_failure(request: Request, error: FalconerError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _bad_parameter(request: Request, error: RequestValidationError) -> Response:
        # Path, query and header; bodies are validated in `api/body.py`.
        errors = [{**item, "loc": item["loc"][1:]} for item in error.errors()]
        return json_response(ErrorBody(describe(errors)), 422)

    @app.exception_handler(HTTPException)
    async def _no_such_route(request: Request, error: HTTPException) -> Response:
        return json_response(ErrorBody(str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        log.error("unexpected failure", path=request.url.path, exc_info=error)
        return json_response(ErrorBody("internal error; the server's log says more"), 500)
