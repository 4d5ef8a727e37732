"""Stock arq reads the jobs of a worker: state, information and result."""

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.jobs import JobStatus as ArqJobStatus

from shared.queue.arq_format import JobFailed, deserialize
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from tests.worker.jobs.workers import (
    WAIT_S,
    ended,
    enqueue,
    eventually,
    make_worker,
    running,
    started,
    succeed,
    until_cancelled,
)
from worker.jobs.active_job import ActiveJob


def arq_job(redis: ArqRedis, keys: Keys, job_id: str) -> Job:
    return Job(job_id, redis=redis, _queue_name=keys.queue, _deserializer=deserialize)


async def status_is(job: Job, status: ArqJobStatus) -> None:
    async def has_status() -> bool:
        return await job.status() is status

    await eventually(has_status)


async def test_a_job_is_queued_then_in_progress_then_complete(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    job = arq_job(redis, keys, job_id)
    # arq counts whole milliseconds, a job's score has fractions: at first it may look deferred.
    await status_is(job, ArqJobStatus.queued)
    info = await job.info()
    assert info is not None
    assert (info.function, info.args, info.kwargs, info.job_try) == ("chat", [], {}, None)
    assert info.score is not None

    may_end = asyncio.Event()

    async def task(active: ActiveJob) -> Any:
        await may_end.wait()
        return await succeed(active)

    worker = make_worker(redis, keys, task)
    async with running(worker):
        await started(worker, job_id)
        assert await job.status() is ArqJobStatus.in_progress
        assert await job.result_info() is None
        may_end.set()
        result = await job.result(timeout=WAIT_S)
    assert await job.status() is ArqJobStatus.complete
    assert result["result"]["Result"] == "Hello world"
    result_info = await job.result_info()
    assert result_info is not None
    assert (result_info.success, result_info.job_try) == (True, 1)
    assert result_info.enqueue_time <= result_info.start_time <= result_info.finish_time
    assert (result_info.queue_name, result_info.job_id) == (keys.queue, job_id)


async def test_the_result_of_a_failed_job_raises_its_message(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)

    async def fail(_: ActiveJob) -> Any:
        raise ZeroDivisionError

    job = arq_job(redis, keys, job_id)
    async with running(make_worker(redis, keys, fail)):
        with pytest.raises(JobFailed, match="the worker failed on this job"):
            await job.result(timeout=WAIT_S)
    assert await job.status() is ArqJobStatus.complete
    info = await job.info()
    assert info is not None and info.function == "chat"


async def test_the_result_of_a_cancelled_job_raises(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    waiting, active = await enqueue(queue, 2)
    await queue.cancel(waiting)
    worker = make_worker(redis, keys, until_cancelled)
    async with running(worker):
        await started(worker, active)
        worker.cancel(active)
        await ended(queue, active)
    for job_id in (waiting, active):
        job = arq_job(redis, keys, job_id)
        assert await job.status() is ArqJobStatus.complete
        with pytest.raises(JobFailed, match="cancelled"):
            await job.result(timeout=WAIT_S)


async def test_arqs_client_lists_waiting_jobs_and_results(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    done, waiting = await enqueue(queue, 2)
    worker = make_worker(redis, keys, succeed, rows=1)
    async with running(worker):
        await ended(queue, done)
        await ended(queue, waiting)
    [waiting] = await enqueue(queue)
    client = ArqRedis(
        connection_pool=redis.connection_pool,
        job_deserializer=deserialize,
        default_queue_name=keys.queue,
    )
    assert [job.job_id for job in await client.queued_jobs()] == [waiting]
    results = await client.all_job_results()
    assert [result.function for result in results] == ["chat", "chat"]
    assert done in {result.job_id for result in results}
