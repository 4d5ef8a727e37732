"""Takes back jobs whose enqueueing got no answer: their callers were told that it failed.

Redis may hold such a job all the same; one that it gets later it refuses by itself. Nothing
half-accepted may run.
"""

import asyncio
import time

import structlog
from redis.exceptions import ResponseError

from api.jobs.redis_services import REACH_S, within_reach
from shared.errors import ServiceUnavailable
from shared.queue.job_queue import JobQueue
from shared.redis.retry import Backoff

MAX_PENDING = 10_000  # more refusals than this in one absence of Redis are not remembered

log = structlog.get_logger(__name__)


def may_have_arrived(error: BaseException) -> bool:
    """Whether Redis may have taken the job all the same: it did not say that it refuses it."""
    return isinstance(error, ServiceUnavailable) and not isinstance(error.__cause__, ResponseError)


class Withdrawals:
    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._pending: asyncio.Queue[tuple[str, float]] = asyncio.Queue(MAX_PENDING)

    def add(self, job_id: str) -> None:
        """Cancel this job; its enqueue may still arrive within the next REACH_S."""
        try:
            self._pending.put_nowait((job_id, time.monotonic() + REACH_S))
        except asyncio.QueueFull:
            log.warning("a refused job may run all the same", job_id=job_id)

    async def settle(self) -> None:
        """Wait until there is nothing to withdraw."""
        await self._pending.join()

    async def run(self) -> None:
        """Withdraw one after the other until cancelled."""
        while True:
            await self._withdraw(*await self._pending.get())
            self._pending.task_done()

    async def _withdraw(self, job_id: str, latest: float) -> None:
        """Cancel the job once Redis answers; a second time if its enqueue may have come after."""
        if not await self._cancel(job_id):
            await asyncio.sleep(latest - time.monotonic())
            await self._cancel(job_id)

    async def _cancel(self, job_id: str) -> bool:
        """Return whether Redis has the job, as soon as Redis answers."""
        backoff = Backoff()
        while True:
            try:
                async with within_reach():
                    return await self._queue.cancel(job_id) is not None
            except ServiceUnavailable:
                await asyncio.sleep(backoff.next_s())
