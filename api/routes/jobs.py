"""`/jobs`: submit, get, list, purge, cancel and retry jobs, on any replica."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.http.body import read_chat_request
from api.http.disconnect import ClientConnection
from api.http.errors import json_response
from api.http.headers import IdempotencyKey
from api.http.paths import JobId
from api.openapi import (
    ACCEPTED,
    ERRORS,
    JOB,
    JOBS,
    LOOKUP_ERRORS,
    PARAMETER_ERRORS,
    PURGED,
    RETRY_ERRORS,
    TRAIL,
    request_body,
)
from api.routes.responses import CANCEL_WAIT_S, accepted, record_when_ended, with_reuse
from api.schemas import (
    MAX_MODEL_NAME,
    JobList,
    JobSummary,
    JobView,
    Purged,
    Trail,
    TrailEvent,
)
from api.services import services_of
from shared.protocol import JobStatus
from shared.queue.listing import CURSOR_PATTERN, Cursor

MAX_WAIT_S = 3600
MAX_PAGE = 200

router = APIRouter()

WaitSeconds = Annotated[
    float,
    Query(
        ge=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds to wait for its end.",
    ),
]

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of jobs on the page.")]
CursorText = Annotated[
    str | None, Query(pattern=CURSOR_PATTERN, description="The `cursor` of the page before.")
]
ModelName = Annotated[
    str | None,
    Query(max_length=MAX_MODEL_NAME, description="Only jobs of this model."),
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
    """Submit a request with the body of `/chat`. `Location` is the path of the job."""
    services = services_of(request)
    body = await read_chat_request(request, services.settings.max_body_bytes, services.stopping)
    handle = await services.client.submit(
        body,
        ClientConnection(request.receive, services.stopping),
        wants_events=False,
        stream=True,
        idempotency_key=idempotency_key,
    )
    with handle:
        return with_reuse(accepted(request, handle.record), handle)


@router.get(
    "/jobs", summary="List jobs", responses={200: JOBS, 404: ERRORS[404], **PARAMETER_ERRORS}
)
async def list_jobs(
    request: Request,
    status: Status = None,
    model: ModelName = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    """List jobs without their results, the newest first.

    A page may be short; the `cursor` of the last page is null. The list has every queued and
    running job, and the latest 10,000 jobs of each other status whose results are kept.
    """
    after = None if cursor is None else Cursor.parse(cursor)
    services = services_of(request)
    wanted = None if model is None else await services.models.find(model)
    page = await services.client.page(status, limit, after)
    return json_response(
        JobList(
            jobs=[
                JobSummary.of(record)
                for record in page.records
                if wanted is None or services.models.of_job(record.model) is wanted
            ],
            cursor=None if page.cursor is None else str(page.cursor),
        )
    )


@router.delete("/jobs", summary="Purge the queue", responses={200: PURGED, **PARAMETER_ERRORS})
async def purge(request: Request, status: Literal["queued"]) -> Response:
    """Cancel all queued jobs. Running jobs continue."""
    return json_response(Purged(cancelled=await services_of(request).client.purge()))


@router.get("/jobs/{job_id}", summary="Get a job", responses={200: JOB, **LOOKUP_ERRORS})
async def get_job(request: Request, job_id: JobId, wait: WaitSeconds = 0) -> Response:
    """Get the status of a job, and its result once it has succeeded.

    `wait` delays the response until the job ends.
    """
    services = services_of(request)
    if not wait or request.method == "HEAD":
        return json_response(JobView.of(await services.client.record(job_id)))
    with await services.client.follow(job_id) as handle:
        return json_response(JobView.of(await record_when_ended(request, services, handle, wait)))


@router.get(
    "/jobs/{job_id}/trail", summary="Get a job's trail", responses={200: TRAIL, **LOOKUP_ERRORS}
)
async def get_trail(request: Request, job_id: JobId) -> Response:
    """Get the events of a job in order: claims, starts, lost leases, releases, and its end."""
    entries = await services_of(request).client.trail(job_id)
    return json_response(Trail(id=job_id, events=[TrailEvent.of(entry) for entry in entries]))


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel a job",
    responses={200: JOB, **LOOKUP_ERRORS},
)
async def cancel(request: Request, job_id: JobId) -> Response:
    """Cancel a queued or running job. A job that has ended stays as it is."""
    services = services_of(request)
    with await services.client.follow(job_id) as handle:
        handle.record = await services.client.cancel(job_id)
        record = await record_when_ended(request, services, handle, CANCEL_WAIT_S)
        return json_response(JobView.of(record))


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    summary="Retry a job",
    responses={202: ACCEPTED, **RETRY_ERRORS},
)
async def retry(request: Request, job_id: JobId) -> Response:
    """Run a job that failed, expired or was cancelled again, as a new job with a new id.

    `retry_of` names the old job; its record gets `retried_as`. A job has one retry: a repeated
    request returns it. If the retry fails, retry the new job. The `Idempotency-Key` of the old job
    finds the new job from then on.
    """
    return accepted(request, await services_of(request).client.retry(job_id))
