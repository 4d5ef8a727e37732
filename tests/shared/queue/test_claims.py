"""Claims: which jobs a worker leases, and what it gets."""

import pytest
from redis.asyncio import Redis

from shared.protocol import (
    VERSION,
    JobStatus,
    encode,
)
from shared.queue.backlog import Depth
from shared.queue.claims import FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import LEASE_SCORE_BASE, Keys
from shared.registry.worker_registry import Registry
from tests.factories import make_job, make_worker_info
from tests.shared.queue.jobs import (
    EXPIRED_AT_ONCE_MS,
    claim,
    claim_one,
    enqueue,
    enqueue_poison,
    failed,
    ids,
)


async def test_a_claimed_job_leaves_the_head_of_the_queue(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    await claim(queue)
    waiting = await enqueue(queue)
    assert await redis.zrange(keys.queue, 0, -1) == [waiting.id.encode(), job.id.encode()]
    assert await redis.zscore(keys.queue, job.id) > LEASE_SCORE_BASE
    assert ids(await claim(queue, "w2")) == [waiting.id]


async def test_a_claim_returns_the_job_and_its_lease(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    assert claimed.job == job
    assert (claimed.fencing_token, claimed.previous_fencing_token, claimed.attempts) == (
        claimed.started_ms,
        0,
        0,
    )
    assert claimed.started_ms >= claimed.created_ms > 0
    record = await queue.record(job.id)
    assert record is not None
    assert (record.status, record.worker, record.position) == (JobStatus.RUNNING, "w1", None)


async def test_live_workers_share_the_ready_jobs(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    registry = Registry(redis, keys)
    for worker in ("w1", "w2", "w3"):
        await registry.report(make_worker_info(worker))
    for _ in range(10):
        await enqueue(queue)
    assert len(ids(await claim(queue, "w1"))) == 4  # ceil(10 / 3)
    assert len(ids(await claim(queue, "w2"))) == 2  # ceil(6 / 3)


async def test_a_claim_that_leaves_ready_jobs_wakes_the_next_worker(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    for _ in range(2):
        await enqueue(queue)
    await redis.delete(keys.wake)
    await claim_one(queue)
    assert await redis.llen(keys.wake) == 1
    await redis.delete(keys.wake)
    await claim_one(queue)
    assert await redis.llen(keys.wake) == 0


@pytest.mark.parametrize(
    "free", [FreeCapacity(rows=2, kv_tokens=1000, running=1), FreeCapacity(9, 20, 1)]
)
async def test_a_claim_stays_within_the_free_capacity(queue: JobQueue, free: FreeCapacity) -> None:
    jobs = [await enqueue(queue) for _ in range(3)]  # 1 row and 10 tokens each
    claimed = await claim(queue, free=free)
    assert ids(claimed) == [job.id for job in jobs[:2]]


async def test_a_job_that_does_not_fit_is_not_overtaken(queue: JobQueue) -> None:
    await enqueue(queue, make_job(generate_kwargs={"num_return_sequences": 4}))
    await enqueue(queue)
    claimed = await claim(queue, free=FreeCapacity(rows=3, kv_tokens=1000, running=1))
    assert (claimed.jobs, claimed.lacks_capacity) == ([], True)


async def test_an_empty_worker_claims_a_job_of_any_size(queue: JobQueue) -> None:
    large = await enqueue(queue, make_job(generate_kwargs={"num_return_sequences": 4}))
    claimed = await claim(queue, free=FreeCapacity(rows=3, kv_tokens=10, running=0))
    assert ids(claimed) == [large.id]


async def test_a_claim_of_an_empty_queue_is_not_stalled(queue: JobQueue) -> None:
    claimed = await claim(queue)
    assert (claimed.jobs, claimed.lacks_capacity) == ([], False)


async def test_expired_leases_are_claimed_before_the_backlog(queue: JobQueue) -> None:
    lost = await enqueue(queue)
    first = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    waiting = await enqueue(queue)
    claimed = await claim(queue, "w2")
    assert ids(claimed) == [lost.id, waiting.id]
    assert claimed.jobs[0].previous_fencing_token == first.fencing_token
    assert claimed.jobs[0].fencing_token > first.fencing_token


async def test_a_valid_lease_is_not_claimed(queue: JobQueue) -> None:
    await enqueue(queue)
    await claim(queue, "w1")
    assert ids(await claim(queue, "w2")) == []


async def test_a_job_on_its_last_attempt_runs_alone(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    alone_job = await enqueue_poison(queue, redis, keys, deaths=2)
    other = await enqueue(queue)
    busy = await claim(queue, free=FreeCapacity(rows=9, kv_tokens=1000, running=1))
    assert (busy.jobs, busy.lacks_capacity) == ([], True)
    assert ids(await claim(queue)) == [alone_job.id]
    assert ids(await claim(queue, "w2")) == [other.id]


async def test_a_job_out_of_attempts_is_leased_as_a_dead_letter(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    poison = await enqueue_poison(queue, redis, keys, deaths=3)
    next_job = await enqueue(queue)
    claimed = await claim(queue, free=FreeCapacity(rows=1, kv_tokens=10, running=1))
    assert ids(claimed) == [next_job.id]
    [given_up] = claimed.dead_letters
    assert (given_up.job_id, given_up.attempts) == (poison.id, 3)
    assert given_up.reason == "the worker running this job died 3 times; given up"


async def test_a_lease_that_expires_before_its_run_starts_is_no_attempt(queue: JobQueue) -> None:
    await enqueue(queue)
    previous_fencing_token = 0
    for _ in range(4):
        claimed = await claim_one(queue, ms=EXPIRED_AT_ONCE_MS)
        assert (claimed.previous_fencing_token, claimed.attempts) == (previous_fencing_token, 0)
        previous_fencing_token = claimed.fencing_token


async def test_each_death_is_counted_once(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    await enqueue_poison(queue, redis, keys, deaths=1)
    for _ in range(3):  # claims by its own worker, or by a worker that never started it
        assert (await claim_one(queue, ms=EXPIRED_AT_ONCE_MS)).attempts == 1


async def test_a_job_without_a_record_is_leased_as_a_dead_letter(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost, job = await enqueue(queue), await enqueue(queue)
    await redis.delete(keys.record(lost.id))
    claimed = await claim(queue)
    assert ids(claimed) == [job.id]
    [dead] = claimed.dead_letters
    assert dead.job_id == lost.id
    assert "waited for too long, or Redis lost it" in dead.reason
    assert await queue.finish(dead, failed(lost.id), fencing_token=dead.fencing_token)
    record = await queue.record(lost.id)
    assert record is not None and record.status is JobStatus.FAILED
    assert await queue.depth() == Depth(waiting=0, running=1)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xc1", "cannot read this job"),
        (encode({"version": 1, "id": 5}), "cannot read this job"),
        (encode(make_job(version=99)), f"protocol version 99; its worker reads up to {VERSION}"),
    ],
)
async def test_an_unreadable_job_does_not_block_other_jobs(
    queue: JobQueue, redis: Redis, keys: Keys, payload: bytes, reason: str
) -> None:
    strange, job = await enqueue(queue), await enqueue(queue)
    await redis.hset(keys.record(strange.id), "payload", payload)
    claimed = await claim(queue)
    assert ids(claimed) == [job.id]
    [dead] = claimed.dead_letters
    assert dead.job_id == strange.id and reason in dead.reason


async def test_a_claim_returns_the_time_until_the_deadline(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    patient = await enqueue(queue)
    assert 86_000 < (await claim_one(queue)).time_left_s <= 86_400
    hurried = await enqueue(queue, make_job(deadline_s=100.0))
    assert 0 < (await claim_one(queue)).time_left_s <= 100
    await redis.hset(keys.record(hurried.id), "deadline_ms", 0)
    await redis.zadd(keys.queue, {hurried.id: LEASE_SCORE_BASE})
    assert (await claim_one(queue)).time_left_s < 0
    assert await redis.pttl(keys.record(patient.id)) > 86_400_000  # for its outcome
