"""Writes how this worker's jobs end, however long Redis is away; decides nothing.

A result that was computed is not thrown away, and a job that is handed back runs elsewhere at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from shared.protocol import Failed, JobError, JobStatus, Outcome
from shared.queue.claims import DeadLetter
from shared.queue.job_queue import JobQueue
from shared.redis.client import UNREACHABLE
from shared.redis.retry import Backoff
from worker.jobs.active_job import ActiveJob

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Endings:
    def __init__(self, queue: JobQueue, worker_id: str) -> None:
        self._queue = queue
        self._worker_id = worker_id

    async def finish(self, held: ActiveJob, outcome: Outcome) -> None:
        """The worker may claim the job again meanwhile: then it is the new fence that counts."""
        written, fence = False, 0
        while not written and fence != held.fence:
            fence = held.fence
            written = await self._finish(held, outcome)
        _log_end(outcome, written)

    async def _finish(self, held: ActiveJob, outcome: Outcome) -> bool:
        return await _persist(
            lambda: self._queue.finish(held.claimed, outcome, fence=held.fence), held.job.id
        )

    async def give_up(self, job: DeadLetter) -> None:
        """It fails and becomes a dead letter."""
        outcome = failed(job.job_id, job.attempts, job.reason)
        written = await _persist(
            lambda: self._queue.finish(job, outcome, fence=job.fence, is_dead_letter=True),
            job.job_id,
        )
        _log_end(outcome, written)

    async def release(self, job_id: str, fence: int) -> None:
        await _persist(lambda: self._queue.release(self._worker_id, {job_id: fence}), job_id)


def failed(job_id: str, attempt: int, message: str) -> Failed:
    return Failed(
        job_id=job_id,
        attempt=attempt,
        status=JobStatus.FAILED,
        error=JobError(message=message),
    )


def broken(held: ActiveJob) -> Failed:
    return failed(held.job.id, held.attempt, "the worker failed on this job")


def broken_off(held: ActiveJob, body: asyncio.Task[Any]) -> Failed:
    """For a run that ended by something that is no Exception, as a panic in a library."""
    error = None if body.cancelled() else body.exception()
    log.error("a job broke off", job_id=held.job.id, error=repr(error or "cancelled"))
    return broken(held)


async def _persist(write: Callable[[], Awaitable[T]], job_id: str) -> T:
    backoff = Backoff()
    while True:
        try:
            return await write()
        except UNREACHABLE as error:
            log.warning("the end of a job waits for Redis", job_id=job_id, error=str(error))
            await asyncio.sleep(backoff.next_s())


def _log_end(outcome: Outcome, written: bool) -> None:
    bound = log.bind(job_id=outcome.job_id, attempt=outcome.attempt)
    if not written:
        bound.warning("a job had ended before, or is another worker's by now")
    elif isinstance(outcome, Failed):
        bound.info("job ended", status=str(outcome.status), code=outcome.error.status_code)
    else:
        bound.debug("job succeeded")
