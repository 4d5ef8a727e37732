"""Outcomes, cancellations and purges of jobs, and their events."""

import asyncio

from redis.asyncio import Redis

from shared.protocol import (
    ChatJob,
    Failed,
    JobStatus,
    Succeeded,
    decode_events,
    encode,
)
from shared.queue.arq_format import deserialize
from shared.queue.backlog import Depth
from shared.queue.claims import StartResult
from shared.queue.job_queue import JobQueue
from shared.queue.job_records import PURGED_AT_ONCE
from shared.queue.keys import Keys
from tests.factories import make_job, make_succeeded
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
    outcome = make_succeeded(job.id)
    assert await queue.finish(claimed, outcome, fencing_token=claimed.fencing_token)
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
        assert decode_events(fields[b"events"]) == [make_succeeded(job.id)]


async def test_watching_a_finished_job_returns_its_result(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await finish(queue, await claim_one(queue))
    record = await queue.watch(job.id, "api-2")
    assert record is not None and record.result is not None


async def test_a_dead_letter_is_listed(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    outcome = failed(job.id)
    assert await queue.finish(
        claimed, outcome, fencing_token=claimed.fencing_token, is_dead_letter=True
    )
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
    renewal = await queue.renew("w1", {job.id: claimed.fencing_token}, lease_ms=LEASE_MS)
    assert renewal.cancelled == [job.id]
    started = await queue.start(
        "w1", job.id, fencing_token=claimed.fencing_token, lease_ms=LEASE_MS
    )
    assert started is StartResult.CANCELLED


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


# -- purge ------------------------------------------------------------------------------------


async def purge(queue: JobQueue) -> int:
    return sum([num async for num in queue.purge()])


async def status_of(queue: JobQueue, job: ChatJob) -> JobStatus:
    record = await queue.record(job.id)
    assert record is not None
    return record.status


async def test_a_purge_cancels_only_waiting_jobs(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    running = await enqueue(queue)
    await claim_one(queue)
    waiting = [await enqueue(queue) for _ in range(PURGED_AT_ONCE + 5)]
    assert await purge(queue) == len(waiting)
    assert await queue.depth() == Depth(waiting=0, running=1)
    entries = await redis.xrange(keys.replies("api-1"))
    events = [event for _, fields in entries for event in decode_events(fields[b"events"])]
    assert sorted(event.job_id for event in events) == sorted(job.id for job in waiting)
    assert all(event.status is JobStatus.CANCELLED for event in events if isinstance(event, Failed))
    assert await status_of(queue, running) is JobStatus.RUNNING
    assert await redis.hget(keys.backlog, "tokens") == b"0"


async def test_a_purge_of_an_empty_queue_cancels_no_job(queue: JobQueue) -> None:
    assert await purge(queue) == 0


async def test_a_purge_does_not_cancel_jobs_that_arrive_after_its_start(queue: JobQueue) -> None:
    old = await enqueue(queue)
    batches = queue.purge()
    assert await anext(batches) == 0  # lists the waiting jobs
    await until_a_later_ms(queue)
    late = await enqueue(queue)
    assert [num async for num in batches] == [1]
    assert await status_of(queue, old) is JobStatus.CANCELLED
    assert await status_of(queue, late) is JobStatus.QUEUED


async def test_a_purge_ends_although_records_have_expired(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost, job = await enqueue(queue), await enqueue(queue)
    await redis.delete(keys.record(lost.id))
    assert await purge(queue) == 1
    assert await status_of(queue, job) is JobStatus.CANCELLED


async def until_a_later_ms(queue: JobQueue) -> None:
    probe = make_job()
    first = await queue.enqueue(probe, reply_to=None, max_queued=9)
    await queue.cancel(probe.id)
    while True:
        probe = make_job()
        later = await queue.enqueue(probe, reply_to=None, max_queued=9)
        await queue.cancel(probe.id)
        if later.created_ms > first.created_ms:
            return


def test_results_are_plain_msgpack() -> None:
    finished = make_succeeded("id")
    assert isinstance(finished, Succeeded)
    assert deserialize(encode({"s": True, "r": finished}))["r"]["type"] == "succeeded"
