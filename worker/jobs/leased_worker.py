"""Claim jobs that fit, run them under leases, and release jobs that cannot finish here.

A `RunJob` runs a job, and `Capacity` measures how much fits. This module imports no engine.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from shared.process.asyncio_tasks import cancel_all, wait_at_most
from shared.protocol import Outcome
from shared.queue.claims import ClaimedJob, FreeCapacity, Lease
from shared.queue.job_queue import JobQueue
from shared.redis.client import COMMAND_TIMEOUT_S
from shared.redis.retry import retry_until_reachable
from worker.jobs.active_job import ActiveJob
from worker.jobs.capacity import Capacity, giving_way
from worker.jobs.lifecycle import JobLifecycle, failed

POLL_S = 1.0  # without a wake-up, an expired lease is noticed after this time

# If the answer to a claim is lost, its jobs stay leased to a worker that does not know them. Until
# a job starts, its lease is this short, so that such a job soon runs elsewhere.
CLAIM_LEASE_MS = 2000
LAST_CLAIM_S = 1.0  # timeout of a shutdown's wait for a claim that is under way
RELEASE_S = COMMAND_TIMEOUT_S + 1  # one command may go unanswered

RunJob = Callable[[ActiveJob], Coroutine[Any, Any, Outcome]]

log = structlog.get_logger(__name__)


class LeasedWorker:
    """Run the jobs of one queue."""

    def __init__(
        self,
        *,
        queue: JobQueue,
        worker_id: str,
        run_job: RunJob,
        capacity: Capacity,
        lease_ms: int,
        enable_wake_ups: Callable[[bool], None] = lambda _: None,
        on_first_start: Callable[[float], None] = lambda _: None,
        on_attempt: Callable[[str], None] = lambda _: None,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        """Run each claimed job by `run_job`; claim no job while `may_claim` returns False.

        `enable_wake_ups` gets whether a wake-up could lead to a claim now. `on_first_start` gets
        the seconds from the acceptance to the first attempt of a job. `on_attempt` gets the end of
        each run: the job's status, "released" or "lost".
        """
        self.worker_id = worker_id
        self.active: dict[str, ActiveJob] = {}  # by job id
        self.jobs_complete = 0
        self.renewal_due = asyncio.Event()  # set when leases must be renewed ahead of schedule
        self._queue = queue
        self._lifecycle = JobLifecycle(queue, worker_id, lease_ms)
        self._run_job = run_job
        self._capacity = capacity
        self._claim_lease_ms = min(lease_ms, CLAIM_LEASE_MS)
        self._enable_wake_ups = enable_wake_ups
        self._on_first_start = on_first_start
        self._on_attempt = on_attempt
        self._may_claim = may_claim
        self._background: set[asyncio.Task[object]] = set()  # jobs, and writes about them
        self._is_waiting_for_wake_ups = self._is_draining = self._is_releasing = False
        self._woken, self._idle = asyncio.Event(), asyncio.Event()
        self._claims_ended, self._grace_skipped = asyncio.Event(), asyncio.Event()
        self._woken.set()
        self._idle.set()

    @property
    def free_capacity(self) -> FreeCapacity:
        return self._capacity.remaining_after(self.active.values())

    # -- claiming ----------------------------------------------------------------------------

    def wake(self) -> None:
        """Look for jobs now."""
        self._woken.set()

    async def run(self) -> None:
        """Claim and start jobs until `drain` is called."""
        while not self._is_draining:
            await wait_at_most(POLL_S, self._woken.wait())
            self._woken.clear()
            await retry_until_reachable(self._claim, log, "claim failed, will retry")
        self._claims_ended.set()

    async def _claim(self) -> None:
        if self._is_draining:
            return
        if not self._may_claim():
            self._set_waiting_for_wake_ups(False)
            return
        claim = await self._queue.claim(
            self.worker_id,
            self.free_capacity,
            lease_ms=self._claim_lease_ms,
            max_attempts=self._capacity.max_attempts,
        )
        if claim.is_after_outage:
            self.renewal_due.set()
        for claimed in claim.jobs:
            if active := self.active.get(claimed.job.id):
                self._renew_by_claim(active, claimed)
            else:
                self._accept(claimed)
        for dead in claim.dead_letters:
            if active := self.active.get(dead.job_id):
                self._renew_by_claim(active, dead)
            else:
                self._spawn(self._lifecycle.fail_dead_letter(dead), dead.job_id)
        self._set_waiting_for_wake_ups(self.free_capacity.rows > 0 and not claim.lacks_capacity)
        if not claim.blocked_rows and any(one.job.gives_way for one in self.active.values()):
            self._enable_wake_ups(True)  # a job of no batch takes their rows at once
        for active in giving_way(claim, self.free_capacity, [*self.active.values()]):
            active.stop()  # its release wakes this worker

    def _set_waiting_for_wake_ups(self, is_waiting: bool) -> None:
        self._is_waiting_for_wake_ups = is_waiting
        self._enable_wake_ups(is_waiting)

    def _renew_by_claim(self, active: ActiveJob, lease: Lease) -> None:
        """Continue an active job under a new lease, or release that lease if the run must end.

        The old lease expired before this worker renewed it.
        """
        job_id = active.job.id
        may_miss_tokens = active.job.stream and active.missed_lease_before(lease)
        if may_miss_tokens:  # the job's log may hold later tokens of another worker
            self.lose_lease(job_id, active.fencing_token)
        if may_miss_tokens or active.has_lost_lease or active.is_stopped:
            self._spawn(self._release_after(active, lease.fencing_token), job_id)
        else:
            active.use_lease(lease)
            self._spawn(self._start(active), job_id)

    async def _release_after(self, active: ActiveJob, fencing_token: int) -> None:
        """Release the new lease once the old run has ended: earlier, this worker would claim it."""
        await active.ended.wait()
        await self._lifecycle.release(active.job.id, fencing_token)

    def _accept(self, claimed: ClaimedJob) -> None:
        job_id = claimed.job.id
        if self._is_releasing:  # the claim's answer came after the grace period
            self._spawn(self._lifecycle.release(job_id, claimed.fencing_token), job_id)
            return
        self.active[job_id] = active = self._capacity.to_active_job(claimed)
        self._spawn(self._run(active), job_id)

    # -- running -----------------------------------------------------------------------------

    async def _run(self, active: ActiveJob) -> None:
        try:
            if await self._start(active):
                await self._execute(active)
                await self._end(active)
        finally:
            del self.active[active.job.id]
            active.ended.set()
            if not self._is_waiting_for_wake_ups:
                self.wake()

    async def _start(self, active: ActiveJob) -> bool:
        """Record the start, or the new lease of a run; return whether it may continue."""
        is_owner = await self._lifecycle.start(active)
        if not is_owner:
            self.lose_lease(active.job.id, active.fencing_token)
        return is_owner

    async def _execute(self, active: ActiveJob) -> None:
        """Run the job's task in a task of its own, which `stop` can cancel."""
        if active.is_stopped:
            return
        if active.attempt == 1:
            self._on_first_start(active.waited_s)
        active.run = asyncio.create_task(self._run_job(active))
        await asyncio.wait([active.run])
        active.outcome = outcome_of(active, active.run)
        if active.outcome is not None:
            self.jobs_complete += 1

    async def _end(self, active: ActiveJob) -> None:
        if active.has_lost_lease:
            self._on_attempt("lost")
        elif active.outcome is not None:
            await self._lifecycle.finish(active, active.outcome)
            self._on_attempt(active.outcome.status)
        else:
            await self._lifecycle.release(active.job.id, active.fencing_token)
            self._on_attempt("released")

    def _spawn(self, work: Coroutine[Any, Any, object], job_id: str) -> None:
        """Run the work on a job in the background; a shutdown waits for it."""
        self._idle.clear()
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(partial(self._forget, job_id))

    def _forget(self, job_id: str, task: asyncio.Task[object]) -> None:
        self._background.discard(task)
        if not self._background:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("work on a job failed", job_id=job_id, exc_info=error)

    # -- stopping jobs -----------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        """Cancel a job for its client; do nothing if the job has ended."""
        if active := self.active.get(job_id):
            active.cancel()

    def lose_lease(self, job_id: str, fencing_token: int) -> None:
        """Stop a run that lost its lease with this fencing token; write nothing about it."""
        active = self.active.get(job_id)
        if active is not None and active.fencing_token == fencing_token and active.outcome is None:
            log.warning("lost the lease of a job", job_id=job_id)
            active.has_lost_lease = True
            active.stop()

    def abandon_leases(self) -> None:
        """Write nothing more about active jobs: the engine died, and each start is an attempt."""
        for active in self.active.values():
            active.has_lost_lease = True

    async def drain(self, grace_s: float) -> None:
        """Stop claiming, let jobs finish for `grace_s`, then release the rest.

        Returns when every job has ended or is released, or after RELEASE_S more.
        """
        self._is_draining = True
        self.wake()
        await wait_at_most(LAST_CLAIM_S, self._claims_ended.wait())
        await wait_at_most(grace_s, self._idle_or_grace_skipped())
        if self.active:
            log.info("releasing jobs", jobs=len(self.active))
        self._is_releasing = True
        for active in self.active.values():
            active.stop()
        await wait_at_most(RELEASE_S, self._idle.wait())

    def skip_grace_period(self) -> None:
        """End the grace period of the current or next drain."""
        self._grace_skipped.set()

    async def _idle_or_grace_skipped(self) -> None:
        events = (self._idle, self._grace_skipped)
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all(waits)


def outcome_of(active: ActiveJob, run: asyncio.Task[Outcome]) -> Outcome | None:
    """Return how a finished run ended its job; None if it was stopped before the job's end.

    An unexpected error fails the job, because the job would fail on the next worker too.
    """
    error = asyncio.CancelledError() if run.cancelled() else run.exception()
    if error is None:
        return run.result()
    if active.is_stopped or active.has_lost_lease:
        return None
    log.error("job failed by an unexpected error", job_id=active.job.id, exc_info=error)
    return failed(
        active.job.id,
        active.attempt,
        f"the worker failed on this job: {type(error).__name__}; see its log",
    )
