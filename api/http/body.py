"""Read a request body within limits, and validate it as a ChatRequest."""

import asyncio
from codecs import BOM_UTF8
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.content_coding import decoder_of
from api.http.disconnect import run_until_stopping
from api.http.errors import describe, failure_response
from api.http.headers import parameters, split
from api.schemas import ChatRequest
from shared.errors import BadRequest, InvalidParameter, PayloadTooLarge, UnsupportedMediaType

BODY_TIMEOUT_S = 30.0
JSON = "application/json"
CHARSETS = {"utf-8", "utf8", "us-ascii"}  # ASCII is a part of UTF-8
T = TypeVar("T", bound=BaseModel)

LENGTHS = {b"content-length", b"transfer-encoding"}


class BodyLength:
    """ASGI middleware that rejects a request with two body lengths.

    A proxy that uses the other length passes on the rest of the body as another request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and LENGTHS <= {name for name, _ in scope["headers"]}:
            app = failure_response(
                Request(scope),
                400,
                "must not be sent together with Transfer-Encoding",
                field="Content-Length",
                headers={"Connection": "close"},
            )
        await app(scope, receive, send)


async def read_chat_request(
    request: Request, max_bytes: int, stopping: asyncio.Event
) -> ChatRequest:
    """Return the valid body of `/chat`. Raises what `read_request` raises."""
    return await read_request(request, ChatRequest, max_bytes, stopping)


async def read_request(
    request: Request, model: type[T], max_bytes: int, stopping: asyncio.Event
) -> T:
    """Return the valid body. Raises a ClientError that names the field, or ServerStopping."""
    try:
        return await read_model(request, model, max_bytes, stopping)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        at_root = not errors[0]["loc"]
        raise InvalidParameter(describe(errors), field="body" if at_root else None) from error


async def read_model(
    request: Request, model: type[T], max_bytes: int, stopping: asyncio.Event
) -> T:
    """Return the body as a model.

    Raises pydantic's ValidationError for an object that is no valid model, a ClientError for any
    other invalid body, or ServerStopping.
    """
    check_content_type(content_type_of(request.headers))
    body = await run_until_stopping(read_body(request, max_bytes), stopping)
    try:
        return model.model_validate_json(body.removeprefix(BOM_UTF8))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(first["msg"], field="body") from error
        raise


def content_type_of(headers: Headers) -> str:
    """Return the content type. The default is JSON, except for web pages.

    Browsers let a page of any origin send a body without a type, without a preflight request.
    """
    return headers.get("content-type") or (JSON if "origin" not in headers else "")


def check_content_type(content_type: str) -> None:
    """Raise UnsupportedMediaType unless the type is JSON in UTF-8."""
    name, *rest = split(content_type, ";")
    media_type, charset = name.strip().lower(), parameters(rest).get("charset", "utf-8")
    if media_type != JSON and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            f"the body must be JSON, got {media_type[:100]!r}; "
            "send the header Content-Type: application/json",
            headers={"Accept": JSON},
        )
    if charset.lower() not in CHARSETS:
        raise UnsupportedMediaType(
            f"the body must be UTF-8, got the charset {charset[:100]!r}", headers={"Accept": JSON}
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the decompressed body: at most `max_bytes`, compressed and decompressed."""
    decoder = decoder_of(request.headers.getlist("content-encoding"))
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > max_bytes):
        raise too_large(max_bytes)
    chunks, num_received, num_bytes = [], 0, 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                num_received += len(chunk)
                if decoder is not None:
                    chunk = decoder.decode(chunk, max_bytes)
                num_bytes += len(chunk)
                if max(num_received, num_bytes) > max_bytes:
                    raise too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise BadRequest(f"must arrive within {BODY_TIMEOUT_S:g} s", field="body") from None
    except ClientDisconnect:
        raise BadRequest("must be complete, but the client disconnected", field="body") from None
    if decoder is not None:
        decoder.finish()
    return b"".join(chunks)


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"must be at most {max_bytes} bytes", field="body")
