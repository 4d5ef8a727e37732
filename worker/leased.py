"""arq's worker with leases: it keeps `main` and replaces how jobs come, run and go.

Jobs are claimed when they fit, and end by scripts that check the lease. Knows neither model nor
engine: a `Task` runs a job, `Capacity` says how much fits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func

from shared.arq_format import FUNCTION, deserialize, serialize
from shared.backoff import Backoff
from shared.claims import ClaimedJob, Lease, Room
from shared.connection import UNREACHABLE
from shared.keys import Keys
from shared.protocol import Outcome
from shared.queue import JobQueue
from shared.tasks import cancel_all
from worker.absence import Absence
from worker.capacity import Capacity
from worker.endings import Endings, failed
from worker.held_job import HeldJob

POLL_S = 1.0  # without a wake-up: how soon an expired lease is noticed

# A claim whose answer is lost leases jobs to a worker that does not know: they come back this soon.
CLAIM_LEASE_MS = 2000
LAST_CLAIM_S = 1.0  # how long a stop waits for a claim that is under way
HAND_BACK_S = 1.0

Task = Callable[[HeldJob], Awaitable[Outcome]]

log = structlog.get_logger(__name__)


class LeasedWorker(Worker):
    """Claims what fits, runs it, and gives back what it cannot finish.

    `nudge` makes it look for jobs now; `on_room(False)` says that waking it would be in vain.
    `on_attempt` hears how each run ended: by the job's status, "handed back" or "lost".
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
        self.held: dict[str, HeldJob] = {}
        self._queue = JobQueue(pool, keys)
        self._endings = Endings(self._queue, worker_id)
        self._task = task
        self._capacity = capacity
        self._lease_ms = lease_ms
        self._on_room = on_room
        self._on_attempt = on_attempt
        self._is_listening = False
        self._backoff = Backoff()
        self._absence = Absence()
        self._nudged = asyncio.Event()
        self._nudged.set()
        self._claims_ended = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._hurried = asyncio.Event()

    # -- claiming ----------------------------------------------------------------------------

    def nudge(self) -> None:
        self._nudged.set()

    async def _poll_iteration(self) -> None:
        """Wait for a reason to look, then claim. arq's `main` calls it for ever."""
        await _wait(self._nudged.wait(), POLL_S)
        self._nudged.clear()
        if not self.allow_pick_jobs:
            self._claims_ended.set()
            await asyncio.Event().wait()  # until `main` is cancelled
        try:
            await self._claim()
            self._backoff.reset()
        except UNREACHABLE as error:
            log.warning("no claim: Redis is away", error=str(error))
            self._absence.failed()
            await asyncio.sleep(self._backoff.next_s())

    async def _claim(self) -> None:
        claim = await self._queue.claim(
            self.worker_id,
            self.room,
            lease_ms=min(self._lease_ms, CLAIM_LEASE_MS),
            max_attempts=self._capacity.max_attempts,
            overdue_ms=round(1000 * self._absence.overdue_s),
        )
        self._absence.answered()
        for claimed in claim.jobs:
            if not self._takes_over(claimed.job.id, claimed):
                self._start(claimed)
        for hopeless in claim.hopeless:
            if not self._takes_over(hopeless.job_id, hopeless):
                name = f"{hopeless.job_id}:{hopeless.fence}"
                self._begin(name, partial(self._endings.give_up, hopeless))
        self._is_listening = self.room.rows > 0 and not claim.is_stalled
        self._on_room(self._is_listening)

    @property
    def room(self) -> Room:
        return self._capacity.room(self.held.values())

    def _takes_over(self, job_id: str, lease: Lease) -> bool:
        """Whether the worker had the job already: its lease ran out, and here it is again."""
        held = self.held.get(job_id)
        if held is None:
            return False
        others_told = held.job.stream and lease.earlier_fence > held.fence  # who had it meanwhile
        if others_told:  # tokens that this run does not know: it begins anew, from the log
            self.lose(job_id, held.fence)
        if others_told or held.is_lost or held.is_stopped:  # what is left writes nothing
            remains = self.tasks[job_id]
            name = f"{job_id}:{lease.fence}"
            self._begin(name, partial(self._hand_back, job_id, lease.fence, remains))
        else:
            held.fence = lease.fence
            self._begin(f"{job_id}:{lease.fence}", partial(self._begins, held))
        return True

    async def _hand_back(self, job_id: str, fence: int, remains: asyncio.Task[Any]) -> None:
        await asyncio.wait([remains])  # or this worker would claim it again, and again
        await self._endings.release(job_id, fence)

    def _start(self, claimed: ClaimedJob) -> None:
        held = self._capacity.hold(claimed)
        self.held[claimed.job.id] = held
        self._begin(claimed.job.id, partial(self._run, held))

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

    async def _run(self, held: HeldJob) -> None:
        job_id = held.job.id
        try:
            if await self._begins(held):
                await self.run_job(job_id, held.claimed.created_ms)
        finally:
            del self.held[job_id]
            if not self._is_listening:  # else the wake list tells of what is ready
                self.nudge()

    async def _begins(self, held: HeldJob) -> bool:
        """Once Redis answers; whether the job is still this worker's then."""
        job_id, backoff = held.job.id, Backoff()
        while True:
            fence = held.fence  # another one if the worker claims the job again meanwhile
            try:
                if await self._queue.begin(
                    self.worker_id, job_id, fence=fence, lease_ms=self._lease_ms
                ):
                    return True
            except UNREACHABLE as error:
                log.warning("a job waits for Redis", job_id=job_id, error=str(error))
                await asyncio.sleep(backoff.next_s())
                continue
            if fence == held.fence:
                self.lose(job_id, fence)
                return False

    async def run_job(self, job_id: str, score: int) -> None:
        """In place of arq's, whose notes in Redis are not fenced and need memory to be free."""
        held = self.held[job_id]
        self.job_tasks[job_id] = body = self.loop.create_task(self._run_task({"job_id": job_id}))
        try:
            await asyncio.wait([body])
        finally:
            del self.job_tasks[job_id]
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
            held.outcome = failed(held.job.id, held.attempt, "the worker failed on this job")

    def cancel(self, job_id: str) -> None:
        """A caller wants no more of this job; harmless when it has ended."""
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

    def _stop(self, held: HeldJob) -> None:
        """End it without an outcome, whether it runs or has yet to begin."""
        held.is_stopped = True
        if body := self.job_tasks.get(held.job.id):
            body.cancel()

    # -- ending ------------------------------------------------------------------------------

    async def _end(self, held: HeldJob) -> None:
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
        await _wait(self._claims_ended.wait(), LAST_CLAIM_S)
        await _wait(self._empty_or_hurried(), grace_s)
        if self.held:
            log.info("handing jobs back", jobs=len(self.held))
        for held in self.held.values():
            self._stop(held)
        await _wait(self._empty.wait(), HAND_BACK_S)

    def hurry(self) -> None:
        """End the grace period of a drain that is under way or to come."""
        self._hurried.set()

    async def _empty_or_hurried(self) -> None:
        waits = [self.loop.create_task(event.wait()) for event in (self._empty, self._hurried)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all(waits)


async def _wait(happening: Awaitable[object], timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await happening
