"""`/jobs`: submit without waiting, look, list, cancel, retry. Every replica answers for all."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.errors import (
    CLIENT_CLOSED_REQUEST,
    ClientDisconnected,
    ServerStopping,
    json_response,
)
from api.http.body import read_chat_request
from api.http.disconnect import Client
from api.http.headers import IdempotencyKey
from api.http.responses import accepted
from api.jobs.job_handle import JobHandle
from api.openapi import (
    ACCEPTED,
    ERRORS,
    JOB,
    JOBS,
    LOOKUP_ERRORS,
    PARAMETER_ERRORS,
    PURGED,
    RETRY_ERRORS,
    request_body,
)
from api.schemas import JobList, JobSummary, JobView, Purged
from api.services import Services, services_of
from shared.protocol import JobStatus
from shared.queue.listing import CURSOR_PATTERN, Cursor

MAX_WAIT_S = 3600
MAX_PAGE = 200
CANCEL_WAIT_S = 2.0  # a running job ends within one step of the engine

router = APIRouter()

WaitSeconds = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Wait for the end this long, s."),
]

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most jobs on the page.")]
CursorText = Annotated[
    str | None, Query(pattern=CURSOR_PATTERN, description="Where the last page says that it ended.")
]
Status = Annotated[JobStatus | None, Query(description="Only jobs in this status.")]


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
    handle = await services.client.submit(
        body,
        Client(request.receive, services.stopping),
        wants_events=False,
        stream=True,
        idempotency_key=idempotency_key,
    )
    with handle:
        return accepted(request, handle.record)


@router.get("/jobs", summary="List jobs", responses={200: JOBS, **PARAMETER_ERRORS})
async def list_jobs(
    request: Request, status: Status = None, limit: Limit = 50, cursor: CursorText = None
) -> Response:
    """The newest first, without results. A page may be short; the last has no `cursor`.

    Lists every job that waits or runs, and of each other status the 10,000 that were created last,
    for as long as their results are kept.
    """
    after = None if cursor is None else Cursor.parse(cursor)
    page = await services_of(request).client.page(status, limit, after)
    return json_response(
        JobList(
            jobs=[JobSummary.of(record) for record in page.records],
            cursor=None if page.cursor is None else str(page.cursor),
        )
    )


@router.delete("/jobs", summary="Purge the queue", responses={200: PURGED, **PARAMETER_ERRORS})
async def purge(request: Request, status: Literal["queued"]) -> Response:
    """Cancel all jobs that wait; those that run go on."""
    return json_response(Purged(cancelled=await services_of(request).client.purge()))


@router.get("/jobs/{job_id}", summary="Look at a job", responses={200: JOB, **LOOKUP_ERRORS})
async def look(request: Request, job_id: str, wait: WaitSeconds = 0) -> Response:
    """Status and, when it is done, the result; `wait` holds the answer back until then."""
    services = services_of(request)
    if not wait or request.method == "HEAD":
        return json_response(JobView.of(await services.client.record(job_id)))
    with await services.client.follow(job_id) as handle:
        return await view_after(request, services, handle, wait)


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel a job",
    responses={200: JOB, **LOOKUP_ERRORS},
)
async def cancel(request: Request, job_id: str) -> Response:
    """Stop a job, waiting or running; one that has ended stays as it is."""
    services = services_of(request)
    with await services.client.follow(job_id) as handle:
        handle.record = await services.client.cancel(job_id)
        return await view_after(request, services, handle, CANCEL_WAIT_S)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    summary="Retry a job",
    responses={202: ACCEPTED, **RETRY_ERRORS},
)
async def retry(request: Request, job_id: str) -> Response:
    """Enqueue a copy of a job that failed, expired or was cancelled: a new job, with a new id.

    `Location` and `id` name the new job, `retry_of` the old one, whose record gets `retried_as`. A
    job has one retry: a repeated request returns it. Should the retry fail, retry that job. The
    `Idempotency-Key` of the old job finds the new one from then on.
    """
    return accepted(request, await services_of(request).client.retry(job_id))


async def view_after(
    request: Request, services: Services, handle: JobHandle, wait_s: float
) -> Response:
    """The job as it is after its end, or after `wait_s`."""
    try:
        client = Client(request.receive, services.stopping)
        await client.run_until_disconnect(handle.outcome(wait_s))
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except ServerStopping:
        pass  # respond with the job as it is
    return json_response(JobView.of(await services.client.record(handle.job_id)))
