"""Write to the queue that a job starts, ends or is released; retry until Redis answers.

A result is dropped only if its lease was lost, and a released job runs elsewhere at once.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog

from shared.protocol import Failed, JobError, JobStatus, Outcome
from shared.queue.claims import DeadLetter, StartResult
from shared.queue.job_queue import JobQueue
from shared.redis.retry import retry_until_reachable
from worker.jobs.active_job import ActiveJob

T = TypeVar("T")

log = structlog.get_logger(__name__)


class JobLifecycle:
    """Write the state of one worker's jobs, each under its fencing token."""

    def __init__(self, queue: JobQueue, worker_id: str, lease_ms: int) -> None:
        self._queue = queue
        self._worker_id = worker_id
        self._lease_ms = lease_ms

    async def start(self, active: ActiveJob) -> bool:
        """Record that the run starts; return False if this worker no longer owns the job.

        Mark the job cancelled if its client cancelled it meanwhile.
        """
        started = await self._write(active, partial(self._write_start, active))
        if started is StartResult.CANCELLED:
            active.cancel()
        return bool(started)

    async def _write_start(self, active: ActiveJob, fencing_token: int) -> StartResult:
        return await self._queue.start(
            self._worker_id,
            active.job.id,
            fencing_token=fencing_token,
            lease_ms=self._lease_ms,
            attempts=active.attempt - 1,
        )

    async def finish(self, active: ActiveJob, outcome: Outcome) -> None:
        """Write the outcome, unless this worker no longer owns the job."""

        def finish(fencing_token: int) -> Awaitable[bool]:
            return self._queue.finish(active.claimed, outcome, fencing_token=fencing_token)

        _log_end(outcome, await self._write(active, finish))

    async def fail_dead_letter(self, job: DeadLetter) -> None:
        """Fail a job that no worker can run, and keep its id as a dead letter."""
        outcome = failed(job.job_id, job.attempts, job.reason)
        written = await _retry(
            lambda: self._queue.finish(
                job, outcome, fencing_token=job.fencing_token, is_dead_letter=True
            ),
            job.job_id,
        )
        _log_end(outcome, written)

    async def release(self, job_id: str, fencing_token: int) -> None:
        """Return the job to the queue; the attempt does not count."""
        await _retry(lambda: self._queue.release(self._worker_id, {job_id: fencing_token}), job_id)

    async def _write(self, active: ActiveJob, write: Callable[[int], Awaitable[T]]) -> T:
        """Call `write` with the job's fencing token; repeat a refused write if the token changed.

        While the write under the old token was on its way, this worker claimed the job again.
        """
        while True:
            fencing_token = active.fencing_token
            result = await _retry(partial(write, fencing_token), active.job.id)
            if result or fencing_token == active.fencing_token:
                return result


def failed(job_id: str, attempt: int, message: str) -> Failed:
    error = JobError(message=message)
    return Failed(job_id=job_id, attempt=attempt, status=JobStatus.FAILED, error=error)


async def _retry(write: Callable[[], Awaitable[T]], job_id: str) -> T:
    bound = log.bind(job_id=job_id)
    return await retry_until_reachable(write, bound, "writing job state failed, will retry")


def _log_end(outcome: Outcome, written: bool) -> None:
    bound = log.bind(job_id=outcome.job_id, attempt=outcome.attempt)
    if not written:
        bound.warning("outcome discarded: another worker owns the job, or it has ended")
    elif isinstance(outcome, Failed):
        bound.info("job ended", status=str(outcome.status), code=outcome.error.status_code)
    else:
        bound.debug("job succeeded")
