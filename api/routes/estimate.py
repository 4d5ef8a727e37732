"""`POST /estimate`: what would become of a request, without its job."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET

from api.http.body import read_chat_request
from api.http.disconnect import ClientConnection
from api.http.errors import json_response, with_field
from api.openapi import ERRORS, ESTIMATE, request_body
from api.schemas import Estimate, Refusal, or_unset
from api.services import services_of
from shared.errors import QueueFull, WaitTooLong, status_code
from shared.protocol import ChatJob
from shared.queue.backlog import JobEstimate

router = APIRouter()


@router.post(
    "/estimate",
    summary="Estimate a request",
    responses={200: ESTIMATE, **{code: ERRORS[code] for code in (400, 404, 413, 415, 422, 503)}},
    openapi_extra=request_body("ChatRequest"),
)
async def estimate(request: Request) -> Response:
    """Return size and expected times of a request with the body of `/chat`. Nothing is enqueued.

    A body that `/chat` refuses gets the same error here. A refusal of the queue is part of the
    estimate.
    """
    services = services_of(request)
    body = await read_chat_request(request, services.settings.max_body_bytes, services.stopping)
    client = ClientConnection(request.receive, services.stopping)
    return json_response(to_estimate(*await services.client.estimate(body, client)))


def to_estimate(job: ChatJob, found: JobEstimate) -> Estimate:
    start_s, run_s = found.queue.expected_start_s, found.expected_run_s
    return Estimate(
        accepted=found.refusal is None,
        prompt_tokens=UNSET if job.token_ids is None else len(job.token_ids),
        max_new_tokens=or_unset(job.max_new_tokens),
        kv_tokens=job.cost_tokens or UNSET,
        position=found.queue.position,
        expected_start_s=or_unset(start_s),
        expected_end_s=UNSET if start_s is None or run_s is None else start_s + run_s,
        waiting_for=UNSET if found.queue.has_worker else "worker",
        error=UNSET if found.refusal is None else to_refusal(found.refusal),
    )


def to_refusal(error: QueueFull | WaitTooLong) -> Refusal:
    return Refusal(
        status_code=status_code(error),
        detail=with_field(error.field, error.message),
        retry_after_s=error.retry_after_s,
    )
