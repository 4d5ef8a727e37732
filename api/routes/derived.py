"""`/jobs/{id}/continue`, `/fork` and `/replay`: new jobs from the tokens of an ended one."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.http.body import read_request
from api.http.disconnect import ClientConnection
from api.http.headers import IdempotencyKey
from api.http.paths import JobId
from api.openapi import ACCEPTED, ERRORS, Responses, request_body
from api.routes.responses import accepted
from api.schemas import ContinueRequest, ForkRequest
from api.services import services_of

RESPONSES: Responses = {
    202: ACCEPTED,
    **{code: ERRORS[code] for code in (400, 404, 409, 413, 415, 422, 429, 503)},
}

router = APIRouter()


@router.post(
    "/jobs/{job_id}/continue",
    status_code=202,
    summary="Continue a job",
    responses=RESPONSES,
    openapi_extra=request_body("ContinueRequest"),
)
async def continue_job(
    request: Request, job_id: JobId, idempotency_key: IdempotencyKey = None
) -> Response:
    """Generate more tokens after the tokens of a job that succeeded, as a new job.

    Its result is that of the same request with so many more tokens. `origin` names the old job.
    """
    services = services_of(request)
    body = await read_request(
        request, ContinueRequest, services.settings.max_body_bytes, services.stopping
    )
    client = ClientConnection(request.receive, services.stopping)
    record = await services.derived.continue_job(
        job_id, body.max_new_tokens, client, idempotency_key
    )
    return accepted(request, record)


@router.post(
    "/jobs/{job_id}/fork",
    status_code=202,
    summary="Fork a job",
    responses=RESPONSES,
    openapi_extra=request_body("ForkRequest"),
)
async def fork_job(
    request: Request, job_id: JobId, idempotency_key: IdempotencyKey = None
) -> Response:
    """Generate another ending of a job that succeeded, as a new job.

    It keeps the first `at` tokens. `generate_kwargs` changes parameters of the tokens that follow.
    """
    services = services_of(request)
    body = await read_request(
        request, ForkRequest, services.settings.max_body_bytes, services.stopping
    )
    client = ClientConnection(request.receive, services.stopping)
    record = await services.derived.fork(
        job_id, body.at, body.generate_kwargs, client, idempotency_key
    )
    return accepted(request, record)


@router.post(
    "/jobs/{job_id}/replay",
    status_code=202,
    summary="Replay a job",
    responses={202: ACCEPTED, **{code: RESPONSES[code] for code in (400, 404, 409, 422, 429, 503)}},
)
async def replay_job(
    request: Request, job_id: JobId, idempotency_key: IdempotencyKey = None
) -> Response:
    """Run a job that succeeded again, with its seed, as a new job.

    At its end `replay` says whether all tokens are identical, or names the first other token, with
    worker and model of both runs.
    """
    services = services_of(request)
    client = ClientConnection(request.receive, services.stopping)
    record = await services.derived.replay(job_id, client, idempotency_key)
    return accepted(request, record)
