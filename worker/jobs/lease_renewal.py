"""Keeps this worker's leases while its engine makes steps, and notices when it does not.

A worker whose engine is stuck stops renewing and ends: others run its jobs after the lease.
"""

import asyncio

import structlog

from shared.process.asyncio_tasks import wait_at_most
from shared.queue.job_queue import JobQueue
from shared.redis.client import UNREACHABLE
from shared.redis.retry import Backoff
from worker.engine_thread import EngineThread
from worker.jobs.leased_worker import LeasedWorker

RENEWALS_PER_LEASE = 3

log = structlog.get_logger(__name__)


class EngineStuck(Exception):
    """One step has taken longer than `step_timeout_s`."""


class LeaseRenewer:
    def __init__(
        self,
        worker: LeasedWorker,
        queue: JobQueue,
        runtime: EngineThread,
        *,
        lease_ms: int,
        step_timeout_s: float,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._runtime = runtime
        self._lease_ms = lease_ms
        self._step_timeout_s = step_timeout_s

    async def run(self) -> None:
        """Renew until cancelled; raises EngineStuck."""
        interval_s = self._lease_ms / 1000 / RENEWALS_PER_LEASE
        backoff = Backoff(cap_s=min(interval_s, 0.5))
        while True:
            self._check_engine()
            try:
                await self._renew()
                backoff.reset()
                await wait_at_most(interval_s, self._worker.renewal_due.wait())
                self._worker.renewal_due.clear()
            except UNREACHABLE as error:
                log.warning("leases not renewed: Redis is away", error=str(error))
                await asyncio.sleep(backoff.next_s())

    def _check_engine(self) -> None:
        if self._runtime.step_age_s > self._step_timeout_s:
            raise EngineStuck(f"an engine step took longer than {self._step_timeout_s:g} s")

    async def _renew(self) -> None:
        fences = {job_id: held.fence for job_id, held in self._worker.held.items()}
        if not fences:
            return
        renewal = await self._queue.renew(self._worker.worker_id, fences, lease_ms=self._lease_ms)
        for job_id in renewal.cancelled:
            self._worker.cancel(job_id)
        for job_id in renewal.lost:
            self._worker.lose(job_id, fences[job_id])
