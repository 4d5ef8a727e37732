"""Error responses: one readable line, below `/v1` in the form of OpenAI's interface."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api.http.paths import route_path
from api.openai.fields import UNSUPPORTED
from api.openai.schemas import (
    OpenAIErrorBody,
    is_openai_path,
    openai_code,
    openai_error,
    openai_status,
)
from api.schemas import ErrorBody
from shared.errors import ClientError, FalconerError, InvalidParameter, status_code

MAX_LISTED = 5  # errors in one response; further errors are counted
MAX_SHOWN = 100  # characters of a name or number of the request

# Pydantic's messages use the terms of Python, and clients send JSON.
SUBJECT = re.compile("(Input|String|List|Tuple) should")
IN_JSON = {"True": "true", "False": "false", "'": '"', " after validation": ""}

REQUEST_ID = "x-request-id"  # OpenAI's SDK shows it
PARAMETER_CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    UNSUPPORTED: "unsupported_parameter",
}
CLIENT_CLOSED_REQUEST = 499  # nginx's code, for the metrics: the client has disconnected
STOPPING = {"Retry-After": "1", "Connection": "close"}

log = structlog.get_logger(__name__)


class ClientDisconnected(Exception):
    """The client closed the connection before its response was complete."""


class ServerStopping(Exception):
    """The server shuts down, and the grace period of open requests is over."""


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        msgspec.json.encode(body), status, dict(headers or {}), media_type="application/json"
    )


def error_response(request: Request, error: FalconerError) -> Response:
    """Convert an error of the tree in `shared/errors.py`."""
    headers = dict(getattr(error, "headers", {}))
    if (retry_after_s := getattr(error, "retry_after_s", None)) is not None:
        headers["Retry-After"] = str(retry_after_s)
    return failure_response(
        request,
        status_code(error),
        error.message,
        field=error.field if isinstance(error, ClientError) else None,
        code=openai_code(error),
        job_id=getattr(error, "job_id", None),
        headers=headers,
    )


def failure_response(
    request: Request,
    status: int,
    message: str,
    *,
    field: str | None = None,
    code: str | None = None,
    job_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in the form of the path; `code` is part of OpenAI's form only."""
    body: OpenAIErrorBody | ErrorBody
    if is_openai_path(route_path(request.scope)):
        status = openai_status(status)
        body = openai_error(status, message, param=field, code=code)
        headers = {**(headers or {}), **echoed_request_id(request)}
    else:
        body = ErrorBody(with_field(field, message), job_id)
    return json_response(body, status, headers)


def echoed_request_id(request: Request) -> dict[str, str]:
    """Return the header with the id that the client gave its request, if any."""
    request_id = request.headers.get(REQUEST_ID)
    return {} if request_id is None else {REQUEST_ID: request_id}


def with_field(field: str | None, message: str) -> str:
    return f"{field}: {message}" if field else message


def describe(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return pydantic's errors in one line, each with its field and its limit."""
    lines = [
        with_field(".".join(str(part)[:MAX_SHOWN] for part in error["loc"]), reason(error))
        for error in errors[:MAX_LISTED]
    ]
    if len(errors) > MAX_LISTED:
        lines.append(f"and {len(errors) - MAX_LISTED} more")
    return "; ".join(lines)


def reason(error: Mapping[str, Any]) -> str:
    """Return why a value is invalid, with the value if it is a number."""
    if error["type"] == "extra_forbidden":
        return "unknown parameter"
    message, value = in_json_words(str(error["msg"])), error["input"]
    if not isinstance(value, int | float):
        return message  # without the value: a text may be long or private
    shown = json.dumps(value)
    return f"{message}, got {shown[:MAX_SHOWN]}{'…' * (len(shown) > MAX_SHOWN)}"


def parameter_error(error: ValidationError) -> InvalidParameter:
    """Return the error of a body below `/v1`: its first invalid field, with OpenAI's code."""
    first = error.errors(include_url=False, include_context=False)[0]
    return InvalidParameter(
        reason(first),
        field=".".join(str(part)[:MAX_SHOWN] for part in first["loc"]) or "body",
        code=PARAMETER_CODES.get(first["type"], "invalid_value"),
    )


def in_json_words(message: str) -> str:
    message = SUBJECT.sub("must", message)
    for python, word in IN_JSON.items():
        message = message.replace(python, word)
    return message


def stopping_response(job_id: str) -> Response:
    """Return the response to a request that waits for a job when the server shuts down."""
    return json_response(ErrorBody(stopping_message(job_id), job_id), 503, STOPPING)


def stopping_message(*job_ids: str) -> str:
    state = going_on(*job_ids) if job_ids else "nothing was accepted"
    return f"the server is stopping; {state}"


def going_on(*job_ids: str) -> str:
    """Return that jobs continue without this response, and where to find each of them."""
    subject = "the job goes on" if len(job_ids) == 1 else "the jobs go on"
    return f"{subject}, see {', '.join(f'/jobs/{job_id}' for job_id in job_ids)}"


def install_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(FalconerError)
    async def _named_failure(request: Request, error: FalconerError) -> Response:
        return error_response(request, error)

    @app.exception_handler(ServerStopping)
    async def _stopping(request: Request, error: ServerStopping) -> Response:
        return failure_response(request, 503, stopping_message(), headers=STOPPING)

    @app.exception_handler(ClientDisconnected)
    async def _disconnected(request: Request, error: ClientDisconnected) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(RequestValidationError)
    async def _bad_parameter(request: Request, error: RequestValidationError) -> Response:
        # Path, query and header; bodies are validated in `api/http/body.py`.
        errors = [{**item, "loc": item["loc"][1:]} for item in error.errors()]
        return failure_response(request, 422, describe(errors))

    @app.exception_handler(HTTPException)
    async def _no_such_route(request: Request, error: HTTPException) -> Response:
        return failure_response(
            request, error.status_code, str(error.detail), headers=error.headers
        )

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        log.error("unexpected failure", path=request.url.path, exc_info=error)
        return failure_response(request, 500, "internal error, see the log of the server")
