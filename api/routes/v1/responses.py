"""`/v1/responses`: OpenAI's responses on durable jobs, from any replica."""

from contextlib import ExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.http.errors import json_response
from api.http.headers import IdempotencyKey
from api.http.paths import JobId
from api.openai.responses.objects import (
    DeletedResponse,
    InputTokenCount,
    ItemList,
    MessageItem,
)
from api.openai.responses.request import Include, ResponseRequest
from api.openai.responses.view import ResponseView
from api.openapi import (
    DELETED_RESPONSE,
    INPUT_ITEMS,
    INPUT_TOKENS,
    OPENAI_BODY_ERRORS,
    OPENAI_ERRORS,
    OPENAI_LOOKUP_ERRORS,
    RESPONSE,
    request_body,
)
from api.routes.events import MAX_EVENT_ID
from api.routes.responses import CANCEL_WAIT_S, record_when_ended
from api.routes.v1.chunk_stream import ChunkStreamResponse
from api.routes.v1.request_jobs import RequestJobs, outcomes_or_error, read_openai_request
from api.routes.v1.response_jobs import (
    count_tokens,
    earlier_conversation,
    ended_record,
    event_stream,
    stored_response,
    submit_response,
)
from api.services import services_of
from shared.errors import InvalidParameter

MAX_PAGE = 100
MAX_SHOWN = 64  # characters of an id in an error message

router = APIRouter()

Includes = Annotated[
    list[Include] | None,
    Query(alias="include[]", description="No effect: the request decides about both."),
]
Stream = Annotated[bool, Query(description="Stream the events of the response.")]
StartingAfter = Annotated[
    int | None,
    Query(
        ge=0,
        le=MAX_EVENT_ID,
        description="With `stream`: the `sequence_number` after which the stream begins.",
    ),
]
NoObfuscation = Annotated[
    Literal["false"] | None, Query(description="Only false: events are not padded.")
]
PageLimit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of items.")]
Order = Annotated[Literal["asc", "desc"], Query(description="`desc`: the newest first.")]
After = Annotated[str | None, Query(description="The `last_id` of the page before.")]


@router.post(
    "/v1/responses",
    summary="Respond to an input",
    responses={200: RESPONSE, **OPENAI_ERRORS},
    openapi_extra=request_body("ResponseRequest"),
)
async def create(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Respond to a text or a conversation, as OpenAI's interface does.

    With `background`, return the queued response at once. Without, a disconnect cancels the job.
    """
    services = services_of(request)
    body = await read_openai_request(request, services, ResponseRequest)
    jobs, shape = await submit_response(request, services, body, idempotency_key)
    body = body.for_answer()  # frees the input before the request waits
    if body.stream:
        return ChunkStreamResponse(request, jobs, event_stream(jobs, shape))
    with jobs:
        record = jobs.handles[0].record
        if not body.background:
            ended = await outcomes_or_error(request, jobs, body)
            if isinstance(ended, Response):
                return ended
            record = await ended_record(jobs, ended[0])
        assert record is not None, "a submitted job has a record"
        view = ResponseView(shape, await jobs.head())
        return json_response(view.response(record), headers=jobs.headers(request))


@router.post(
    "/v1/responses/input_tokens",
    summary="Count the tokens of an input",
    responses={200: INPUT_TOKENS, **OPENAI_BODY_ERRORS},
    openapi_extra=request_body("ResponseRequest"),
)
async def input_tokens(request: Request) -> Response:
    """Count the tokens of a prompt, however many, with the body of `/v1/responses`.

    Fields that do not change the prompt have no effect.
    """
    services = services_of(request)
    body = await read_openai_request(request, services, ResponseRequest)
    earlier = await earlier_conversation(services, body.previous_response_id)
    num_tokens = await count_tokens(request, services, body, earlier)
    return json_response(InputTokenCount(input_tokens=num_tokens))


@router.get(
    "/v1/responses/{response_id}",
    summary="Get a response",
    responses={200: RESPONSE, **OPENAI_LOOKUP_ERRORS},
)
async def retrieve(
    request: Request,
    response_id: JobId,
    stream: Stream = False,
    starting_after: StartingAfter = None,
    include: Includes = None,
    include_obfuscation: NoObfuscation = None,
) -> Response:
    """Get a response, or the stream of its events from any event on.

    A disconnect does not cancel the response.
    """
    if starting_after is not None and not stream:
        raise InvalidParameter("must not be given without stream", field="starting_after")
    services = services_of(request)
    shape = (await stored_response(services, response_id)).shape
    if stream and not shape.has_log:
        reason = "the response was created without stream and background"
        raise InvalidParameter(reason, field="stream")
    with ExitStack() as stack:
        handle = stack.enter_context(await services.client.follow(response_id))
        jobs = RequestJobs(services, [handle], outlive_client=True)
        if stream:
            stack.pop_all()  # the response closes the handle
            after = -1 if starting_after is None else starting_after
            return ChunkStreamResponse(request, jobs, event_stream(jobs, shape, after))
        assert handle.record is not None, "a job that is followed has a record"
        view = ResponseView(shape, await jobs.head())
        return json_response(view.response(handle.record), headers=jobs.headers(request))


@router.post(
    "/v1/responses/{response_id}/cancel",
    summary="Cancel a response",
    responses={200: RESPONSE, **OPENAI_LOOKUP_ERRORS},
)
async def cancel(request: Request, response_id: JobId) -> Response:
    """Cancel a queued or running response. A response that has ended stays as it is."""
    services = services_of(request)
    shape = (await stored_response(services, response_id)).shape
    with await services.client.follow(response_id) as handle:
        handle.record = await services.client.cancel(response_id)
        record = await record_when_ended(request, services, handle, CANCEL_WAIT_S)
        jobs = RequestJobs(services, [handle], outlive_client=True)
        view = ResponseView(shape, await jobs.head())
        return json_response(view.response(record), headers=jobs.headers(request))


@router.delete(
    "/v1/responses/{response_id}",
    summary="Delete a response",
    responses={200: DELETED_RESPONSE, **OPENAI_LOOKUP_ERRORS},
)
async def delete(request: Request, response_id: JobId) -> Response:
    """Cancel a response unless it has ended, and delete its input and its output."""
    services = services_of(request)
    await stored_response(services, response_id)
    await services.client.delete(response_id)
    return json_response(DeletedResponse(id=f"resp_{response_id}"))


@router.get(
    "/v1/responses/{response_id}/input_items",
    summary="List input items",
    responses={200: INPUT_ITEMS, **OPENAI_LOOKUP_ERRORS},
)
async def input_items(
    request: Request,
    response_id: JobId,
    limit: PageLimit = 20,
    order: Order = "desc",
    after: After = None,
    include: Includes = None,
) -> Response:
    """List the messages that the model read, with the messages of earlier responses."""
    stored = await stored_response(services_of(request), response_id)
    items = stored.input_items(response_id)
    return json_response(item_page(items if order == "asc" else items[::-1], limit, after))


def item_page(items: list[MessageItem], limit: int, after: str | None) -> ItemList:
    """Return the items behind `after`. Raises InvalidParameter for the id of no item."""
    start = 0
    if after is not None:
        ids = [item.id for item in items]
        if after not in ids:
            raise InvalidParameter(f"no input item {after[:MAX_SHOWN]!r}", field="after")
        start = ids.index(after) + 1
    page = items[start : start + limit]
    return ItemList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=start + limit < len(items),
    )
