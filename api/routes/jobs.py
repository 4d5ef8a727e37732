"""`/jobs`: submit without waiting, look, wait a while, cancel. Every replica answers for all."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.answers import CLIENT_CLOSED_REQUEST, accepted
from api.body import read_chat_request
from api.errors import json_response
from api.openapi import ACCEPTED, ERRORS, JOB, LOOKUP_ERRORS, request_body
from api.routes.chat import IdempotencyKey
from api.schemas import JobView
from api.services import Services, services_of
from api.ticket import Ticket
from api.waiting import CallerGone, ServerStopping, while_connected

MAX_WAIT_S = 3600
CANCEL_WAIT_S = 2.0  # a running job ends within one step of the engine

router = APIRouter()

WaitSeconds = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Wait for the end this long, s."),
]


@router.post(
    "/jobs",
    status_code=202,
    summary="Submit a job",
    responses={202: ACCEPTED, **ERRORS},
    openapi_extra=request_body("ChatRequest"),
)
async def submit(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Same body as `/chat`; answers at once. Look under `Location` for the result."""
    services = services_of(request)
    body = await read_chat_request(request, services.settings.max_body_bytes, services.stopping)
    ticket = await services.client.submit(
        body, is_awaited=False, stream=body.stream, idempotency_key=idempotency_key
    )
    with ticket:
        return accepted(ticket.record)


@router.get("/jobs/{job_id}", summary="Look at a job", responses={200: JOB, **LOOKUP_ERRORS})
async def look(request: Request, job_id: str, wait: WaitSeconds = 0) -> Response:
    """Status and, when it is done, the result; `wait` holds the answer back until then."""
    services = services_of(request)
    if not wait:
        return json_response(JobView.of(await services.client.record(job_id)))
    with await services.client.follow(job_id) as ticket:
        return await view_after(request, services, ticket, wait)


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel a job",
    responses={200: JOB, **LOOKUP_ERRORS},
)
async def cancel(request: Request, job_id: str) -> Response:
    """Stop a job, waiting or running; one that has ended stays as it is."""
    services = services_of(request)
    with await services.client.follow(job_id) as ticket:
        ticket.record = await services.client.cancel(job_id)
        return await view_after(request, services, ticket, CANCEL_WAIT_S)


async def view_after(
    request: Request, services: Services, ticket: Ticket, wait_s: float
) -> Response:
    """The job as it is after its end, or after `wait_s`."""
    try:
        await while_connected(ticket.outcome(wait_s), request.receive, services.stopping)
    except CallerGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except ServerStopping:
        pass  # it gets the job as it is now
    return json_response(JobView.of(await services.client.record(ticket.job_id)))
