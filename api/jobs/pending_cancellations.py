"""Cancel jobs after an enqueue without an answer: the client got a 503.

Redis may have accepted such a job. Redis itself refuses an enqueue that arrives too late.
"""

import asyncio
import time
from functools import partial

import structlog
from redis.exceptions import ResponseError

from api.jobs.redis_services import (
    REDIS_TIMEOUT_S,
    REDIS_UNREACHABLE,
    RETRY_AFTER_S,
    redis_timeout,
)
from shared.errors import ServiceUnavailable
from shared.queue.job_queue import JobQueue
from shared.redis.retry import retry_until_reachable

MAX_PENDING = 10_000  # jobs; more of them in one outage of Redis are not cancelled

log = structlog.get_logger(__name__)


def may_have_arrived(error: BaseException) -> bool:
    """Return whether Redis may have run the command: it did not reply with an error."""
    return isinstance(error, ServiceUnavailable) and not isinstance(error.__cause__, ResponseError)


class PendingCancellations:
    """Queue cancellations until Redis answers."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._pending: asyncio.Queue[tuple[str, float]] = asyncio.Queue(MAX_PENDING)

    def add(self, job_id: str) -> None:
        """Cancel this job; its enqueue may still arrive within the next REDIS_TIMEOUT_S."""
        try:
            self._pending.put_nowait((job_id, time.monotonic() + REDIS_TIMEOUT_S))
        except asyncio.QueueFull:
            log.warning(
                "too many cancellations pending; an unanswered job may run",
                job_id=job_id,
            )

    async def wait_until_sent(self) -> None:
        """Wait until all cancellations are sent."""
        await self._pending.join()

    async def run(self) -> None:
        """Send one cancellation after the other, until this task is cancelled."""
        while True:
            await self._cancel_late(*await self._pending.get())
            self._pending.task_done()

    async def _cancel_late(self, job_id: str, latest: float) -> None:
        """Cancel a job; again at `latest` if its enqueue may have arrived after the first time."""
        if not await self._cancel(job_id):
            await asyncio.sleep(latest - time.monotonic())
            await self._cancel(job_id)

    async def _cancel(self, job_id: str) -> bool:
        """Cancel the job as soon as Redis answers; return whether Redis has the job."""
        return await retry_until_reachable(
            partial(self._try_to_cancel, job_id),
            log.bind(job_id=job_id),
            "a cancellation waits for Redis",
            on=(ServiceUnavailable,),
        )

    async def _try_to_cancel(self, job_id: str) -> bool:
        async with redis_timeout():
            return await self._queue.cancel(job_id) is not None


def unanswered_enqueue(job_id: str, *, has_key: bool) -> ServiceUnavailable:
    """Return the error for an enqueue without an answer: Redis may have accepted the job."""
    if has_key:
        advice = "if the job was accepted, the same Idempotency-Key finds it"
    else:
        advice = f"if job {job_id} was accepted, it is cancelled unless it ends before"
    return ServiceUnavailable(f"{REDIS_UNREACHABLE}; {advice}", retry_after_s=RETRY_AFTER_S)


def unanswered_retry() -> ServiceUnavailable:
    advice = "if the retry was accepted, the same request returns it"
    return ServiceUnavailable(f"{REDIS_UNREACHABLE}; {advice}", retry_after_s=RETRY_AFTER_S)
