"""How a worker claims, runs and ends jobs, with tasks that have no model."""

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ConnectionError

from shared.batches.lane import BatchLane
from shared.process.asyncio_tasks import cancel_all
from shared.protocol import BATCH_PRIORITY, JobStatus, Outcome, encode
from shared.queue.backlog import Depth
from shared.queue.claims import StartResult
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from tests.factories import make_job
from tests.worker.jobs.workers import (
    WAIT_S,
    ended,
    enqueue,
    eventually,
    make_worker,
    never,
    running,
    started,
    succeed,
    until_cancelled,
)
from worker.jobs.active_job import ActiveJob
from worker.jobs.redis_loops import BLOCK_S, ListConsumer


async def test_jobs_run_and_end(redis: ArqRedis, keys: Keys, queue: JobQueue) -> None:
    ids = await enqueue(queue, 20)
    async with running(make_worker(redis, keys, succeed, rows=4)):
        records = [await ended(queue, job_id) for job_id in ids]
    assert {record.status for record in records} == {JobStatus.SUCCEEDED}
    assert {record.attempts for record in records} == {1}
    assert await queue.depth() == Depth(0, 0)


async def test_the_wait_of_each_job_is_reported_once(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    ids = await enqueue(queue, 3)
    waits: list[float] = []
    async with running(make_worker(redis, keys, succeed, on_first_start=waits.append)):
        records = [await ended(queue, job_id) for job_id in ids]
    starts_ms = [(record.created_ms, record.started_ms or 0) for record in records]
    assert sorted(waits) == sorted((start - created) / 1000 for created, start in starts_ms)


async def test_no_more_is_claimed_than_fits(redis: ArqRedis, keys: Keys, queue: JobQueue) -> None:
    await enqueue(queue, 5)
    worker = make_worker(redis, keys, never, rows=3)
    async with running(worker):
        await eventually(lambda: worker.free_capacity.rows == 0)
        assert await queue.depth() == Depth(waiting=2, running=3)


async def test_jobs_of_batches_give_way_to_another_job(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    lane = BatchLane(redis, keys)
    fillers = [make_job(priority=BATCH_PRIORITY) for _ in range(3)]
    for job in fillers:
        await lane.enqueue(job, reply_to="api")
    worker = make_worker(redis, keys, until_cancelled, rows=3)
    async with running(worker):
        for job in fillers:
            await started(worker, job.id)
        [job_id] = await enqueue(queue)
        await started(worker, job_id)
        assert await lane.num_waiting() == 1
        records = [await queue.record(job.id) for job in fillers]
        attempts = {(one.status, one.attempts) for one in records if one is not None}
        assert attempts == {(JobStatus.RUNNING, 1), (JobStatus.QUEUED, 0)}


async def test_a_task_that_raises_fails_only_its_own_job(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    bad, good = await enqueue(queue, 2)

    async def task(active: ActiveJob) -> Outcome:
        if active.job.id == bad:
            raise ZeroDivisionError
        return await succeed(active)

    async with running(make_worker(redis, keys, task)):
        failed, succeeded = await ended(queue, bad), await ended(queue, good)
    assert failed.error is not None and failed.error.status_code == 500
    assert succeeded.status is JobStatus.SUCCEEDED


class Panic(BaseException):
    """An error of a library in Rust, which is no Exception."""


@pytest.mark.parametrize("kind", [Panic, asyncio.CancelledError])
async def test_a_task_that_panics_fails_its_job_after_one_attempt(
    redis: ArqRedis, keys: Keys, queue: JobQueue, kind: type[BaseException]
) -> None:
    [job_id] = await enqueue(queue)
    starts = []

    async def task(active: ActiveJob) -> Outcome:
        starts.append(active.attempt)
        await asyncio.sleep(0)
        raise kind

    async with running(make_worker(redis, keys, task)):
        record = await ended(queue, job_id)
    assert record.error is not None and record.error.status_code == 500
    assert (record.status, starts) == (JobStatus.FAILED, [1])


async def test_a_job_that_killed_too_many_workers_fails(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    await redis.hset(keys.record(job_id), "attempts", "3")
    async with running(make_worker(redis, keys, succeed)):
        record = await ended(queue, job_id)
    assert (record.status, record.attempts) == (JobStatus.FAILED, 3)
    assert record.error is not None
    assert record.error.message == "the worker running this job died 3 times; given up"
    assert await redis.lrange(keys.dead_letters, 0, -1) == [job_id.encode()]


async def test_unreadable_jobs_fail_and_the_other_jobs_of_the_claim_run(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    strange, gone, good = await enqueue(queue, 3)
    await redis.hset(keys.record(strange), "payload", encode(make_job(id=strange, version=99)))
    await redis.hdel(keys.record(gone), "payload")
    async with running(make_worker(redis, keys, succeed)):
        records = [await ended(queue, job_id) for job_id in (strange, gone, good)]
    assert [record.status for record in records] == [
        JobStatus.FAILED,
        JobStatus.FAILED,
        JobStatus.SUCCEEDED,
    ]
    assert records[0].error is not None and "version 99" in records[0].error.message
    assert records[1].error is not None and "data has expired" in records[1].error.message
    assert set(await redis.lrange(keys.dead_letters, 0, -1)) == {strange.encode(), gone.encode()}


async def test_a_stale_arq_retry_counter_is_no_attempt(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    """Redis may run a command twice if its first answer was lost."""
    [job_id] = await enqueue(queue)
    await redis.set(keys.arq_retry(job_id), 7)
    async with running(make_worker(redis, keys, succeed)):
        record = await ended(queue, job_id)
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 1)


async def test_a_cancellation_ends_the_job_that_it_names(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    worker = make_worker(redis, keys, until_cancelled)
    async with running(worker):
        active = await started(worker, job_id)
        worker.cancel("another")
        assert not active.is_cancelled
        await queue.cancel(job_id)
        [cancelled] = await redis.lrange(keys.control("w1"), 0, -1)
        worker.cancel(cancelled.decode())
        record = await ended(queue, job_id)
    assert record.status is JobStatus.CANCELLED


async def test_a_job_cancelled_between_claim_and_start_stops_at_once(
    redis: ArqRedis, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = await enqueue(queue)
    start = JobQueue.start

    async def start_late(*args: Any, **kwargs: Any) -> StartResult:
        await queue.cancel(job_id)
        return await start(*args, **kwargs)

    monkeypatch.setattr(JobQueue, "start", start_late)
    async with running(make_worker(redis, keys, until_cancelled)):
        record = await ended(queue, job_id)
    assert record.status is JobStatus.CANCELLED


async def test_an_outcome_is_written_once_redis_is_back(
    redis: ArqRedis, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = await enqueue(queue)
    failures = [ConnectionError("gone"), OSError("refused"), TimeoutError()]
    finish = JobQueue.finish

    async def flaky(*args: Any, **kwargs: Any) -> bool:
        if failures:
            raise failures.pop()
        return await finish(*args, **kwargs)

    monkeypatch.setattr(JobQueue, "finish", flaky)
    async with running(make_worker(redis, keys, succeed)):
        record = await ended(queue, job_id)
    assert record.status is JobStatus.SUCCEEDED and not failures


async def test_a_job_wakes_an_idle_worker(
    redis: ArqRedis, redis_url: str, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "worker.jobs.leased_worker.POLL_S", 10 * WAIT_S
    )  # only a wake-up can be in time
    blocking = connect(redis_url, name="wake", block_s=BLOCK_S)
    worker = make_worker(redis, keys, succeed)
    async with running(worker):
        consumer = ListConsumer(blocking, keys.wake, lambda _: worker.wake())
        consuming = asyncio.create_task(consumer.run())
        for _ in range(3):
            await asyncio.sleep(0.05)
            [job_id] = await enqueue(queue)
            assert (await ended(queue, job_id)).status is JobStatus.SUCCEEDED
        await cancel_all([consuming])
    await blocking.aclose()


async def test_the_cost_of_a_job_does_not_grow_with_the_number_of_workers(
    redis: ArqRedis, keys: Keys, queue: JobQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {}
    for num_workers in (1, 8, 16):
        commands[num_workers], usec = await cost_of_a_job(redis, keys, queue, num_workers)
        with capsys.disabled():
            cost = f"{commands[num_workers]:.1f} commands, {usec:.0f} µs"
            print(f"\n{num_workers} workers: {cost} a job")
    assert commands[16] / commands[1] < 1.3


async def cost_of_a_job(
    redis: ArqRedis, keys: Keys, queue: JobQueue, num_workers: int
) -> tuple[float, float]:
    """Return commands, with commands of scripts, and µs of Redis time."""
    num_jobs = 320
    await enqueue(queue, num_jobs)
    await redis.config_resetstat()
    workers = [make_worker(redis, keys, succeed, name=f"w{i}") for i in range(num_workers)]
    async with running(*workers):
        await eventually(
            lambda: (
                sum(worker.jobs_complete for worker in workers) == num_jobs
                and not any(worker.active for worker in workers)
            )
        )
    stats = await redis.info("commandstats")
    calls = sum(stat["calls"] for stat in stats.values())
    return calls / num_jobs, stats["cmdstat_evalsha"]["usec"] / num_jobs
