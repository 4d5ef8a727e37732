"""Run the loops of a worker on Redis: renew leases, read wake-ups and cancellations."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from redis.asyncio import Redis

from shared.process.asyncio_tasks import wait_at_most
from shared.queue.job_queue import JobQueue
from shared.redis.retry import retry_until_reachable
from worker.engine_thread import EngineThread
from worker.jobs.leased_worker import LeasedWorker

RENEWALS_PER_LEASE = 3
MAX_DELAY_S = 0.5  # between retries of a renewal
BLOCK_S = 5  # a consumer's client needs a longer socket timeout

log = structlog.get_logger(__name__)


class EngineStuck(Exception):
    """One step has taken longer than `step_timeout_s`."""


class LeaseRenewer:
    """Renew the leases of active jobs while the engine makes progress.

    A worker with a stuck engine exits; other workers run its jobs once the leases expire.
    """

    def __init__(
        self,
        worker: LeasedWorker,
        queue: JobQueue,
        engine_thread: EngineThread,
        *,
        lease_ms: int,
        step_timeout_s: float,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._engine_thread = engine_thread
        self._lease_ms = lease_ms
        self._step_timeout_s = step_timeout_s

    async def run(self) -> None:
        """Renew until cancelled. Raises EngineStuck."""
        interval_s = self._lease_ms / 1000 / RENEWALS_PER_LEASE
        max_delay_s = min(interval_s, MAX_DELAY_S)
        event = "lease renewal failed, will retry"
        while True:
            await retry_until_reachable(self._renew, log, event, max_delay_s=max_delay_s)
            await wait_at_most(interval_s, self._worker.renewal_due.wait())
            self._worker.renewal_due.clear()

    async def _renew(self) -> None:
        if self._engine_thread.step_age_s > self._step_timeout_s:
            raise EngineStuck(f"an engine step took longer than {self._step_timeout_s:g} s")
        fencing_tokens = {
            job_id: active.fencing_token for job_id, active in self._worker.active.items()
        }
        if not fencing_tokens:
            return
        renewal = await self._queue.renew(
            self._worker.worker_id, fencing_tokens, lease_ms=self._lease_ms
        )
        for job_id in renewal.cancelled:
            self._worker.cancel(job_id)
        for job_id in renewal.lost:
            self._worker.lose_lease(job_id, fencing_tokens[job_id])


class ListConsumer:
    """Pass each element of a list to `handle`; continue after an outage of Redis.

    `redis` is a client of its own that may block for BLOCK_S.
    """

    def __init__(self, redis: Redis, key: str, handle: Callable[[str], None]) -> None:
        self._redis = redis
        self._key = key
        self._handle = handle
        self._enabled = asyncio.Event()
        self._enabled.set()

    def enable(self, is_enabled: bool) -> None:
        """Continue or pause; a pop that is under way is still handled."""
        if is_enabled:
            self._enabled.set()
        else:
            self._enabled.clear()

    async def run(self) -> None:
        """Consume until cancelled."""
        bound = log.bind(key=self._key)
        while True:
            popped = await retry_until_reachable(self._pop, bound, "BLPOP failed, will retry")
            if popped is not None:
                self._handle(popped[1].decode())

    async def _pop(self) -> list[bytes] | None:
        """Return key and element, or None if the list stayed empty for BLOCK_S."""
        await self._enabled.wait()
        popped = self._redis.blpop([self._key], timeout=BLOCK_S)
        return await cast(Awaitable[list[bytes] | None], popped)  # redis-py types it as maybe not
