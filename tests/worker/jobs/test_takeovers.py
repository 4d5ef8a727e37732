"""A worker that claims a job which it still holds: its lease ran out meanwhile."""

import asyncio
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ConnectionError

from shared.protocol import JobStatus, Outcome
from shared.queue.claims import Claim
from shared.queue.job_queue import JobQueue
from shared.queue.keys import LEASED, Keys
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


async def test_an_expired_lease_that_comes_back_to_its_worker_is_not_started_twice(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    starts = []
    go_on = asyncio.Event()

    async def task(held: ActiveJob) -> Outcome:
        starts.append(held.fence)
        await go_on.wait()
        return await succeed(held)

    worker = make_worker(redis, keys, task)
    async with running(worker):

        async def started() -> bool:
            return bool(starts)

        async def claimed_again() -> bool:
            return worker.held[job_id].fence > starts[0]

        async def is_no_death() -> bool:
            record = await queue.record(job_id)
            return record is not None and record.attempts == 1

        await eventually(started)
        await redis.zadd(keys.queue, {job_id: LEASED + 1})  # its lease ran out long ago
        await eventually(claimed_again)
        await eventually(is_no_death)
        go_on.set()
        record = await ended(queue, job_id)
    assert (len(starts), record.attempts) == (1, 1)


async def test_a_job_that_comes_back_while_its_lost_run_still_ends_is_run_again(
    redis: ArqRedis, keys: Keys, queue: JobQueue
) -> None:
    [job_id] = await enqueue(queue)
    fences: list[int] = []
    may_end = asyncio.Event()

    async def task(held: ActiveJob) -> Outcome:
        fences.append(held.fence)
        if len(fences) == 1:
            try:
                await never(held)
            finally:
                await may_end.wait()
        return await succeed(held)

    worker = make_worker(redis, keys, task)
    async with running(worker):

        async def started() -> bool:
            return bool(fences)

        async def claimed_again() -> bool:
            return int(await redis.hget(keys.record(job_id), "fencing_token") or 0) > fences[0]

        await eventually(started)
        worker.lose(job_id, fences[0])
        await redis.zadd(keys.queue, {job_id: LEASED + 1})  # the other worker died at once
        await eventually(claimed_again)
        may_end.set()
        record = await ended(queue, job_id)
    assert (record.status, len(fences)) == (JobStatus.SUCCEEDED, 2)


@pytest.mark.parametrize("is_computed", [False, True])
async def test_a_streamed_job_that_another_worker_had_meanwhile_begins_anew(
    redis: ArqRedis,
    keys: Keys,
    queue: JobQueue,
    monkeypatch: pytest.MonkeyPatch,
    is_computed: bool,
) -> None:
    """The other may have told tokens that this worker does not know."""
    job_id = "streamed"
    await queue.enqueue(make_job(stream=True, id=job_id), reply_to=None, max_queued=10)
    fences: list[int] = []
    finish = JobQueue.finish

    async def fence_of_record() -> int:
        return int(await redis.hget(keys.record(job_id), "fencing_token") or 0)

    async def task(held: ActiveJob) -> Outcome:
        fences.append(held.fence)
        if len(fences) == 1 and not is_computed:
            await never(held)
        return await succeed(held)

    async def finish_once_it_is_back(*args: object, **kwargs: object) -> object:
        if await fence_of_record() <= fences[0] + 1:
            raise ConnectionError("gone")
        return await finish(*args, **kwargs)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(JobQueue, "finish", finish_once_it_is_back)
    async with running(make_worker(redis, keys, task)):

        async def started() -> bool:
            return bool(fences)

        await eventually(started)
        others = fences[0] + 1  # another worker had it, and died
        await redis.hset(keys.record(job_id), "fencing_token", others)
        await redis.zadd(keys.queue, {job_id: LEASED + 1})
        record = await ended(queue, job_id)
    assert (record.status, len(fences)) == (JobStatus.SUCCEEDED, 2)


async def test_an_end_is_written_though_its_worker_was_just_claiming_the_job_again(
    redis: ArqRedis, keys: Keys, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis gets the claim first and refuses the old fence; the worker hears of the claim first."""
    [job_id] = await enqueue(queue)
    claim, finish = JobQueue.claim, JobQueue.finish
    is_claimed, is_refused = asyncio.Event(), asyncio.Event()
    starts: list[int] = []

    async def task(held: ActiveJob) -> Outcome:
        starts.append(held.fence)
        await is_claimed.wait()
        return await succeed(held)

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
            await eventually(is_taken_over)
        return is_written

    async def is_taken_over() -> bool:
        return worker.held[job_id].fence > starts[0]

    monkeypatch.setattr(JobQueue, "claim", claim_slowly)
    monkeypatch.setattr(JobQueue, "finish", finish_slowly)
    worker = make_worker(redis, keys, task)
    async with running(worker):

        async def started() -> bool:
            return bool(starts)

        await eventually(started)
        await redis.zadd(keys.queue, {job_id: LEASED + 1})
        record = await ended(queue, job_id)
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 1)
    assert is_refused.is_set() and len(starts) == 1
