"""Jobs of batches run only in capacity that no other job wants."""

import pytest
from redis.asyncio import Redis

from shared.batches.lane import BatchLane, Verdict
from shared.protocol import BATCH_PRIORITY, ChatJob, JobStatus
from shared.queue.backlog import Depth
from shared.queue.claims import Claim, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import BATCH_LANE_MAX, Keys
from tests.factories import make_job

LEASE_MS = 60_000


@pytest.fixture
def lane(redis: Redis, keys: Keys) -> BatchLane:
    return BatchLane(redis, keys)


def batch_job() -> ChatJob:
    return make_job(priority=BATCH_PRIORITY)


async def claim(queue: JobQueue, rows: int, worker: str = "w1", running: int = 0) -> Claim:
    free = FreeCapacity(rows=rows, kv_tokens=10_000, running=running)
    return await queue.claim(worker, free, lease_ms=LEASE_MS)


async def test_other_jobs_come_first(queue: JobQueue, lane: BatchLane) -> None:
    filler, job = batch_job(), make_job()
    assert await lane.enqueue(filler, reply_to="api") is Verdict.ACCEPTED
    await queue.enqueue(job, reply_to=None, max_queued=1)
    [first] = (await claim(queue, 1)).jobs
    [second] = (await claim(queue, 1)).jobs
    assert (first.job.id, second.job.id) == (job.id, filler.id)
    assert await lane.num_waiting() == 0


async def test_a_batch_takes_no_place_and_no_tokens(queue: JobQueue, lane: BatchLane) -> None:
    for _ in range(BATCH_LANE_MAX):
        assert await lane.enqueue(batch_job(), reply_to="api") is Verdict.ACCEPTED
    assert await lane.enqueue(batch_job(), reply_to="api") is Verdict.FULL
    assert await queue.depth() == Depth(0, 0)
    enqueued = await queue.enqueue(make_job(), reply_to=None, max_queued=1, max_queued_tokens=1)
    assert enqueued.estimate.position == 1


async def test_a_job_is_accepted_once(queue: JobQueue, lane: BatchLane) -> None:
    job = batch_job()
    assert await lane.enqueue(job, reply_to="a") is Verdict.ACCEPTED
    assert await lane.enqueue(job, reply_to="b") is Verdict.KNOWN
    assert await lane.num_waiting() == 1


async def test_a_released_job_waits_in_the_lane_again(queue: JobQueue, lane: BatchLane) -> None:
    job = batch_job()
    await lane.enqueue(job, reply_to="api")
    [claimed] = (await claim(queue, 1)).jobs
    assert await queue.release("w1", {job.id: claimed.fencing_token}) == 1
    assert await queue.depth() == Depth(0, 0)
    [again] = (await claim(queue, 1)).jobs
    assert again.job.id == job.id


async def test_a_waiting_job_can_be_cancelled(queue: JobQueue, lane: BatchLane) -> None:
    job = batch_job()
    await lane.enqueue(job, reply_to="api")
    record = await queue.cancel(job.id)
    assert record is not None and record.status is JobStatus.CANCELLED
    assert await lane.num_waiting() == 0
    assert (await claim(queue, 1)).jobs == []


async def test_a_claim_names_what_a_blocked_job_needs(queue: JobQueue, lane: BatchLane) -> None:
    await lane.enqueue(batch_job(), reply_to="api")
    blocked = await claim(queue, 0, running=1)
    assert (blocked.lacks_capacity, blocked.blocked_rows) == (False, 0)
    await queue.enqueue(make_job(), reply_to=None, max_queued=1)
    blocked = await claim(queue, 0, running=1)
    assert (blocked.lacks_capacity, blocked.blocked_rows) == (True, 1)
