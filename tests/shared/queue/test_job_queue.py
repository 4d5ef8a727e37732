"""Outcomes and cancellations of jobs, their events, and their form for arq."""

import asyncio

from redis.asyncio import Redis

from shared.protocol import (
    Failed,
    Finished,
    JobStatus,
    decode_events,
    encode,
)
from shared.queue.arq_format import deserialize
from shared.queue.claims import StartResult
from shared.queue.job_queue import Depth, JobQueue
from shared.queue.keys import Keys
from tests.factories import make_finished, make_job
from tests.shared.queue.jobs import (
    EXPIRED_AT_ONCE_MS,
    LEASE_MS,
    claim,
    claim_one,
    enqueue,
    enqueue_poison,
    failed,
    finish,
    ids,
)

# -- outcome ----------------------------------------------------------------------------------


async def test_a_finished_job_shows_its_result(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    outcome = make_finished(job.id)
    assert await queue.finish(claimed, outcome, fence=claimed.fence)
    record = await queue.record(job.id)
    assert record is not None
    assert (record.status, record.attempts, record.worker) == (JobStatus.SUCCEEDED, 1, "w1")
    assert (record.result, record.batch, record.error) == (outcome.result, outcome.batch, None)
    assert record.finished_ms is not None
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_a_worker_without_the_lease_cannot_finish_the_job(queue: JobQueue) -> None:
    job = await enqueue(queue)
    frozen = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    current = await claim_one(queue, "w2")
    assert not await finish(queue, frozen)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.RUNNING
    assert await finish(queue, current)


async def test_a_job_has_one_result(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    await enqueue(queue)
    claimed = await claim_one(queue)
    written = await asyncio.gather(*(finish(queue, claimed) for _ in range(3)))
    assert sorted(written) == [False, False, True]
    assert await redis.xlen(keys.replies("api-1")) == 1


async def test_a_finished_job_keeps_only_its_record_and_result(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue, make_job(ttl_s=2000))
    await finish(queue, await claim_one(queue))
    await redis.delete(keys.wake, keys.totals, keys.job_index, keys.backlog, keys.replies("api-1"))
    left = {key.decode() for key in await redis.keys("*")}
    assert left == {keys.record(job.id), keys.arq_result(job.id)}
    assert await redis.hget(keys.record(job.id), "payload") is None
    for key in left:
        assert 0 < await redis.pttl(key) <= 2_000_000


async def test_every_watcher_gets_the_terminal_event(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    for replica in ("api-2", "api-1", "api-2"):
        record = await queue.watch(job.id, replica)
        assert record is not None and record.status is JobStatus.QUEUED
    await finish(queue, await claim_one(queue))
    for replica in ("api-1", "api-2"):
        [(_, fields)] = await redis.xrange(keys.replies(replica))
        assert decode_events(fields[b"events"]) == [make_finished(job.id)]


async def test_watching_a_finished_job_returns_its_result(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await finish(queue, await claim_one(queue))
    record = await queue.watch(job.id, "api-2")
    assert record is not None and record.result is not None


async def test_a_dead_letter_is_listed(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    outcome = failed(job.id)
    assert await queue.finish(claimed, outcome, fence=claimed.fence, is_dead_letter=True)
    assert await redis.lrange(keys.dead_letters, 0, -1) == [job.id.encode()]
    record = await queue.record(job.id)
    assert record is not None and (record.status, record.error) == (
        JobStatus.FAILED,
        outcome.error,
    )


async def test_an_unknown_job_has_no_record(queue: JobQueue) -> None:
    assert await queue.record("unknown") is None
    assert await queue.watch("unknown", "api-1") is None
    assert await queue.cancel("unknown") is None


# -- cancellation -----------------------------------------------------------------------------


async def test_a_waiting_job_is_cancelled_at_once(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    record = await queue.cancel(job.id)
    assert record is not None and record.error is not None
    assert (record.status, record.error.message) == (JobStatus.CANCELLED, "the job was cancelled")
    [(_, fields)] = await redis.xrange(keys.replies("api-1"))
    [event] = decode_events(fields[b"events"])
    assert isinstance(event, Failed) and event.status is JobStatus.CANCELLED
    assert ids(await claim(queue)) == []


async def test_the_worker_of_a_cancelled_running_job_is_informed(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    record = await queue.cancel(job.id)
    assert record is not None and record.status is JobStatus.RUNNING
    assert await redis.lrange(keys.control("w1"), 0, -1) == [job.id.encode()]
    renewal = await queue.renew("w1", {job.id: claimed.fence}, lease_ms=LEASE_MS)
    assert renewal.cancelled == [job.id]
    begun = await queue.begin("w1", job.id, fence=claimed.fence, lease_ms=LEASE_MS)
    assert begun is StartResult.CANCELLED


async def test_a_job_of_a_dead_worker_is_cancelled_at_once(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue_poison(queue, redis, keys, deaths=1)
    record = await queue.cancel(job.id)
    assert record is not None
    assert (record.status, record.attempts) == (JobStatus.CANCELLED, 1)
    assert await redis.xlen(keys.replies("api-1")) == 1
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_cancelling_a_finished_job_changes_nothing(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await finish(queue, await claim_one(queue))
    record = await queue.cancel(job.id)
    assert record is not None and record.status is JobStatus.SUCCEEDED


def test_results_are_plain_msgpack() -> None:
    finished = make_finished("id")
    assert isinstance(finished, Finished)
    assert deserialize(encode({"s": True, "r": finished}))["r"]["type"] == "finished"
