"""How a call that waits for a job ends: the result, a 202, an error, or silence."""

from fastapi import Request
from fastapi.responses import Response

from api.errors import error_response, json_response, named
from api.preferences import Preference
from api.schemas import ErrorBody, JobView
from api.services import Services
from api.ticket import Ticket
from api.waiting import CallerGone, ServerStopping, while_connected
from shared.errors import ServiceUnavailable, WaitTimeout
from shared.protocol import Failed, JobRecord, Outcome

CLIENT_CLOSED_REQUEST = 499  # nginx's code; nobody is there to read it, but it is counted


async def wait_for_result(
    request: Request, services: Services, ticket: Ticket, *, is_kept: bool
) -> Response:
    """The plain call: 200 with the result. A caller that goes away takes its job with it.

    Unless the job `is_kept`: others may wait for it, or the caller may come back for it.
    """
    timeout_s = services.settings.sync_timeout_s
    try:
        outcome = await while_connected(
            ticket.outcome(timeout_s), request.receive, services.stopping
        )
    except CallerGone:
        if not is_kept:
            await services.client.cancel_abandoned(ticket.job_id)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except ServerStopping:
        return stopping_response(ticket.job_id)
    if outcome is None:
        raise WaitTimeout(
            f"no result within {timeout_s:g} s; the job goes on, see /jobs/{ticket.job_id}",
            job_id=ticket.job_id,
        )
    return outcome_response(outcome)


async def wait_or_accept(
    request: Request, services: Services, ticket: Ticket, preference: Preference
) -> Response:
    """`Prefer: wait=N` or `respond-async`: the result if it is there in time, else 202."""
    headers = {"Preference-Applied": preference.applied} if preference.applied else {}
    wait_s = min(preference.wait_s or 0.0, services.settings.sync_timeout_s)
    outcome = None
    if wait_s:
        try:
            outcome = await while_connected(
                ticket.outcome(wait_s), request.receive, services.stopping
            )
        except CallerGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except ServerStopping:
            pass  # 202 it is
    response = accepted(ticket.record) if outcome is None else outcome_response(outcome)
    response.headers.update(headers)
    return response


def outcome_response(outcome: Outcome) -> Response:
    if not isinstance(outcome, Failed):
        return json_response(outcome.result)
    error = outcome.error
    return json_response(
        ErrorBody(named(error.field, error.message), outcome.job_id), error.status_code
    )


def accepted(record: JobRecord | None) -> Response:
    assert record is not None, "a submitted job has a record"
    return json_response(JobView.of(record), 202, {"Location": f"/jobs/{record.id}"})


def stopping_response(job_id: str) -> Response:
    error = ServiceUnavailable(
        f"the server is stopping; the job goes on, see /jobs/{job_id}", retry_after_s=1
    )
    return error_response(error)
