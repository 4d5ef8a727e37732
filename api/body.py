"""Reads a request body within bounds and turns it into a ChatRequest; knows no route."""

import asyncio

from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from api.errors import describe
from api.schemas import ChatRequest
from api.waiting import until_stopping
from shared.errors import BadRequest, InvalidParameter, PayloadTooLarge, UnsupportedMediaType

BODY_TIMEOUT_S = 30.0


async def read_chat_request(
    request: Request, max_bytes: int, stopping: asyncio.Event
) -> ChatRequest:
    """Raises a ClientError that names what is wrong with the body, or ServerStopping."""
    check_media_type(request.headers.get("content-type"))
    body = await until_stopping(read_body(request, max_bytes), stopping)
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        if errors[0]["type"] == "json_invalid":
            raise BadRequest(errors[0]["msg"], field="body") from error
        at_root = not errors[0]["loc"]
        raise InvalidParameter(describe(errors), field="body" if at_root else None) from error


def check_media_type(content_type: str | None) -> None:
    """JSON, or nothing said; curl's default for -d is a form."""
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(
            f"the body should be JSON, got {media_type[:100]!r}; "
            "send the header Content-Type: application/json"
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """At most `max_bytes`, whether or not the caller announces the length."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > max_bytes):
        raise too_large(max_bytes)
    chunks, num_bytes = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise too_large(max_bytes)
                chunks.append(chunk)
    except TimeoutError:
        raise BadRequest(
            f"the body did not arrive within {BODY_TIMEOUT_S:g} s", field="body"
        ) from None
    except ClientDisconnect:
        raise BadRequest("the connection closed before its end", field="body") from None
    return b"".join(chunks)


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"should be at most {max_bytes} bytes", field="body")
