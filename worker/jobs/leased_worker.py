"""arq's worker with leases: it keeps `main` and replaces how jobs come, run and go.

Jobs are claimed when they fit, and end by scripts that check the lease. Knows neither model nor
engine: a `Task` runs a job, `Capacity` says how much fits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func

from shared.process.asyncio_tasks import cancel_all, wait_at_most
from shared.protocol import Outcome
from shared.queue.arq_format import FUNCTION, deserialize, serialize
from shared.queue.claims import ClaimedJob, Lease, Room
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import COMMAND_TIMEOUT_S, UNREACHABLE
from shared.redis.retry import Backoff
from worker.jobs.active_job import ActiveJob
from worker.jobs.beginnings import Beginnings
from worker.jobs.capacity import Capacity
from worker.jobs.endings import Endings, broken, broken_off

POLL_S = 1.0  # without a wake-up: how soon an expired lease is noticed

# A claim whose answer is lost leases jobs to a worker that does not know: they come back this soon.
CLAIM_LEASE_MS = 2000
LAST_CLAIM_S = 1.0  # how long a stop waits for a claim that is under way
HAND_BACK_S = COMMAND_TIMEOUT_S + 1  # one command may go unanswered

Task = Callable[[ActiveJob], Awaitable[Outcome]]

log = structlog.get_logger(__name__)


class LeasedWorker(Worker):
    """Claims what fits, runs it, and gives back what it cannot finish.

    `nudge` makes it look for jobs now; `on_room(False)` says that waking it would be in vain.
    `on_attempt` hears how each run ended: by the job's status, "handed back" or "lost". It claims
    nothing while `may_claim` says no.
    """

    def __init__(
        self,
        *,
        pool: ArqRedis,
        keys: Keys,
        worker_id: str,
        task: Task,
        capacity: Capacity,
        lease_ms: int,
        on_room: Callable[[bool], None] = lambda _: None,
        on_attempt: Callable[[str], None] = lambda _: None,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(
            functions=[func(self._run_task, name=FUNCTION)],
            queue_name=keys.queue,
            redis_pool=pool,
            handle_signals=False,
            max_jobs=capacity.rows,
            poll_delay=0,
            job_serializer=serialize,
            job_deserializer=deserialize,
        )
        self.worker_id = worker_id
        self.held: dict[str, ActiveJob] = {}
        self._queue = JobQueue(pool, keys)
        self._beginnings = Beginnings(self._queue, worker_id, lease_ms)
        self._endings = Endings(self._queue, worker_id)
        self._task = task
        self._capacity = capacity
        self._lease_ms = lease_ms
        self._on_room = on_room
        self._on_attempt = on_attempt
        self._may_claim = may_claim
        self._is_listening = self._hands_back = False
        self._backoff = Backoff()
        self._nudged = asyncio.Event()
        self._nudged.set()
        self._claims_ended = asyncio.Event()
        self._empty, self._hurried = asyncio.Event(), asyncio.Event()
        self._empty.set()
        self.renewal_due = asyncio.Event()  # sooner than at the usual pace

    # -- claiming ----------------------------------------------------------------------------

    def nudge(self) -> None:
        self._nudged.set()

    async def _poll_iteration(self) -> None:
        """Wait for a reason to look, then claim. arq's `main` calls it for ever."""
        await wait_at_most(POLL_S, self._nudged.wait())
        self._nudged.clear()
        if not self.allow_pick_jobs:
            self._claims_ended.set()
            await asyncio.Event().wait()  # until `main` is cancelled
        if not self._may_claim():
            self._listen(False)  # wake-ups are for workers that can claim
            return
        try:
            await self._claim()
            self._backoff.reset()
        except UNREACHABLE as error:
            log.warning("no claim: Redis is away", error=str(error))
            await asyncio.sleep(self._backoff.next_s())

    async def _claim(self) -> None:
        claim = await self._queue.claim(
            self.worker_id,
            self.room,
            lease_ms=min(self._lease_ms, CLAIM_LEASE_MS),
            max_attempts=self._capacity.max_attempts,
        )
        if claim.is_after_outage:
            self.renewal_due.set()
        for claimed in claim.jobs:
            if not self._takes_over(claimed.job.id, claimed):
                self._start(claimed)
        for hopeless in claim.hopeless:
            if not self._takes_over(hopeless.job_id, hopeless):
                name = f"{hopeless.job_id}:{hopeless.fence}"
                self._begin(name, partial(self._endings.give_up, hopeless))
        self._listen(self.room.rows > 0 and not claim.is_stalled)

    def _listen(self, is_listening: bool) -> None:
        self._is_listening = is_listening
        self._on_room(is_listening)

    @property
    def room(self) -> Room:
        return self._capacity.room(self.held.values())

    def _takes_over(self, job_id: str, lease: Lease) -> bool:
        """Whether the worker had the job already: its lease ran out, and here it is again."""
        held = self.held.get(job_id)
        if held is None:
            return False
        if held.is_outdated_by(lease):
            self.lose(job_id, held.fence)
        name = f"{job_id}:{lease.fence}"
        if held.is_outdated_by(lease) or held.is_lost or held.is_stopped:
            remains = self.tasks[job_id]  # with the fence of old it writes nothing
            self._begin(name, partial(self._hand_back, job_id, lease.fence, remains))
        else:
            held.take_over(lease)
            self._begin(name, partial(self._begins, held))
        return True

    async def _hand_back(self, job_id: str, fence: int, remains: asyncio.Task[Any]) -> None:
        await asyncio.wait([remains])  # or this worker would claim it again, and again
        await self._endings.release(job_id, fence)

    def _start(self, claimed: ClaimedJob) -> None:
        job_id = claimed.job.id
        if self._hands_back:  # the answer came late
            self._begin(job_id, partial(self._endings.release, job_id, claimed.fence))
            return
        held = self._capacity.hold(claimed)
        self.held[job_id] = held
        self._begin(job_id, partial(self._run, held))

    def _begin(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """As one of arq's tasks, which end before the worker does."""
        self._empty.clear()
        self.tasks[name] = self.loop.create_task(self._until_done(name, work))

    async def _until_done(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        finally:
            del self.tasks[name]
            if not self.tasks:
                self._empty.set()

    # -- running -----------------------------------------------------------------------------

    async def _run(self, held: ActiveJob) -> None:
        job_id = held.job.id
        try:
            if await self._begins(held):
                await self.run_job(job_id, held.claimed.created_ms)
        finally:
            del self.held[job_id]
            if not self._is_listening:  # else the wake list tells of what is ready
                self.nudge()

    async def _begins(self, held: ActiveJob) -> bool:
        """Once Redis answers; whether the job is still this worker's then."""
        is_begun = await self._beginnings.begin(held)
        if not is_begun:
            self.lose(held.job.id, held.fence)
        return is_begun

    async def run_job(self, job_id: str, score: int) -> None:
        """In place of arq's, whose notes in Redis are not fenced and need memory to be free."""
        held = self.held[job_id]
        self.job_tasks[job_id] = body = self.loop.create_task(self._run_task({"job_id": job_id}))
        try:
            await asyncio.wait([body])
        finally:
            del self.job_tasks[job_id]
        if held.outcome is None and not (held.is_stopped or held.is_lost):
            held.outcome = broken_off(held, body)  # the next worker would fare no better
        if held.outcome is not None:
            self.jobs_complete += 1
        await asyncio.shield(self._end(held))

    async def _run_task(self, ctx: dict[Any, Any]) -> None:
        """The job's function, in arq's form."""
        held = self.held[ctx["job_id"]]
        if held.is_stopped:
            raise asyncio.CancelledError
        try:
            held.outcome = await self._task(held)
        except Exception:  # the task's border: one broken job must not end the worker
            log.exception("a job failed unexpectedly", job_id=held.job.id)
            held.outcome = broken(held)

    def cancel(self, job_id: str) -> None:
        """Cancel a job at the request of a client; without effect once the job has ended."""
        if held := self.held.get(job_id):
            held.cancel()

    def lose(self, job_id: str, fence: int) -> None:
        """The lease with this fence is another worker's: stop the job here and write nothing."""
        held = self.held.get(job_id)
        if held is not None and held.fence == fence and held.outcome is None:
            log.warning("lost the lease of a job", job_id=job_id)
            held.is_lost = True
            self._stop(held)

    def abandon(self) -> None:
        """The engine is gone: hand nothing back, so that each job's attempt counts as a death."""
        for held in self.held.values():
            held.is_lost = True

    def _stop(self, held: ActiveJob) -> None:
        """End it without an outcome, whether it runs or has yet to begin."""
        held.is_stopped = True
        if body := self.job_tasks.get(held.job.id):
            body.cancel()

    # -- ending ------------------------------------------------------------------------------

    async def _end(self, held: ActiveJob) -> None:
        """Waits for Redis as long as it takes."""
        if held.is_lost:
            self._on_attempt("lost")
        elif held.outcome is not None:
            await self._endings.finish(held, held.outcome)
            self._on_attempt(held.outcome.status)
        else:
            await self._endings.release(held.job.id, held.fence)
            self._on_attempt("handed back")

    # -- stopping ----------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> None:
        """Claim nothing more, let jobs finish for `grace_s`, hand the rest back.

        Returns when every job is written or handed back, or Redis is too slow to be told.
        """
        self.allow_pick_jobs = False
        self.nudge()
        await wait_at_most(LAST_CLAIM_S, self._claims_ended.wait())
        await wait_at_most(grace_s, self._empty_or_hurried())
        if self.held:
            log.info("handing jobs back", jobs=len(self.held))
        self._hands_back = True
        for held in self.held.values():
            self._stop(held)
        await wait_at_most(HAND_BACK_S, self._empty.wait())

    def hurry(self) -> None:
        """End the grace period of a drain that is under way or to come."""
        self._hurried.set()

    async def _empty_or_hurried(self) -> None:
        waits = [self.loop.create_task(event.wait()) for event in (self._empty, self._hurried)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all(waits)
