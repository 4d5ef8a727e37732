"""When a worker claims: not while its engine may be stuck, or needs an empty worker."""

import asyncio

from arq.connections import ArqRedis

from shared.protocol import JobStatus, Outcome
from shared.queue.claims import Room
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from tests.factories import make_finished
from tests.worker.jobs.workers import ended, enqueue, eventually, make_worker, running, succeed
from worker.jobs.active_job import ActiveJob

EMPTY = Room(rows=8, tokens=10_000, running=0)


async def test_a_worker_whose_engine_may_be_stuck_leaves_jobs_to_others(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    asked, may_claim = 0, False

    def ask() -> bool:
        nonlocal asked
        asked += 1
        return may_claim

    late = make_worker(redis, keys, succeed, name="late", may_claim=ask)
    async with running(late):
        [job_id] = await enqueue(queue)

        async def was_asked() -> bool:
            late.nudge()
            return asked > 3

        await eventually(was_asked)
        async with running(make_worker(redis, keys, succeed, name="other")):
            assert (await ended(queue, job_id)).worker == "other"
        may_claim = True
        [job_id] = await enqueue(queue)
        assert (await ended(queue, job_id)).worker == "late"


async def test_a_job_on_its_last_attempt_runs_alone_beside_workers_at_work(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    """Callers keep two workers busy; the suspect runs, alone, and no worker but one pauses."""
    [suspect] = await enqueue(queue)
    for worker in ("dead-1", "dead-2"):
        [held] = (await queue.claim(worker, EMPTY, lease_ms=-1000)).jobs
        await queue.begin(worker, suspect, fence=held.fence, lease_ms=-1000, attempts=held.attempts)
    company: list[int] = []

    async def briefly(held: ActiveJob) -> Outcome:
        [at_work] = [worker for worker in workers if held.job.id in worker.held]
        if held.job.id == suspect:
            company.append(len(at_work.held))
        await asyncio.sleep(0.01)
        return make_finished(held.job.id, attempt=held.attempt)

    async def keep_busy() -> None:
        while True:
            if (await queue.depth()).waiting < 20:
                await enqueue(queue, 20)
            await asyncio.sleep(0.005)

    workers = [make_worker(redis, keys, briefly, name=name, rows=4) for name in ("w1", "w2")]
    callers = asyncio.create_task(keep_busy())
    async with running(*workers):
        record = await ended(queue, suspect)
    callers.cancel()
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 3)
    assert company == [1]
