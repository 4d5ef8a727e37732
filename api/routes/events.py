"""`GET /jobs/{id}/events`: the events of a job, from any index, on any replica."""

from contextlib import ExitStack
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from api.http.paths import JobId
from api.openapi import EVENTS, LOOKUP_ERRORS
from api.routes.sse import EventStreamResponse
from api.services import services_of

MAX_EVENT_ID = 2**53 - 1  # exact in every JSON parser

router = APIRouter()

LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=MAX_EVENT_ID,
        description="The `id` of the last event that the client received; resume after it.",
    ),
]


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: EVENTS,
        204: {"description": "`Last-Event-ID` names the job's terminal event."},
        **LOOKUP_ERRORS,
    },
)
async def follow(request: Request, job_id: JobId, last_event_id: LastEventId = None) -> Response:
    """Stream the events of a queued, running or ended job, as the stream of `/chat` has them.

    A disconnect does not cancel the job.
    """
    services = services_of(request)
    with ExitStack() as stack:
        handle = stack.enter_context(await services.client.follow(job_id))
        start = 0 if last_event_id is None else last_event_id + 1
        if await handle.ended_before(start):
            return Response(status_code=204)
        stack.pop_all()  # the response closes the handle
    return EventStreamResponse(
        services.client, handle, services.stopping, cancel_on_disconnect=False, start=start
    )
