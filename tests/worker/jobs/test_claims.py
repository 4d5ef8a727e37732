"""When a worker claims: not while its engine may be stuck, or while a job must run alone."""

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


async def test_a_worker_whose_engine_may_be_stuck_claims_nothing(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    num_checks, is_allowed = 0, False

    def may_claim() -> bool:
        nonlocal num_checks
        num_checks += 1
        return is_allowed

    late = make_worker(redis, keys, succeed, name="late", may_claim=may_claim)
    async with running(late):
        [job_id] = await enqueue(queue)

        def was_checked() -> bool:
            late.wake()
            return num_checks > 3

        await eventually(was_checked)
        async with running(make_worker(redis, keys, succeed, name="other")):
            assert (await ended(queue, job_id)).worker == "other"
        is_allowed = True
        [job_id] = await enqueue(queue)
        assert (await ended(queue, job_id)).worker == "late"


async def test_a_job_on_its_last_attempt_runs_alone_although_all_workers_are_busy(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [suspect] = await enqueue(queue)
    for worker in ("dead-1", "dead-2"):
        [claimed] = (await queue.claim(worker, EMPTY, lease_ms=-1000)).jobs
        await queue.begin(
            worker, suspect, fence=claimed.fence, lease_ms=-1000, attempts=claimed.attempts
        )
    num_active: list[int] = []

    async def briefly(active: ActiveJob) -> Outcome:
        [at_work] = [worker for worker in workers if active.job.id in worker.active]
        if active.job.id == suspect:
            num_active.append(len(at_work.active))
        await asyncio.sleep(0.01)
        return make_finished(active.job.id, attempt=active.attempt)

    async def keep_busy() -> None:
        while True:
            if (await queue.depth()).waiting < 20:
                await enqueue(queue, 20)
            await asyncio.sleep(0.005)

    workers = [make_worker(redis, keys, briefly, name=name, rows=4) for name in ("w1", "w2")]
    async with running(*workers):
        callers = asyncio.create_task(keep_busy())
        record = await ended(queue, suspect)
        callers.cancel()
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 3)
    assert num_active == [1]
