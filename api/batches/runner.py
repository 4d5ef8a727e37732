"""Run the batches that no other replica runs, each under a lease that this replica renews."""

import asyncio
import time
from contextlib import suppress

import structlog

from api.batches.batch_run import BatchRun, LeaseLost
from api.batches.line_jobs import LineJobs
from api.jobs.redis_services import RedisServices
from shared.batches.batches import LEASE_S
from shared.errors import ServiceUnavailable
from shared.process.asyncio_tasks import cancel_all, wait_at_most
from shared.redis.client import UNREACHABLE
from shared.redis.retry import retry_until_reachable

POLL_S = 1.0  # between two looks for a batch without an owner
RENEW_S = 2.0  # a cancelled batch ends within this time
MAX_RUNS = 4  # batches at a time on one replica; a stalled batch is not counted
MAX_RUNS_OF_MODELS = 32  # stalled batches too, if the service has several models
MAX_LINES_UNDER_WAY = 1024  # of all these batches; their results are held in memory
CLEAN_UP_S = 3600.0  # between two removals of what expired files and batches left

log = structlog.get_logger(__name__)


class BatchRunner:
    """The batches that this replica runs."""

    def __init__(self, redis: RedisServices, jobs: LineJobs, max_line_bytes: int) -> None:
        self._redis = redis
        self._jobs = jobs
        self._max_line_bytes = max_line_bytes
        self._slots = asyncio.Semaphore(MAX_LINES_UNDER_WAY)
        self._runs: dict[asyncio.Task[None], BatchRun] = {}
        self._woken = asyncio.Event()
        self._cleaned_at: float | None = None  # monotonic seconds

    def wake(self) -> None:
        """Look for a batch now."""
        self._woken.set()

    async def run(self) -> None:
        """Claim and run batches until cancelled."""
        while True:
            if self._has_place():
                await retry_until_reachable(self._claim, log, "batches wait for Redis")
            await retry_until_reachable(self._clean_up, log, "batches wait for Redis")
            await wait_at_most(POLL_S, self._woken.wait())
            self._woken.clear()

    async def stop(self) -> None:
        """End all runs, and release their leases for other replicas."""
        leases = [run.lease for run in self._runs.values()]
        await cancel_all([*self._runs])
        for lease in leases:
            with suppress(*UNREACHABLE):
                await self._redis.batches.renew(lease, 0)

    def _has_place(self) -> bool:
        """Return whether another batch may run. Of several models, one may have no worker."""
        num_stalled = 0
        if len(self._jobs.models) > 1:
            num_stalled = sum(run.is_stalled for run in self._runs.values())
        return len(self._runs) < min(MAX_RUNS + num_stalled, MAX_RUNS_OF_MODELS)

    async def _claim(self) -> None:
        lease = await self._redis.batches.claim()
        if lease is None:
            return
        batches, files = self._redis.batches, self._redis.files
        run = BatchRun(batches, files, self._jobs, lease, self._slots, self._max_line_bytes)
        task = asyncio.create_task(self._run(run), name=f"batch {lease.batch_id}")
        self._runs[task] = run
        task.add_done_callback(self._forget)
        self._woken.set()  # there may be another one

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._runs[task]
        self._woken.set()

    async def _run(self, run: BatchRun) -> None:
        """Run a batch until it has ended or its lease is lost; after an error, another run follows.

        That run begins when the lease has expired.
        """
        bound = log.bind(batch=run.lease.batch_id)
        bound.info("running a batch")
        work = asyncio.create_task(run.run())
        renewing = asyncio.create_task(self._renew(run))
        try:
            await asyncio.wait([work, renewing], return_when=asyncio.FIRST_COMPLETED)
            (work if work.done() else renewing).result()
        except LeaseLost:
            bound.warning("lost the lease of a batch")
        except (ServiceUnavailable, *UNREACHABLE) as error:
            bound.warning(
                "a batch waits for Redis or its files", error=str(error) or type(error).__name__
            )
        except Exception as error:  # isolates the batch
            bound.error("batch failed, will retry", exc_info=error)
        finally:
            await cancel_all([work, renewing])

    async def _renew(self, run: BatchRun) -> None:
        """Renew the lease until cancelled. Raises LeaseLost, also after a long outage of Redis."""
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                status = await self._redis.batches.renew(run.lease)
            except UNREACHABLE:
                if time.monotonic() - renewed_at > LEASE_S:
                    raise LeaseLost from None
                continue
            if status is None:
                raise LeaseLost
            run.status, renewed_at = status, time.monotonic()

    async def _clean_up(self) -> None:
        now = time.monotonic()
        if self._cleaned_at is not None and now - self._cleaned_at < CLEAN_UP_S:
            return
        self._cleaned_at = now
        await self._redis.batches.remove_expired()
        try:
            await self._redis.files.remove_expired()
        except ServiceUnavailable as error:
            log.warning("expired files are not removed yet", error=error.message)
