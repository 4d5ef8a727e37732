"""How a call that waits for a job ends: the result, a 202, an error, or silence."""

from fastapi import Request
from fastapi.responses import Response

from api.errors import CLIENT_CLOSED_REQUEST, json_response, named, stopping_response
from api.http.disconnect import ClientDisconnected, ServerStopping, run_until_disconnect
from api.http.headers import Preference
from api.http.paths import job_path
from api.jobs.job_handle import JobHandle
from api.schemas import ErrorBody, JobView
from api.services import Services
from shared.errors import ServiceUnavailable, WaitTimeout
from shared.protocol import Failed, JobRecord, Outcome


async def wait_for_result(
    request: Request, services: Services, handle: JobHandle, *, is_kept: bool
) -> Response:
    """The plain call: 200 with the result. A caller that goes away takes its job with it.

    Unless the job `is_kept`: others may wait for it, or the caller may come back for it.
    """
    timeout_s = services.settings.sync_timeout_s
    try:
        outcome = await run_until_disconnect(
            handle.outcome(timeout_s), request.receive, services.stopping
        )
    except ClientDisconnected:
        return await _abandoned(services, handle, is_kept=is_kept)
    except ServerStopping:
        return stopping_response(handle.job_id)
    if outcome is None:
        raise WaitTimeout(
            f"no result within {timeout_s:g} s; the job goes on, see /jobs/{handle.job_id}",
            job_id=handle.job_id,
        )
    return outcome_response(outcome)


async def wait_or_accept(
    request: Request,
    services: Services,
    handle: JobHandle,
    preference: Preference,
    *,
    is_kept: bool,
) -> Response:
    """`Prefer: wait=N` or `respond-async`: the result if it is there in time, else 202.

    A client that disconnects before has no id to ask for the result: its job is cancelled, as
    that of a plain call.
    """
    outcome, record = None, handle.record
    if preference.wait_s:
        try:
            outcome = await run_until_disconnect(
                handle.outcome(preference.wait_s), request.receive, services.stopping
            )
        except ClientDisconnected:
            return await _abandoned(services, handle, is_kept=is_kept)
        except ServerStopping:
            pass  # 202 it is
        if outcome is None:
            record = await latest_record(services, handle)
            outcome = None if record is None else record.outcome
    response = accepted(request, record) if outcome is None else outcome_response(outcome)
    if preference.applied:
        response.headers["Preference-Applied"] = preference.applied
    return response


async def _abandoned(services: Services, handle: JobHandle, *, is_kept: bool) -> Response:
    if not is_kept:
        await services.client.cancel_abandoned(handle.job_id)
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def latest_record(services: Services, handle: JobHandle) -> JobRecord | None:
    """The job as it is now; without Redis as it was when the handle was made."""
    try:
        return await services.client.record(handle.job_id)
    except ServiceUnavailable:
        return handle.record


def outcome_response(outcome: Outcome) -> Response:
    if not isinstance(outcome, Failed):
        return json_response(outcome.result)
    error = outcome.error
    return json_response(
        ErrorBody(named(error.field, error.message), outcome.job_id), error.status_code
    )


def accepted(request: Request, record: JobRecord | None) -> Response:
    assert record is not None, "a submitted job has a record"
    return json_response(JobView.of(record), 202, {"Location": job_path(request.scope, record.id)})
