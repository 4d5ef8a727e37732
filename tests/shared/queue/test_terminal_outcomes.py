"""Terminal outcomes that scripts write: jobs without a valid lease are cancelled or expire."""

import asyncio

from redis.asyncio import Redis

from shared.protocol import ChatJob, JobRecord, JobStatus
from shared.queue.backlog import Depth
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from tests.factories import make_job, make_succeeded

FREE = FreeCapacity(rows=100, kv_tokens=1_000_000, running=0)
SOON_S = 0.02


async def enqueue(queue: JobQueue, deadline_s: float | None = None) -> ChatJob:
    job = make_job(deadline_s=deadline_s)
    await queue.enqueue(job, reply_to="api-1", max_queued=100)
    return job


async def claim_one(queue: JobQueue, lease_ms: int) -> ClaimedJob:
    (claimed,) = (await queue.claim("w1", FREE, lease_ms=lease_ms)).jobs
    return claimed


async def record_after_the_deadline(queue: JobQueue, job: ChatJob) -> JobRecord:
    await asyncio.sleep(2 * SOON_S)
    record = await queue.record(job.id)
    assert record is not None
    return record


# -- deadlines --------------------------------------------------------------------------------


async def test_reading_a_job_after_its_deadline_ends_it(queue: JobQueue) -> None:
    job = await enqueue(queue, deadline_s=SOON_S)
    record = await record_after_the_deadline(queue, job)
    assert record.status is JobStatus.EXPIRED
    assert record.error is not None and "deadline" in record.error.message
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_watchers_get_the_event_of_an_expired_job(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue, deadline_s=SOON_S)
    await queue.watch(job.id, "api-2")
    await record_after_the_deadline(queue, job)
    for replica in ("api-1", "api-2"):
        assert await redis.xlen(keys.replies(replica)) == 1


async def test_an_expired_job_of_a_dead_worker_ends(queue: JobQueue) -> None:
    job = await enqueue(queue, deadline_s=SOON_S)
    claimed = await claim_one(queue, lease_ms=1)
    assert (await record_after_the_deadline(queue, job)).status is JobStatus.EXPIRED
    assert not await queue.finish(
        claimed, make_succeeded(job.id), fencing_token=claimed.fencing_token
    )


async def test_a_running_job_after_its_deadline_is_left_to_its_worker(queue: JobQueue) -> None:
    job = await enqueue(queue, deadline_s=SOON_S)
    claimed = await claim_one(queue, lease_ms=60_000)
    assert (await record_after_the_deadline(queue, job)).status is JobStatus.RUNNING
    assert await queue.finish(claimed, make_succeeded(job.id), fencing_token=claimed.fencing_token)
    assert (await record_after_the_deadline(queue, job)).status is JobStatus.SUCCEEDED


async def test_a_job_before_its_deadline_is_unchanged(queue: JobQueue) -> None:
    for deadline_s in (None, 60):
        job = await enqueue(queue, deadline_s)
        assert (await record_after_the_deadline(queue, job)).status is JobStatus.QUEUED


async def test_cancelling_an_unknown_job_writes_nothing(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    assert await queue.cancel("unknown") is None
    assert not await redis.exists(keys.record("unknown"))


# -- cancelled while running ------------------------------------------------------------------


async def cancel_running(queue: JobQueue, *, lease_ms: int) -> tuple[ChatJob, ClaimedJob]:
    job = await enqueue(queue)
    claimed = await claim_one(queue, lease_ms=lease_ms)
    assert await queue.start("w1", job.id, fencing_token=claimed.fencing_token, lease_ms=lease_ms)
    record = await queue.cancel(job.id)
    assert record is not None and record.status is JobStatus.RUNNING
    return job, claimed


async def test_a_cancelled_job_of_a_dead_worker_ends_without_another_worker(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job, claimed = await cancel_running(queue, lease_ms=1000)
    await asyncio.sleep(1.1)
    record = await queue.watch(job.id, "api-2")
    assert record is not None and record.status is JobStatus.CANCELLED
    assert record.attempts == 1
    for replica in ("api-1", "api-2"):
        assert await redis.xlen(keys.replies(replica)) == 1
    assert not await queue.finish(
        claimed, make_succeeded(job.id), fencing_token=claimed.fencing_token
    )


async def test_the_next_claim_ends_a_cancelled_job_of_a_dead_worker(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job, _ = await cancel_running(queue, lease_ms=60_000)
    await redis.zincrby(keys.queue, -120_000, job.id)
    claim = await queue.claim("w2", FREE, lease_ms=60_000, max_attempts=1)
    assert (claim.jobs, claim.dead_letters) == ([], [])
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.CANCELLED
    assert record.attempts == 1
    assert await redis.llen(keys.dead_letters) == 0
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_a_cancelled_job_that_is_released_ends(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job, claimed = await cancel_running(queue, lease_ms=60_000)
    await queue.release("w1", {job.id: claimed.fencing_token})
    assert await queue.depth() == Depth(waiting=0, running=0)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.CANCELLED
    assert record.attempts == 0
    assert await redis.xlen(keys.replies("api-1")) == 1
    assert await redis.hget(keys.backlog, "tokens") == b"0"


# -- totals -----------------------------------------------------------------------------------


async def test_every_outcome_is_counted_once(queue: JobQueue) -> None:
    assert await queue.totals() == {}
    done = await enqueue(queue)
    claimed = await claim_one(queue, lease_ms=60_000)
    waiting, late = await enqueue(queue), await enqueue(queue, deadline_s=SOON_S)
    for _ in range(2):
        await queue.finish(claimed, make_succeeded(done.id), fencing_token=claimed.fencing_token)
        await queue.cancel(waiting.id)
        await record_after_the_deadline(queue, late)
    assert await queue.totals() == {
        JobStatus.QUEUED: 3,
        JobStatus.SUCCEEDED: 1,
        JobStatus.CANCELLED: 1,
        JobStatus.EXPIRED: 1,
    }
