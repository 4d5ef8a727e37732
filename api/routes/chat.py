"""`POST /chat`: generate text, with the result, a job or a stream as the response."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.http.body import read_chat_request
from api.http.disconnect import ClientConnection
from api.http.headers import IdempotencyKey, Preference, PreferHeader, parse_prefer, prefers
from api.jobs.job_handle import JobHandle
from api.openapi import ACCEPTED, ERRORS, RESULT, request_body
from api.routes.responses import wait_as_preferred, wait_for_result, with_reuse
from api.routes.sse import EventStreamResponse
from api.services import Services, services_of

JSON = "application/json"

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request with an accepted job."""

    handle: JobHandle
    wants_stream: bool  # a stream of events instead of the result


@router.post(
    "/chat",
    summary="Generate text",
    responses={200: RESULT, 202: ACCEPTED, **ERRORS},
    openapi_extra=request_body("ChatRequest"),
)
async def chat(
    request: Request, prefer: PreferHeader = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Continue a prompt or answer a conversation.

    The response has the result, unless the `Prefer` header asks for a job. With `"stream": true` or
    `Accept: text/event-stream` it is a stream of events, and the last event has the result.
    """
    services = services_of(request)
    preference = parse_prefer(prefer, services.settings.sync_timeout_s)
    submitted = await read_and_submit(request, services, preference, idempotency_key)
    handle, cancel = submitted.handle, idempotency_key is None
    if submitted.wants_stream:
        stream = EventStreamResponse(
            services.client, handle, services.stopping, cancel_on_disconnect=cancel
        )
        return with_reuse(stream, handle)
    with handle:
        if preference.wait_s is None:
            answer = wait_for_result(request, services, handle, cancel_on_disconnect=cancel)
        else:
            answer = wait_as_preferred(
                request, services, handle, preference, cancel_on_disconnect=cancel
            )
        return with_reuse(await answer, handle)


async def read_and_submit(
    request: Request, services: Services, preference: Preference, idempotency_key: str | None
) -> Submitted:
    """Read the body and submit its job.

    The body, of megabytes perhaps, is freed on return, before the request waits for the job.
    """
    body = await read_chat_request(request, services.settings.max_body_bytes, services.stopping)
    is_plain = preference.wait_s is None
    wants_stream = is_plain and (body.stream or prefers(request, "text/event-stream", JSON))
    handle = await services.client.submit(
        body,
        ClientConnection(request.receive, services.stopping),
        wants_events=preference.wait_s != 0,
        stream=wants_stream or not is_plain,  # a client with a `Location` may ask for events
        idempotency_key=idempotency_key,
    )
    return Submitted(handle, wants_stream)
