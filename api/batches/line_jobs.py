"""Turn a line of a batch into jobs, as its route would, and their outcomes into its result."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec
from pydantic import ValidationError

from api.http.disconnect import ClientConnection
from api.http.errors import parameter_error
from api.jobs.job_client import JobClient
from api.jobs.job_handle import JobHandle
from api.jobs.redis_services import RedisServices, redis_timeout
from api.jobs.served_models import ServedModel
from api.openai.batches.lines import (
    ENDPOINTS,
    LineResponse,
    NoResponse,
    RequestLine,
    result_line,
)
from api.openai.request import OpenAIRequest
from api.openai.schemas import openai_code, openai_error, openai_status
from api.openai.view import AnswerHead
from shared.batches.batches import BatchSpec, LineResult
from shared.batches.lane import Verdict
from shared.errors import ClientError, FalconerError, status_code
from shared.process.asyncio_tasks import wait_at_most
from shared.protocol import BATCH_PRIORITY, ChatJob, Failed, JobStatus, Succeeded
from shared.queue.keys import JOB_TTL_S, RESULT_TTL_S

LANE_POLL_S = 0.2  # until the lane may have a place again; an ended line ends the wait too
OUTCOME_POLL_S = 60.0
EXPIRED = NoResponse(
    code="batch_expired", message="the line was not answered before the batch expired"
)
CANCELLED = NoResponse(code="batch_cancelled", message="the batch was cancelled")


@dataclass(slots=True)
class SubmittedLine:
    """A line whose jobs are in the queue."""

    number: int
    custom_id: str
    spec: BatchSpec
    body: OpenAIRequest
    model: ServedModel
    handles: list[JobHandle] = field(default_factory=list)
    created: int = field(default_factory=lambda: int(time.time()))
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def job_ids(self) -> list[str]:
        return [handle.job_id for handle in self.handles]


class LineJobs:
    """Submit lines of batches and answer them."""

    def __init__(self, redis: RedisServices, client: JobClient, models: tuple[str, ...]) -> None:
        """Submit to the queues of these models; none if the service has one model of any name."""
        self.models = models
        self._redis = redis
        self._client = client
        self._line_ended = asyncio.Event()
        self._connection = ClientConnection(_never, asyncio.Event())

    async def submit(
        self, line: RequestLine, spec: BatchSpec, number: int, seconds_left: Callable[[], float]
    ) -> SubmittedLine:
        """Enqueue the jobs of a line, as soon as their lane has a place.

        Each job's id follows from batch and line, so another replica that submits the line finds
        it. Raises a ClientError for an invalid request, and ServiceUnavailable.
        """
        body = self._body_of(line, spec)
        try:
            admitted = [
                await self._client.admit(request, self._connection, stream=True)
                for request in body.jobs()
            ]
        except ClientError as error:
            error.field = body.field_name(error.field)
            raise
        model = admitted[0].model
        submitted = SubmittedLine(number, line.custom_id, spec, body.for_answer(), model)
        with ExitStack() as stack:
            for index, one in enumerate(admitted):
                own_id = job_id_of(spec.id, number, index)
                job = msgspec.structs.replace(one.job, id=own_id, owner=spec.owner)
                handle = await self._enqueue(one.model, job, seconds_left)
                submitted.handles.append(stack.enter_context(handle))
            submitted.stack = stack.pop_all()
        return submitted

    def _body_of(self, line: RequestLine, spec: BatchSpec) -> OpenAIRequest:
        """Return the valid body of the line's request. Raises InvalidParameter."""
        model, _ = ENDPOINTS[spec.endpoint]
        try:
            body = model.model_validate_json(bytes(line.body))
        except ValidationError as error:
            raise parameter_error(error) from error
        body.check_line()
        return body

    async def _enqueue(
        self, model: ServedModel, job: ChatJob, seconds_left: Callable[[], float]
    ) -> JobHandle:
        """Return the handle of the job, once the lane of its model has a place for it."""
        handle = JobHandle(self._redis, job.id, model.metrics)
        try:
            while True:
                self._line_ended.clear()
                left_s = min(max(seconds_left(), 1.0), JOB_TTL_S)
                timed = msgspec.structs.replace(
                    job,
                    priority=BATCH_PRIORITY,
                    deadline_s=min(left_s, job.deadline_s or left_s),
                    ttl_s=max(job.ttl_s or 0, RESULT_TTL_S),  # another replica may need it
                )
                async with redis_timeout():
                    replica_id = self._redis.replica_id
                    verdict = await model.redis.lane.enqueue(timed, reply_to=replica_id)
                    if verdict is Verdict.KNOWN:  # another replica submitted it
                        handle.record = await self._redis.queue.watch(job.id, replica_id)
                if verdict is not Verdict.FULL:
                    return handle
                await wait_at_most(LANE_POLL_S, self._line_ended.wait())
        except BaseException:
            handle.close()
            raise

    async def answer(self, line: SubmittedLine) -> LineResult:
        """Return the result of a line once its jobs have ended. Raises ServiceUnavailable."""
        with line.stack:
            ended: list[Succeeded] = []
            for handle in line.handles:
                outcome = None
                while outcome is None:
                    outcome = await handle.outcome(OUTCOME_POLL_S)
                if isinstance(outcome, Failed):
                    self._line_ended.set()
                    await self.cancel(line)
                    return self._failed(line, outcome)
                ended.append(outcome)
        self._line_ended.set()
        return self._answered(line, ended)

    def _answered(self, line: SubmittedLine, ended: list[Succeeded]) -> LineResult:
        _, view = ENDPOINTS[line.spec.endpoint]
        model = line.model.watcher.current
        head = AnswerHead(
            line.job_ids,
            line.created,
            None if model is None else model.card_hash,
            None if model is None else model.encoder,
        )
        made, results = view(line.body, head), [outcome.result for outcome in ended]
        usage = made.usage(results)
        details = usage.prompt_tokens_details
        body = made.answer(results)
        response = LineResponse(status_code=200, request_id=line.job_ids[0], body=body)
        return LineResult(
            line.number,
            is_answer=True,
            data=result_line(line.custom_id, response),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=0 if details is None else details.cached_tokens,
        )

    def _failed(self, line: SubmittedLine, failed: Failed) -> LineResult:
        """Return the error of a job as its route would have sent it."""
        error, status = failed.error, openai_status(failed.error.status_code)
        if failed.status is JobStatus.EXPIRED and line.body.deadline_s is None:
            return LineResult(line.number, False, result_line(line.custom_id, error=EXPIRED))
        code = "model_not_found" if status == 404 else None
        param = line.body.field_name(error.field)
        body = openai_error(status, error.message, param=param, code=code)
        response = LineResponse(status_code=status, request_id=line.job_ids[0], body=body)
        return LineResult(line.number, False, result_line(line.custom_id, response))

    async def cancel(self, line: SubmittedLine) -> None:
        """Cancel the jobs of a line that have not ended."""
        for job_id in line.job_ids:
            await self._client.cancel_abandoned(job_id)


def refused_line(number: int, custom_id: str, error: FalconerError, job_id: str) -> LineResult:
    """Return the result of a line whose request is invalid, as its route would have refused it."""
    status = openai_status(status_code(error))
    param = error.field if isinstance(error, ClientError) else None
    body = openai_error(status, error.message, param=param, code=openai_code(error))
    response = LineResponse(status_code=status, request_id=job_id, body=body)
    return LineResult(number, False, result_line(custom_id, response))


def job_id_of(batch_id: str, line: int, index: int = 0) -> str:
    """Return the id of the job of a line's prompt: the same on every replica."""
    return sha256(f"{batch_id}:{line}:{index}".encode()).hexdigest()[:32]


async def _never() -> Any:
    await asyncio.Event().wait()
