"""`GET /jobs/{id}/events`: a job as it is written, from any place, on every replica."""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from api.openapi import EVENTS, LOOKUP_ERRORS
from api.services import services_of
from api.sse import EventStreamResponse
from api.transcript import MAX_INDEX, start_after

router = APIRouter()

LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=MAX_INDEX,
        description="The `id` of the last event that arrived: go on after it.",
    ),
]


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: EVENTS,
        204: {"description": "`Last-Event-ID` names the job's end, and it was not retried since."},
        **LOOKUP_ERRORS,
    },
)
async def follow(request: Request, job_id: str, last_event_id: LastEventId = None) -> Response:
    """The events of a job that waits, runs or has ended, as the stream of `/chat` has them.

    A caller that goes away leaves the job as it is.
    """
    services = services_of(request)
    ticket = await services.client.follow(job_id)
    start = start_after(last_event_id, ticket.record)
    if start is None:
        ticket.close()
        return Response(status_code=204)
    return EventStreamResponse(
        services.client, ticket, services.stopping, is_kept=True, start=start
    )
