"""Workers without a model, tasks for them to run, and waiting for the state of jobs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from arq.connections import ArqRedis

from shared.process.asyncio_tasks import cancel_all
from shared.protocol import Failed, JobRecord, JobStatus, Outcome
from shared.queue.arq_format import CANCELLED
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from tests.factories import make_job, make_succeeded
from worker.jobs.active_job import ActiveJob
from worker.jobs.capacity import Capacity
from worker.jobs.leased_worker import LeasedWorker, RunJob

WAIT_S = 30.0


def make_worker(
    redis: ArqRedis,
    keys: Keys,
    task: RunJob,
    *,
    name: str = "w1",
    rows: int = 8,
    on_first_start: Callable[[float], None] = lambda _: None,
    on_attempt: Callable[[str], None] = lambda _: None,
    may_claim: Callable[[], bool] = lambda: True,
) -> LeasedWorker:
    return LeasedWorker(
        queue=JobQueue(redis, keys),
        worker_id=name,
        run_job=task,
        capacity=Capacity(rows=rows, kv_tokens=10_000, max_attempts=3),
        lease_ms=60_000,
        on_first_start=on_first_start,
        on_attempt=on_attempt,
        may_claim=may_claim,
    )


@asynccontextmanager
async def running(*workers: LeasedWorker) -> AsyncIterator[None]:
    """Run the workers; at the end, cancel every task that was started meanwhile."""
    before = asyncio.all_tasks()
    runs = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        await cancel_all([*runs, *(asyncio.all_tasks() - before)])


async def enqueue(queue: JobQueue, count: int = 1) -> list[str]:
    ids = []
    for _ in range(count):
        enqueued = await queue.enqueue(make_job(), reply_to=None, max_queued=100_000)
        ids.append(enqueued.job_id)
    return ids


async def eventually(holds: Callable[[], Awaitable[bool] | bool]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while True:
        result = holds()
        if result if isinstance(result, bool) else await result:
            return
        assert asyncio.get_running_loop().time() < deadline, "the condition never held"
        await asyncio.sleep(0.005)


async def started(worker: LeasedWorker, job_id: str) -> ActiveJob:
    """Wait until the worker runs the job."""
    await eventually(lambda: job_id in worker.active and worker.active[job_id].run is not None)
    return worker.active[job_id]


async def ended(queue: JobQueue, job_id: str) -> JobRecord:
    records: list[JobRecord] = []

    async def has_ended() -> bool:
        record = await queue.record(job_id)
        assert record is not None
        records.append(record)
        return record.status.is_terminal

    await eventually(has_ended)
    return records[-1]


async def succeed(active: ActiveJob) -> Outcome:
    return make_succeeded(active.job.id, attempt=active.attempt)


async def never(active: ActiveJob) -> Outcome:
    await active.finished_or_cancelled.wait()
    raise AssertionError("the job must not change")


async def until_cancelled(active: ActiveJob) -> Outcome:
    await active.finished_or_cancelled.wait()
    assert active.is_cancelled
    return Failed(
        job_id=active.job.id, attempt=active.attempt, status=JobStatus.CANCELLED, error=CANCELLED
    )
