"""A job on its last attempt runs alone: it waits for an empty worker while other jobs run."""

from random import Random

from redis.asyncio import Redis

from shared.protocol import ChatJob
from shared.queue.claims import Claim, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import WORKER_TTL_S, Keys
from shared.registry.worker_registry import Registry
from tests.factories import make_job, make_worker_info

EXPIRED_AT_ONCE_MS = -1000  # the lease ended a second ago
EMPTY = FreeCapacity(rows=100, kv_tokens=100_000, running=0)
BUSY = FreeCapacity(rows=9, kv_tokens=1000, running=1)


async def enqueue(queue: JobQueue) -> ChatJob:
    job = make_job()
    await queue.enqueue(job, reply_to="api-1", max_queued=1000)
    return job


async def claim(
    queue: JobQueue, worker: str, free: FreeCapacity = EMPTY, ms: int = 60_000
) -> Claim:
    return await queue.claim(worker, free, lease_ms=ms)


def ids(claimed: Claim) -> list[str]:
    return [held.job.id for held in claimed.jobs]


async def die_twice(queue: JobQueue, count: int) -> None:
    """Let two workers start all jobs, `count` of them, and die."""
    for worker in ("dead-1", "dead-2"):
        claimed = await claim(queue, worker, ms=EXPIRED_AT_ONCE_MS)
        assert len(claimed.jobs) == count
        for held in claimed.jobs:
            fencing_token, job_id = held.fencing_token, held.job.id
            await queue.start(
                worker,
                job_id,
                fencing_token=fencing_token,
                lease_ms=EXPIRED_AT_ONCE_MS,
                attempts=held.attempts,
            )


async def enqueue_job_that_runs_alone(queue: JobQueue) -> ChatJob:
    """Enqueue a job that has killed two workers: the next attempt is its last."""
    job = await enqueue(queue)
    await die_twice(queue, 1)
    return job


async def test_one_worker_at_a_time_becomes_idle_for_a_job_that_runs_alone(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    alone_job = await enqueue_job_that_runs_alone(queue)
    assert (await claim(queue, "w1", free=BUSY)).lacks_capacity
    for _ in range(3):
        other = await enqueue(queue)
        assert (await claim(queue, "w1", free=BUSY)).lacks_capacity
        claimed = await claim(queue, "w2", free=BUSY)
        assert (ids(claimed), claimed.lacks_capacity) == ([other.id], False)
    assert ids(await claim(queue, "w1")) == [alone_job.id]


async def test_any_idle_worker_claims_a_job_that_runs_alone(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    alone_job, other = await enqueue_job_that_runs_alone(queue), await enqueue(queue)
    assert (await claim(queue, "w1", free=BUSY)).lacks_capacity
    assert ids(await claim(queue, "w2")) == [alone_job.id]
    assert ids(await claim(queue, "w1", free=BUSY)) == [other.id]


async def test_another_worker_becomes_empty_once_the_first_stops_claiming(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await enqueue_job_that_runs_alone(queue)
    assert (await claim(queue, "w1", free=BUSY)).lacks_capacity
    assert 0 < await redis.pttl(keys.alone_worker) <= 1000 * WORKER_TTL_S
    await redis.delete(keys.alone_worker)  # as it expires
    assert (await claim(queue, "w2", free=BUSY)).lacks_capacity
    assert not (await claim(queue, "w1", free=BUSY)).lacks_capacity


async def test_jobs_behind_jobs_that_run_alone_are_claimed(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    alone_jobs = [await enqueue(queue) for _ in range(4)]
    await die_twice(queue, len(alone_jobs))
    for worker in ("w1", "w2", "w3"):  # each claims a third of the ready jobs
        await Registry(redis, keys).report(make_worker_info(worker))
    others = [await enqueue(queue) for _ in range(2)]
    await claim(queue, "w1", free=BUSY)
    assert ids(await claim(queue, "w2", free=BUSY)) == [other.id for other in others]
    await redis.delete(keys.wake)
    assert ids(await claim(queue, "w2", free=BUSY)) == []
    assert await redis.llen(keys.wake) == 0, "the worker would wake itself for ever"


async def test_a_job_that_runs_alone_starts_under_constant_load(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    """Workers stay full, and each job takes a few rounds; the job starts within some rounds."""
    rounds, draw = 4, Random(0)
    held: dict[str, list[int]] = {"w1": [], "w2": [], "w3": []}
    alone_job = await enqueue_job_that_runs_alone(queue)
    for _ in range(rounds + 1):
        for worker, ends in held.items():
            ends[:] = [left - 1 for left in ends if left > 1] or ([1] if not ends else [])
            for _ in range(4):
                await enqueue(queue)
            free = FreeCapacity(rows=4 - len(ends), kv_tokens=1000, running=len(ends))
            claimed = await claim(queue, worker, free=free)
            if alone_job.id in ids(claimed):
                assert sum(map(len, held.values())) >= 2, "the other workers must continue"
                return
            ends += [draw.randint(1, rounds) for _ in claimed.jobs]
    raise AssertionError("the job never started")
