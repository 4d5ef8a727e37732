"""A worker claims a job that it still runs: the lease expired meanwhile."""

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ConnectionError

from shared.protocol import JobStatus, Outcome
from shared.queue.claims import Claim
from shared.queue.job_queue import JobQueue
from shared.queue.keys import LEASE_SCORE_BASE, Keys
from tests.factories import make_job
from tests.worker.jobs.workers import (
    ended,
    enqueue,
    eventually,
    make_worker,
    never,
    running,
    succeed,
)
from worker.jobs.active_job import ActiveJob

EXPIRED_LONG_AGO = LEASE_SCORE_BASE + 1


@pytest.fixture(autouse=True)
def frequent_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.jobs.leased_worker.POLL_S", 0.05)


async def test_a_worker_that_reclaims_its_own_job_does_not_start_it_twice(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    starts = []
    may_end = asyncio.Event()

    async def task(active: ActiveJob) -> Outcome:
        starts.append(active.fencing_token)
        await may_end.wait()
        return await succeed(active)

    worker = make_worker(redis, keys, task)
    async with running(worker):

        async def counts_one_attempt() -> bool:
            record = await queue.record(job_id)
            return record is not None and record.attempts == 1

        await eventually(lambda: bool(starts))
        await redis.zadd(keys.queue, {job_id: EXPIRED_LONG_AGO})
        await eventually(lambda: worker.active[job_id].fencing_token > starts[0])
        await eventually(counts_one_attempt)
        may_end.set()
        record = await ended(queue, job_id)
    assert (len(starts), record.attempts) == (1, 1)


async def test_a_job_that_is_reclaimed_while_its_revoked_run_ends_runs_again(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    fencing_tokens: list[int] = []
    may_end = asyncio.Event()

    async def task(active: ActiveJob) -> Outcome:
        fencing_tokens.append(active.fencing_token)
        if len(fencing_tokens) == 1:
            try:
                await never(active)
            finally:
                await may_end.wait()
        return await succeed(active)

    worker = make_worker(redis, keys, task)
    async with running(worker):

        async def claimed_again() -> bool:
            return (
                int(await redis.hget(keys.record(job_id), "fencing_token") or 0) > fencing_tokens[0]
            )

        await eventually(lambda: bool(fencing_tokens))
        worker.lose_lease(job_id, fencing_tokens[0])
        await redis.zadd(keys.queue, {job_id: EXPIRED_LONG_AGO})  # the other worker died at once
        await eventually(claimed_again)
        may_end.set()
        record = await ended(queue, job_id)
    assert (record.status, len(fencing_tokens)) == (JobStatus.SUCCEEDED, 2)


@pytest.mark.parametrize("is_computed", [False, True])
async def test_a_streamed_job_that_another_worker_ran_meanwhile_is_run_again(
    redis: ArqRedis,
    keys: Keys,
    queue: JobQueue,
    monkeypatch: pytest.MonkeyPatch,
    is_computed: bool,
) -> None:
    """The other worker may have written tokens that this worker does not know."""
    job_id = "streamed"
    await queue.enqueue(make_job(stream=True, id=job_id), reply_to=None, max_queued=10)
    fencing_tokens: list[int] = []
    finish = JobQueue.finish

    async def token_of_record() -> int:
        return int(await redis.hget(keys.record(job_id), "fencing_token") or 0)

    async def task(active: ActiveJob) -> Outcome:
        fencing_tokens.append(active.fencing_token)
        if len(fencing_tokens) == 1 and not is_computed:
            await never(active)
        return await succeed(active)

    async def finish_after_reclaim(*args: Any, **kwargs: Any) -> bool:
        if await token_of_record() <= fencing_tokens[0] + 1:
            raise ConnectionError("gone")
        return await finish(*args, **kwargs)

    monkeypatch.setattr(JobQueue, "finish", finish_after_reclaim)
    async with running(make_worker(redis, keys, task)):
        await eventually(lambda: bool(fencing_tokens))
        others = fencing_tokens[0] + 1  # another worker claimed it, and died
        await redis.hset(keys.record(job_id), "fencing_token", others)
        await redis.zadd(keys.queue, {job_id: EXPIRED_LONG_AGO})
        record = await ended(queue, job_id)
    assert (record.status, len(fencing_tokens)) == (JobStatus.SUCCEEDED, 2)


async def test_an_outcome_is_written_although_the_worker_was_just_reclaiming_the_job(
    redis: ArqRedis, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis runs the claim first and refuses the old fencing token."""
    [job_id] = await enqueue(queue)
    claim, finish = JobQueue.claim, JobQueue.finish
    is_claimed, is_refused = asyncio.Event(), asyncio.Event()
    starts: list[int] = []

    async def task(active: ActiveJob) -> Outcome:
        starts.append(active.fencing_token)
        await is_claimed.wait()
        return await succeed(active)

    async def claim_slowly(*args: Any, **kwargs: Any) -> Claim:
        claimed = await claim(*args, **kwargs)
        if starts and claimed.jobs:
            is_claimed.set()
            await is_refused.wait()
        return claimed

    async def finish_slowly(*args: Any, **kwargs: Any) -> bool:
        is_written = await finish(*args, **kwargs)
        if not is_written:
            is_refused.set()
            await eventually(lambda: worker.active[job_id].fencing_token > starts[0])
        return is_written

    monkeypatch.setattr(JobQueue, "claim", claim_slowly)
    monkeypatch.setattr(JobQueue, "finish", finish_slowly)
    worker = make_worker(redis, keys, task)
    async with running(worker):
        await eventually(lambda: bool(starts))
        await redis.zadd(keys.queue, {job_id: EXPIRED_LONG_AGO})
        record = await ended(queue, job_id)
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 1)
    assert is_refused.is_set() and len(starts) == 1
