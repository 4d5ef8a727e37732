"""Workers without a model, the tasks they run, and what becomes of jobs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from arq.connections import ArqRedis

from shared.process.asyncio_tasks import cancel_all
from shared.protocol import Failed, JobRecord, JobStatus, Outcome
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.terminal_outcomes import CANCELLED
from tests.factories import make_finished, make_job
from worker.jobs.active_job import ActiveJob
from worker.jobs.capacity import Capacity
from worker.jobs.leased_worker import LeasedWorker, Task

WAIT_S = 30.0


def make_worker(
    redis: ArqRedis,
    keys: Keys,
    task: Task,
    *,
    name: str = "w1",
    rows: int = 8,
    on_attempt: Callable[[str], None] = lambda _: None,
    may_claim: Callable[[], bool] = lambda: True,
) -> LeasedWorker:
    return LeasedWorker(
        pool=redis,
        keys=keys,
        worker_id=name,
        task=task,
        capacity=Capacity(rows=rows, tokens=10_000, max_attempts=3),
        lease_ms=60_000,
        on_attempt=on_attempt,
        may_claim=may_claim,
    )


@asynccontextmanager
async def running(*workers: LeasedWorker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(worker.async_run()) for worker in workers]
    try:
        yield
    finally:
        await cancel_all([*tasks, *(t for worker in workers for t in worker.tasks.values())])


async def enqueue(queue: JobQueue, count: int = 1) -> list[str]:
    ids = []
    for _ in range(count):
        enqueued = await queue.enqueue(make_job(), reply_to=None, max_queued=100_000)
        ids.append(enqueued.job_id)
    return ids


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not await holds():
        assert asyncio.get_running_loop().time() < deadline, "it never came about"
        await asyncio.sleep(0.005)


async def ended(queue: JobQueue, job_id: str) -> JobRecord:
    records: list[JobRecord] = []

    async def has_ended() -> bool:
        record = await queue.record(job_id)
        assert record is not None
        records.append(record)
        return record.status.is_terminal

    await eventually(has_ended)
    return records[-1]


async def succeed(held: ActiveJob) -> Outcome:
    return make_finished(held.job.id, attempt=held.attempt)


async def never(held: ActiveJob) -> Outcome:
    await held.changed.wait()
    raise AssertionError("nobody changed it")


async def until_cancelled(held: ActiveJob) -> Outcome:
    await held.changed.wait()
    assert held.is_cancelled
    return Failed(
        job_id=held.job.id, attempt=held.attempt, status=JobStatus.CANCELLED, error=CANCELLED
    )
