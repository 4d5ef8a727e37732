"""Submit the jobs of a request below `/v1`, wait for all of them, and cancel them together."""

import asyncio
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from api.http.body import read_model
from api.http.disconnect import ClientConnection
from api.http.errors import (
    CLIENT_CLOSED_REQUEST,
    REQUEST_ID,
    STOPPING,
    ClientDisconnected,
    ServerStopping,
    echoed_request_id,
    failure_response,
    going_on,
    json_response,
    parameter_error,
    stopping_message,
)
from api.http.paths import job_path
from api.jobs.admission import Admitted
from api.jobs.job_handle import JobHandle
from api.jobs.redis_services import redis_timeout
from api.jobs.served_models import CheckedModel
from api.openai.request import OpenAIRequest
from api.openai.view import AnswerHead, MakeView, T
from api.routes.responses import REUSE
from api.schemas import ChatRequest
from api.services import Services
from shared.errors import ClientError, ServiceUnavailable
from shared.protocol import Failed, Outcome, Succeeded

M = TypeVar("M", bound=BaseModel)
NO_RETRY = {"x-should-retry": "false"}  # the SDKs retry 5xx, which would make another job


@dataclass(slots=True)
class RequestJobs:
    """The jobs of one request: one for each prompt."""

    services: Services
    handles: list[JobHandle]
    outlive_client: bool  # the client can find the jobs again, so a disconnect does not cancel them
    created: int = field(default_factory=lambda: int(time.time()))

    def __enter__(self) -> "RequestJobs":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for handle in self.handles:
            handle.close()

    @property
    def job_ids(self) -> list[str]:
        return [handle.job_id for handle in self.handles]

    async def head(self) -> AnswerHead:
        """Return the jobs and their model, which a first worker may just have registered."""
        model = await self._model()
        return AnswerHead(
            self.job_ids,
            self.created,
            None if model is None else model.card_hash,
            None if model is None else model.encoder,
        )

    async def _model(self) -> CheckedModel | None:
        record = self.handles[0].record
        assert record is not None, "a submitted job has a record"
        model = self.services.models.of_job(record.model)
        if model is None:  # it is not served any more
            return None
        if model.watcher.current is None:
            with suppress(ServiceUnavailable):  # answer without the model
                async with redis_timeout():
                    await model.watcher.refresh()
        return model.watcher.current

    async def outcomes(self, timeout_s: float) -> list[Outcome] | None:
        """Return how the jobs ended, up to the first that failed; None after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        ended: list[Outcome] = []
        for handle in self.handles:
            outcome = await handle.outcome(deadline - time.monotonic())
            if outcome is None:
                return None
            ended.append(outcome)
            if isinstance(outcome, Failed):
                break
        return ended

    async def cancel(self) -> None:
        """Cancel the jobs that have not ended."""
        for job_id in self.job_ids:
            await self.services.client.cancel_abandoned(job_id)

    async def cancel_unless_found(self) -> None:
        """Cancel the jobs unless the client can find them again."""
        if not self.outlive_client:
            await self.cancel()

    def headers(self, request: Request) -> dict[str, str]:
        """Return the headers of every answer about these jobs."""
        first = self.handles[0]
        path = job_path(request.scope, first.job_id)
        reused = {} if first.reused is None else {REUSE: first.reused}
        return {"Location": path, REQUEST_ID: first.job_id} | reused | echoed_request_id(request)

    def error_headers(self, request: Request) -> dict[str, str]:
        """Return the headers of an error, after which the SDKs must not make another job."""
        return self.headers(request) | ({} if self.outlive_client else NO_RETRY)


async def read_openai_request(request: Request, services: Services, model: type[T]) -> T:
    """Return the valid body. Raises a ClientError with field and code, or ServerStopping."""
    body = await read_v1_model(request, services, model)
    body.check()
    return body


async def read_v1_model(request: Request, services: Services, model: type[M]) -> M:
    """Return the body, whose fields are valid. Raises what `read_openai_request` raises."""
    try:
        return await read_model(request, model, services.settings.max_body_bytes, services.stopping)
    except ValidationError as error:
        raise parameter_error(error) from error


async def submit(
    request: Request, services: Services, body: OpenAIRequest, idempotency_key: str | None
) -> RequestJobs:
    """Submit one job per prompt, once all prompts are known to be valid.

    If the queue takes only some of the jobs, cancel these, unless the same request with its
    idempotency key can find them later.
    """
    with ExitStack() as stack:
        jobs = stack.enter_context(RequestJobs(services, [], idempotency_key is not None))
        try:
            await _submit_each(
                jobs, body, ClientConnection(request.receive, services.stopping), idempotency_key
            )
        except BaseException as error:
            await asyncio.shield(jobs.cancel_unless_found())
            if isinstance(error, ClientError):
                error.field = body.field_name(error.field)
            raise
        stack.pop_all()
        return jobs


async def _submit_each(
    jobs: RequestJobs, body: OpenAIRequest, connection: ClientConnection, key: str | None
) -> None:
    client, requests, stream = jobs.services.client, body.jobs(), body.stream
    admitted: list[Admitted | None] = [None]
    if len(requests) > 1:
        admitted = [
            await _admit_unless_known(jobs, one, connection, stream, key and f"{key}:{index}")
            for index, one in enumerate(requests)
        ]
    for index, (one, checked) in enumerate(zip(requests, admitted, strict=True)):
        handle = await client.submit(
            one,
            connection,
            wants_events=True,
            stream=stream,
            idempotency_key=key and f"{key}:{index}",
            admitted=checked,
        )
        jobs.handles.append(handle)


async def _admit_unless_known(
    jobs: RequestJobs, one: ChatRequest, connection: ClientConnection, stream: bool, key: str | None
) -> Admitted | None:
    """Return the checked job of one prompt.

    Return None if the prompt is refused but has a job already: the model has changed since.
    """
    client = jobs.services.client
    try:
        return await client.admit(one, connection, stream=stream)
    except ClientError:
        if await client.is_known(one, key):
            return None
        raise


async def answer_when_done(
    request: Request, jobs: RequestJobs, view: MakeView[T], body: T
) -> Response:
    """Return the answer once all jobs have succeeded, or the first error."""
    ended = await outcomes_or_error(request, jobs, body)
    if isinstance(ended, Response):
        return ended
    answer = view(body, await jobs.head()).answer([outcome.result for outcome in ended])
    return json_response(answer, headers=jobs.headers(request))


async def outcomes_or_error(
    request: Request, jobs: RequestJobs, body: OpenAIRequest
) -> list[Succeeded] | Response:
    """Return the outcomes once all jobs have succeeded, or the response with the first error."""
    services = jobs.services
    client = ClientConnection(request.receive, services.stopping)
    timeout_s = services.settings.sync_timeout_s
    try:
        outcomes = await client.run_until_disconnect(jobs.outcomes(timeout_s))
    except ClientDisconnected:
        await jobs.cancel_unless_found()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except ServerStopping:
        message = stopping_message(*jobs.job_ids)
        headers = STOPPING | jobs.error_headers(request)
        return failure_response(request, 503, message, headers=headers)
    if outcomes is None:
        return failure_response(
            request,
            504,
            f"no result within {timeout_s:g} s; {going_on(*jobs.job_ids)}",
            code="timeout",
            headers=jobs.error_headers(request),
        )
    if isinstance(failed := outcomes[-1], Failed):
        await jobs.cancel()
        return failed_response(request, jobs, body, failed)
    return [outcome for outcome in outcomes if isinstance(outcome, Succeeded)]


def failed_response(
    request: Request, jobs: RequestJobs, body: OpenAIRequest, failed: Failed
) -> Response:
    error = failed.error
    return failure_response(
        request,
        error.status_code,
        error.message,
        field=body.field_name(error.field),
        code="model_not_found" if error.status_code == 404 else None,
        headers=jobs.error_headers(request),
    )
