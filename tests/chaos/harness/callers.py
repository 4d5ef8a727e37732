"""Callers: each executes its plan, from the first request to the job's terminal state."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from random import Random
from typing import Any

from shared.protocol import JobStatus
from tests.chaos.harness.call_log import CallLog, Observation, RunLog
from tests.chaos.harness.client import Answer, Call, Client, ConnectionLost, RetriesExhausted
from tests.chaos.harness.stream_reader import StreamReader
from tests.chaos.scenarios.call_plans import CallerAction, CallKind, CallPlan

SYNC_TIMEOUT_S = 60.0  # setting of the api
CALL_TIMEOUT_S = SYNC_TIMEOUT_S + 30.0
POLL_S = 0.25
WAIT_S = 5.0
MAX_POLLS = 40  # of one job before a caller gives up


class Callers:
    """Runs plans and adds a log of each call to `run_log`."""

    def __init__(self, client: Client, run_log: RunLog, random: Random) -> None:
        self._client = client
        self._run_log = run_log
        self._random = random
        self._reader = StreamReader(client, random)

    async def run(self, plan: CallPlan) -> CallLog:
        log = self._run_log.open(plan)
        try:
            await self._execute(log)
        except ConnectionLost:
            log.is_outcome_unknown = True
        except RetriesExhausted as error:
            log.failure = str(error)
        log.ended = time.monotonic()
        return log

    async def observe_again(self, log: CallLog, wait_s: float = 0) -> None:
        """Observe the final state of the call's jobs, waiting up to `wait_s` for each."""
        for job_id in log.job_ids:
            await self._get_job(log, job_id, wait_s)

    async def _execute(self, log: CallLog) -> None:
        plan = log.plan
        match plan.action:
            case CallerAction.DISCONNECT:
                await self._disconnect(log)
            case CallerAction.CANCEL:
                await self._submit_and_cancel(log)
            case CallerAction.RETRY:
                await self._submit_and_cancel(log)
                await self._retry(log)
            case CallerAction.REPEAT:
                await _both(self._submit(log), self._repeat(log))
            case CallerAction.CONFLICT:
                await self._submit(log)
                await self._conflict(log)
            case _:
                await self._submit(log)

    async def _submit(self, log: CallLog) -> None:
        match log.plan.kind:
            case CallKind.SYNC:
                await self._settle(log, await self._post(log, "/chat"))
            case CallKind.PREFER_WAIT:
                answer = await self._post(log, "/chat", {"Prefer": "wait=2"})
                await self._settle(log, answer)
            case CallKind.STREAM:
                await self._stream(log)
            case CallKind.INVALID:
                await self._send_invalid(log)
            case kind:
                await self._settle(log, await self._post(log, "/jobs"), follow_by=kind)

    # -- the first request ---------------------------------------------------------------------

    async def _post(self, log: CallLog, path: str, headers: dict[str, str] | None = None) -> Answer:
        plan = log.plan
        call = Call.post(path, plan.body, {**plan.headers, **(headers or {})}, CALL_TIMEOUT_S)
        return await self._client.call(log, call)

    async def _send_invalid(self, log: CallLog) -> None:
        invalid = log.plan.invalid_request
        headers = {"Content-Type": "application/json"}
        await self._client.call(log, Call("POST", invalid.path, invalid.content, headers))

    async def _settle(
        self, log: CallLog, answer: Answer, *, follow_by: CallKind = CallKind.LONG_POLL
    ) -> None:
        """Follow the job of the first response to its terminal state."""
        if answer.job_id is None:
            return  # refused: no job exists
        if answer.status == 200:
            observe(log, answer, JobStatus.SUCCEEDED, "the call", answer.body)
            return
        if answer.status == 202:
            observe_record(log, answer, "the 202")
        await self._follow(log, answer.job_id, follow_by)

    # -- following a job -----------------------------------------------------------------------

    async def _follow(self, log: CallLog, job_id: str, kind: CallKind) -> None:
        if kind is CallKind.EVENTS:
            await self._reader.resume(log, job_id)
        for _ in range(MAX_POLLS):
            record = await self._get_job(log, job_id, 0 if kind is CallKind.POLL else WAIT_S)
            if record is None or record.is_terminal:
                return
            if kind is CallKind.POLL:
                await asyncio.sleep(POLL_S)
                kind = self._random.choice((CallKind.POLL, CallKind.POLL, CallKind.LONG_POLL))
        raise RetriesExhausted(f"job {job_id} reached no terminal state")

    async def _get_job(self, log: CallLog, job_id: str, wait_s: float) -> JobStatus | None:
        query = f"?wait={wait_s:g}" if wait_s else ""
        call = Call.get(f"/jobs/{job_id}{query}", wait_s + CALL_TIMEOUT_S)
        answer = await self._client.call(log, call)
        return observe_record(log, answer, str(call))

    async def _stream(self, log: CallLog) -> None:
        plan = log.plan
        call = Call.post("/chat", plan.body, plan.headers, CALL_TIMEOUT_S)
        first = await self._reader.start(log, call)
        if isinstance(first, Answer):
            await self._settle(log, first)
        elif first.end_index is None:
            await self._reader.resume(log, first.job_id, first.last_index)

    # -- actions -------------------------------------------------------------------------------

    async def _disconnect(self, log: CallLog) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(log.plan.action_after_s):
                await self._submit(log)
        log.disconnected_at = time.monotonic()

    async def _submit_and_cancel(self, log: CallLog) -> None:
        submission = asyncio.create_task(self._submit(log))
        await _both(submission, self._cancel(log, submission))

    async def _cancel(self, log: CallLog, submission: asyncio.Task[None]) -> None:
        """Cancel the job once the plan's delay is over and the job id is known."""
        await asyncio.sleep(log.plan.action_after_s)
        await self._wait_for_job_id(log, submission)
        if log.job_ids:
            call = Call("DELETE", f"/jobs/{log.job_ids[0]}")
            observe_record(log, await self._client.call(log, call), "DELETE")

    async def _retry(self, log: CallLog) -> None:
        """Retry the job, unless it succeeded before the cancellation."""
        if log.end is None or log.end.status is not JobStatus.CANCELLED:
            return
        call = Call("POST", f"/jobs/{log.end.job_id}/retry")
        answer = await self._client.call(log, call)
        if observe_record(log, answer, str(call)) is not None and answer.job_id is not None:
            log.retry_id = answer.job_id
            await self._follow(log, answer.job_id, log.plan.kind)

    async def _wait_for_job_id(self, log: CallLog, submission: asyncio.Task[None]) -> None:
        """Wait until the caller knows its job id, or its submission has ended without one."""
        while not (log.job_ids or submission.done()):
            await asyncio.wait([submission], timeout=0.02)

    async def _repeat(self, log: CallLog) -> None:
        await asyncio.sleep(log.plan.action_after_s)
        await self._settle(log, await self._post(log, "/jobs"))

    async def _conflict(self, log: CallLog) -> None:
        body = {**log.plan.conflicting_request.body, "ttl_s": log.plan.ttl_s}
        await self._client.call(log, Call.post("/chat", body, log.plan.headers, CALL_TIMEOUT_S))


def observe(
    log: CallLog, answer: Answer, status: JobStatus, via: str, result: dict[str, Any] | None
) -> None:
    assert answer.job_id is not None
    observation = Observation(answer.job_id, status, answer.started, answer.ended, via, result)
    log.observations.append(observation)


def observe_record(log: CallLog, answer: Answer, via: str) -> JobStatus | None:
    """Log the job record of a response and return its status, or None for other responses."""
    if answer.status not in (200, 202):
        return None
    status = JobStatus(answer.body["status"])
    observe(log, answer, status, via, answer.body.get("result"))
    return status


async def _both(*parts: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Run both concurrently, wait for both, and raise the first exception."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
