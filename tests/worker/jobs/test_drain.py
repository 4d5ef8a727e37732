"""How a worker stops: its jobs end, or other workers run them."""

import asyncio
from functools import partial
from typing import Any

import pytest
from arq.connections import ArqRedis

from shared.protocol import JobStatus, Outcome
from shared.queue.backlog import Depth
from shared.queue.claims import Claim
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
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


async def test_a_drain_hands_unfinished_jobs_back(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    ids = await enqueue(queue, 3)
    attempts: list[str] = []
    worker = make_worker(redis, keys, never, on_attempt=attempts.append)
    async with running(worker):
        for job_id in ids:
            await started(worker, job_id)
        await worker.drain(grace_s=0)
        assert not worker.active
    assert attempts == ["released"] * 3
    for job_id in ids:
        assert await is_queued(queue, job_id)


async def test_a_drain_waits_for_jobs_until_its_grace_period_is_skipped(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    quick, slow = await enqueue(queue, 2)
    may_end = asyncio.Event()

    async def task(active: ActiveJob) -> Outcome:
        await (may_end if active.job.id == quick else active.finished_or_cancelled).wait()
        return await succeed(active)

    worker = make_worker(redis, keys, task)
    async with running(worker):
        for job_id in (quick, slow):
            await started(worker, job_id)
        draining = asyncio.create_task(worker.drain(grace_s=10 * WAIT_S))
        [late] = await enqueue(queue)
        may_end.set()
        assert (await ended(queue, quick)).status is JobStatus.SUCCEEDED
        worker.skip_grace_period()
        await draining
    for job_id in (slow, late):
        assert await is_queued(queue, job_id)


async def test_a_claim_answered_after_the_grace_period_is_handed_back(
    redis: ArqRedis, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.jobs.leased_worker.LAST_CLAIM_S", 0.05)
    monkeypatch.setattr("worker.jobs.leased_worker.RELEASE_S", WAIT_S)
    [stubborn] = await enqueue(queue)
    claim, is_asked = JobQueue.claim, asyncio.Event()
    is_handing_back, is_handed_back = asyncio.Event(), asyncio.Event()

    async def task(active: ActiveJob) -> Outcome:
        try:
            return await never(active)
        finally:
            is_handing_back.set()
            await is_handed_back.wait()

    async def claim_slowly(*args: Any, **kwargs: Any) -> Claim:
        claimed = await claim(*args, **kwargs)
        if claimed.jobs and stubborn in worker.active:
            is_asked.set()
            await is_handing_back.wait()
        return claimed

    monkeypatch.setattr(JobQueue, "claim", claim_slowly)
    worker = make_worker(redis, keys, task)
    async with running(worker):
        await started(worker, stubborn)
        [late] = await enqueue(queue)
        worker.wake()
        await is_asked.wait()
        draining = asyncio.create_task(worker.drain(grace_s=0))
        await eventually(partial(is_queued, queue, late))
        is_handed_back.set()
        await draining
    assert await queue.depth() == Depth(waiting=2, running=0)


async def is_queued(queue: JobQueue, job_id: str) -> bool:
    record = await queue.record(job_id)
    return record is not None and (record.status, record.attempts) == (JobStatus.QUEUED, 0)


async def test_the_death_of_the_engine_counts_as_an_attempt_of_its_jobs(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    worker = make_worker(redis, keys, never)
    async with running(worker):
        await started(worker, job_id)
        worker.abandon_leases()
    assert await queue.depth() == Depth(waiting=0, running=1)  # until the lease ends
    assert await redis.get(keys.arq_retry(job_id)) == b"1"
