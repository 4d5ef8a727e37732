"""When a worker claims jobs, and how it starts, keeps and loses their leases."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ConnectionError

from shared.protocol import JobStatus, Outcome
from shared.queue.backlog import Depth
from shared.queue.claims import FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import LEASE_SCORE_BASE, Keys
from tests.factories import make_succeeded
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
)
from worker.jobs.active_job import ActiveJob
from worker.jobs.leased_worker import CLAIM_LEASE_MS

EMPTY = FreeCapacity(rows=8, kv_tokens=10_000, running=0)


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
    [alone_job] = await enqueue(queue)
    for worker in ("dead-1", "dead-2"):
        [claimed] = (await queue.claim(worker, EMPTY, lease_ms=-1000)).jobs
        await queue.start(
            worker,
            alone_job,
            fencing_token=claimed.fencing_token,
            lease_ms=-1000,
            attempts=claimed.attempts,
        )
    num_active: list[int] = []

    async def briefly(active: ActiveJob) -> Outcome:
        [at_work] = [worker for worker in workers if active.job.id in worker.active]
        if active.job.id == alone_job:
            num_active.append(len(at_work.active))
        await asyncio.sleep(0.01)
        return make_succeeded(active.job.id, attempt=active.attempt)

    async def keep_busy() -> None:
        while True:
            if (await queue.depth()).waiting < 20:
                await enqueue(queue, 20)
            await asyncio.sleep(0.005)

    workers = [make_worker(redis, keys, briefly, name=name, rows=4) for name in ("w1", "w2")]
    async with running(*workers):
        callers = asyncio.create_task(keep_busy())
        record = await ended(queue, alone_job)
        callers.cancel()
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 3)
    assert num_active == [1]


async def test_a_lease_is_short_until_its_job_starts(
    redis: ArqRedis, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the answer to a claim is lost, its jobs must soon be free again."""
    [job_id] = await enqueue(queue)
    start = JobQueue.start

    async def lease_ends_within(low_ms: float, high_ms: float) -> bool:
        score = await redis.zscore(keys.queue, job_id) or 0
        return low_ms < score - LEASE_SCORE_BASE - 1000 * time.time() <= high_ms

    async def fail(*args: Any, **kwargs: Any) -> bool:
        raise ConnectionError("gone")

    monkeypatch.setattr(JobQueue, "start", fail)
    async with running(make_worker(redis, keys, never)):
        await eventually(partial(lease_ends_within, 0, CLAIM_LEASE_MS))
        monkeypatch.setattr(JobQueue, "start", start)
        await eventually(partial(lease_ends_within, 30_000, 60_000))


async def test_a_job_that_another_worker_owns_before_it_starts_is_not_run(
    redis: ArqRedis, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = await enqueue(queue)
    start = JobQueue.start

    async def too_late(*args: Any, **kwargs: Any) -> bool:
        monkeypatch.setattr(JobQueue, "start", start)
        await redis.set(keys.arq_in_progress(job_id), "w2:2")
        return await start(*args, **kwargs)

    monkeypatch.setattr(JobQueue, "start", too_late)
    worker = make_worker(redis, keys, succeed)
    async with running(worker):
        await eventually(lambda: JobQueue.start is start and not worker.active)
    assert await queue.depth() == Depth(waiting=0, running=1)
    assert worker.jobs_complete == 0


async def test_a_job_on_its_last_attempt_runs_alone(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    alone_job, _other = await enqueue(queue, 2)
    await redis.hset(keys.record(alone_job), "attempts", "2")
    num_claims = 0

    def count_claims() -> bool:
        nonlocal num_claims
        num_claims += 1
        return True

    worker = make_worker(redis, keys, never, may_claim=count_claims)
    async with running(worker):
        await started(worker, alone_job)
        before = num_claims

        def claimed_again() -> bool:
            worker.wake()
            return num_claims > before + 2

        await eventually(claimed_again)
        assert list(worker.active) == [alone_job]


async def test_a_revoked_job_is_stopped_and_nothing_is_written(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    attempts: list[str] = []
    worker = make_worker(redis, keys, never, on_attempt=attempts.append)
    async with running(worker):
        active = await started(worker, job_id)
        worker.lose_lease(job_id, active.fencing_token)
        await eventually(lambda: not worker.active)
    assert await queue.depth() == Depth(waiting=0, running=1)
    assert attempts == ["lost"]


async def test_a_worker_renews_its_leases_at_once_after_an_outage(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    worker = make_worker(redis, keys, succeed)
    async with running(worker):
        [job_id] = await enqueue(queue)
        await ended(queue, job_id)
        assert not worker.renewal_due.is_set()
        await redis.hset(keys.backlog, "last_claim_ms", 1)  # the last claim was long ago
        await asyncio.wait_for(worker.renewal_due.wait(), WAIT_S)
