"""`/jobs/{id}/continue`: a new job that continues from the tokens of an ended one."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.http.body import read_request
from api.http.disconnect import ClientConnection
from api.http.paths import JobId
from api.openapi import ACCEPTED, ERRORS, request_body
from api.routes.responses import accepted
from api.schemas import ContinueRequest
from api.services import services_of

router = APIRouter()


@router.post(
    "/jobs/{job_id}/continue",
    status_code=202,
    summary="Continue a job",
    responses={
        202: ACCEPTED,
        **{code: ERRORS[code] for code in (400, 404, 409, 413, 415, 422, 429, 503)},
    },
    openapi_extra=request_body("ContinueRequest"),
)
async def continue_job(request: Request, job_id: JobId) -> Response:
    """Generate more tokens after the tokens of a job that succeeded, as a new job.

    Its result is that of the same request with so many more tokens. `origin` names the old job.
    """
    services = services_of(request)
    body = await read_request(
        request, ContinueRequest, services.settings.max_body_bytes, services.stopping
    )
    client = ClientConnection(request.receive, services.stopping)
    record = await services.derived.continue_job(job_id, body.max_new_tokens, client)
    return accepted(request, record)
