"""Respond to requests that wait for a job: with its result, its error, or a 202."""

from contextlib import suppress

from fastapi import Request
from fastapi.responses import Response

from api.http.disconnect import ClientConnection
from api.http.errors import (
    CLIENT_CLOSED_REQUEST,
    ClientDisconnected,
    ServerStopping,
    going_on,
    json_response,
    stopping_response,
    with_field,
)
from api.http.headers import Preference
from api.http.paths import job_path
from api.jobs.job_handle import JobHandle
from api.schemas import ErrorBody, JobView
from api.services import Services
from shared.errors import ServiceUnavailable, WaitTimeout
from shared.protocol import Failed, JobRecord, Outcome

REUSE = "Falconer-Reuse"
CANCEL_WAIT_S = 2.0  # a cancelled job ends within one step of the engine


async def wait_for_result(
    request: Request, services: Services, handle: JobHandle, *, cancel_on_disconnect: bool
) -> Response:
    """Return the job's result or error. Raises WaitTimeout."""
    timeout_s = services.settings.sync_timeout_s
    client = ClientConnection(request.receive, services.stopping)
    try:
        outcome = await client.run_until_disconnect(handle.outcome(timeout_s))
    except ClientDisconnected:
        return await _disconnected(services, handle, cancel=cancel_on_disconnect)
    except ServerStopping:
        return stopping_response(handle.job_id)
    if outcome is None:
        raise WaitTimeout(
            f"no result within {timeout_s:g} s; {going_on(handle.job_id)}",
            job_id=handle.job_id,
        )
    return outcome_response(outcome)


async def wait_as_preferred(
    request: Request,
    services: Services,
    handle: JobHandle,
    preference: Preference,
    *,
    cancel_on_disconnect: bool,
) -> Response:
    """Return the outcome if the job ends within the seconds of `Prefer: wait`, else a 202."""
    outcome, record = None, handle.record
    if preference.wait_s:
        client = ClientConnection(request.receive, services.stopping)
        try:
            outcome = await client.run_until_disconnect(handle.outcome(preference.wait_s))
        except ClientDisconnected:
            # It does not know the job's id yet, so it cannot ask for the result later.
            return await _disconnected(services, handle, cancel=cancel_on_disconnect)
        except ServerStopping:
            pass  # respond with 202
        if outcome is None:
            record = await latest_record(services, handle)
            outcome = None if record is None else record.outcome
    response = accepted(request, record) if outcome is None else outcome_response(outcome)
    if preference.applied:
        response.headers["Preference-Applied"] = preference.applied
    return response


async def _disconnected(services: Services, handle: JobHandle, *, cancel: bool) -> Response:
    """Return a response that the metrics count and no client reads."""
    if cancel:
        await services.client.cancel_abandoned(handle.job_id)
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def latest_record(services: Services, handle: JobHandle) -> JobRecord | None:
    """Return the record as it is now; without Redis, as it was when the job was enqueued."""
    try:
        return await services.client.record(handle.job_id)
    except ServiceUnavailable:
        return handle.record


async def record_when_ended(
    request: Request, services: Services, handle: JobHandle, wait_s: float
) -> JobRecord:
    """Return the record when the job has ended, or as it is after `wait_s`.

    Raises ClientDisconnected.
    """
    client = ClientConnection(request.receive, services.stopping)
    with suppress(ServerStopping):  # return the record as it is
        await client.run_until_disconnect(handle.outcome(wait_s))
    return await services.client.record(handle.job_id)


def outcome_response(outcome: Outcome) -> Response:
    if not isinstance(outcome, Failed):
        return json_response(outcome.result)
    error = outcome.error
    return json_response(
        ErrorBody(with_field(error.field, error.message), outcome.job_id), error.status_code
    )


def accepted(request: Request, record: JobRecord | None) -> Response:
    assert record is not None, "a submitted job has a record"
    return json_response(JobView.of(record), 202, {"Location": job_path(request.scope, record.id)})


def with_reuse(response: Response, handle: JobHandle) -> Response:
    """Return the response; its header names the state of the job whose tokens this one takes."""
    if handle.reused is not None:
        response.headers[REUSE] = handle.reused
    return response
