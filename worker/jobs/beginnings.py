"""Begins the runs of claimed jobs, however long Redis is away; decides nothing."""

import asyncio

import structlog

from shared.queue.claims import StartResult
from shared.queue.job_queue import JobQueue
from shared.redis.client import UNREACHABLE
from shared.redis.retry import Backoff
from worker.jobs.active_job import ActiveJob

log = structlog.get_logger(__name__)


class Beginnings:
    def __init__(self, queue: JobQueue, worker_id: str, lease_ms: int) -> None:
        self._queue = queue
        self._worker_id = worker_id
        self._lease_ms = lease_ms

    async def begin(self, held: ActiveJob) -> bool:
        """Whether the job is still this worker's; notes that a caller cancelled it meanwhile.

        The worker may claim the job again while it waits: then it is the new fence that counts.
        """
        backoff, begun, fence = Backoff(), StartResult.NO, 0
        while not begun and fence != held.fence:
            fence = held.fence
            try:
                begun = await self._begin(held)
            except UNREACHABLE as error:
                log.warning("a job waits for Redis", job_id=held.job.id, error=str(error))
                await asyncio.sleep(backoff.next_s())
                fence = 0
        if begun is StartResult.CANCELLED:
            held.cancel()
        return bool(begun)

    async def _begin(self, held: ActiveJob) -> StartResult:
        return await self._queue.begin(
            self._worker_id,
            held.job.id,
            fence=held.fence,
            lease_ms=self._lease_ms,
            attempts=held.attempt - 1,
        )
