"""Jobs that ended without a result run again, from the start; and what waits can be purged."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.errors import Conflict, QueueFull
from shared.protocol import ChatJob, Failed, JobError, JobRecord, JobStatus, decode_events
from shared.queue.claims import ClaimedJob, Room, StartResult, read_cancellation
from shared.queue.job_queue import PURGED_AT_ONCE, Depth, Fingerprint, JobQueue
from shared.queue.keys import Keys
from shared.queue.scripts import Script, ScriptArg, Scripts
from tests.factories import make_finished, make_job

WIDE = Room(rows=1000, tokens=1_000_000, running=0)
LEASE_MS = 60_000
LATER_MS = 2**52


@pytest.fixture
def queue(redis: Redis, keys: Keys) -> JobQueue:
    return JobQueue(redis, keys)


async def enqueue(queue: JobQueue, **fields: object) -> ChatJob:
    job = make_job(**fields)
    await queue.enqueue(job, reply_to="api-1", max_queued=1000)
    return job


async def claim_one(queue: JobQueue, *, lease_ms: int = LEASE_MS) -> ClaimedJob:
    (claimed,) = (await queue.claim("w1", WIDE, lease_ms=lease_ms)).jobs
    return claimed


async def fail(queue: JobQueue, claimed: ClaimedJob, *, is_dead_letter: bool = False) -> bool:
    outcome = Failed(
        job_id=claimed.job.id,
        attempt=3,
        status=JobStatus.FAILED,
        error=JobError(message="no room on the device"),
    )
    return await queue.finish(claimed, outcome, fence=claimed.fence, is_dead_letter=is_dead_letter)


async def retry(queue: JobQueue, job_id: str) -> JobRecord:
    record = await queue.retry(job_id, max_queued=1000)
    assert record is not None
    return record


# -- retry -----------------------------------------------------------------------------------


async def test_a_job_that_failed_runs_again_from_the_start(queue: JobQueue) -> None:
    job = await enqueue(queue, deadline_s=100.0)
    first = await claim_one(queue)
    await fail(queue, first)
    record = await retry(queue, job.id)
    assert (record.status, record.position, record.attempts) == (JobStatus.QUEUED, 1, 0)
    assert (record.error, record.started_ms, record.finished_ms) == (None, None, None)
    again = await claim_one(queue)
    assert (again.job, again.attempts, again.earlier_fence) == (job, 0, first.fence)
    assert 50 < again.time_left_s <= 100
    assert await queue.finish(again, make_finished(job.id), fence=again.fence)
    done = await queue.record(job.id)
    assert done is not None and done.status is JobStatus.SUCCEEDED


async def test_a_job_that_was_cancelled_or_expired_runs_again_too(queue: JobQueue) -> None:
    cancelled, expired = await enqueue(queue), await enqueue(queue, deadline_s=0)
    await queue.cancel(cancelled.id)
    await queue.record(expired.id)  # looking ends it
    for job in (cancelled, expired):
        assert (await retry(queue, job.id)).status is JobStatus.QUEUED
    assert [job.job for job in (await queue.claim("w1", WIDE, lease_ms=9)).jobs] == [
        cancelled,
        expired,
    ]


async def test_its_place_in_time_is_that_of_the_retry(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    record = await retry(queue, job.id)
    assert record.queued_ms is not None and record.queued_ms >= record.created_ms
    assert (await claim_one(queue)).created_ms == record.queued_ms


async def test_a_worker_of_the_earlier_life_writes_nothing(queue: JobQueue) -> None:
    job = await enqueue(queue)
    frozen = await claim_one(queue, lease_ms=-1000)
    await fail(queue, await claim_one(queue))
    await retry(queue, job.id)
    assert not await queue.finish(frozen, make_finished(job.id), fence=frozen.fence)
    assert (await queue.renew("w1", {job.id: frozen.fence}, lease_ms=9)).lost == [job.id]
    await claim_one(queue)
    assert not await queue.finish(frozen, make_finished(job.id), fence=frozen.fence)


async def test_a_cancellation_of_the_earlier_life_does_not_stop_the_next(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await queue.cancel(job.id)  # its worker hears of it by a renewal, and has yet to read its list
    cancelled = Failed(
        job_id=job.id,
        attempt=1,
        status=JobStatus.CANCELLED,
        error=JobError(message="the job was cancelled"),
    )
    await queue.finish(claimed, cancelled, fence=claimed.fence)
    await retry(queue, job.id)
    again = await claim_one(queue)
    [note] = await redis.lrange(keys.control("w1"), 0, -1)
    assert read_cancellation(note.decode()) == (job.id, claimed.fence) != (job.id, again.fence)
    assert await queue.begin("w1", job.id, fence=again.fence, lease_ms=9) is StartResult.YES


async def test_a_dead_letter_that_is_retried_is_none_any_more(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    await fail(queue, await claim_one(queue), is_dead_letter=True)
    await retry(queue, job.id)
    assert await redis.llen(keys.dead_letters) == 0


async def test_a_retry_wakes_a_worker(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    await redis.delete(keys.wake)
    await retry(queue, job.id)
    assert await redis.llen(keys.wake) == 1


async def test_nothing_of_the_earlier_life_is_left(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    await fail(queue, await claim_one(queue))
    await redis.rpush(keys.token_log(job.id), "of the first life")
    await retry(queue, job.id)
    for key in (keys.token_log(job.id), keys.arq_result(job.id), keys.payload(job.id)):
        assert not await redis.exists(key)
    assert await redis.pttl(keys.record(job.id)) > 86_400_000


async def test_a_job_that_waits_runs_or_succeeded_is_not_retried(queue: JobQueue) -> None:
    job = await enqueue(queue)
    with pytest.raises(Conflict, match="it is queued"):
        await retry(queue, job.id)
    claimed = await claim_one(queue)
    with pytest.raises(Conflict, match="it is running"):
        await retry(queue, job.id)
    await queue.finish(claimed, make_finished(job.id), fence=claimed.fence)
    with pytest.raises(Conflict, match="it is succeeded"):
        await retry(queue, job.id)


async def test_a_job_whose_data_is_gone_says_so(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    await redis.delete(keys.payload(job.id))
    with pytest.raises(Conflict, match="its data is gone"):
        await retry(queue, job.id)


async def test_a_job_is_retried_once_however_often_the_command_is_sent(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    scripts = Scripts(redis, keys)
    args = (job.id, "token", b"arq's job", 1, 1000, LATER_MS)
    for _ in range(2):  # the client never saw the first answer
        reply = await scripts.run(Script.RETRY, *args)
        assert reply[0] == b"accepted"
    assert await queue.depth() == Depth(waiting=1, running=0)
    await queue.cancel(job.id)
    assert (await scripts.run(Script.RETRY, *args))[0] == b"accepted"  # and it was, once
    assert await queue.depth() == Depth(waiting=0, running=0)
    assert (await queue.totals())[JobStatus.QUEUED] == 2


async def test_what_reaches_redis_too_late_retries_and_cancels_nothing(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, waiting = await enqueue(queue), await enqueue(queue)
    await queue.cancel(job.id)
    run = Scripts.run

    async def on_a_slow_way(self: Scripts, script: Script, *args: ScriptArg) -> Any:
        await asyncio.sleep(0.1)
        return await run(self, script, *args)

    monkeypatch.setattr(Scripts, "run", on_a_slow_way)
    with pytest.raises(TimeoutError, match="too late"):
        await queue.retry(job.id, max_queued=9, within_s=0.05)
    with pytest.raises(TimeoutError, match="too late"):
        await queue.cancel(waiting.id, within_s=0.05)
    for each, status in ((job, JobStatus.CANCELLED), (waiting, JobStatus.QUEUED)):
        record = await queue.record(each.id)
        assert record is not None and record.status is status


async def test_a_job_is_gone_with_its_ttl(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    job = await enqueue(queue, ttl_s=5)
    await queue.cancel(job.id)
    assert 0 < await redis.pttl(keys.payload(job.id)) <= 5000
    await redis.delete(keys.arq_result(job.id))  # as its ttl does
    assert await queue.retry(job.id, max_queued=9) is None
    assert await queue.retry("nobody", max_queued=9) is None


async def test_the_queue_limits_hold_for_retries(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    await enqueue(queue)
    with pytest.raises(QueueFull):
        await queue.retry(job.id, max_queued=1)
    with pytest.raises(QueueFull):
        await queue.retry(job.id, max_queued=9, max_queued_tokens=15)
    record = await queue.record(job.id)
    assert record is not None and record.status is JobStatus.CANCELLED


async def test_an_idempotency_key_leads_to_the_retried_job(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    key = Fingerprint("key", "body")
    job = make_job()
    await queue.enqueue(job, reply_to=None, max_queued=9, fingerprint=key)
    await queue.cancel(job.id)
    await retry(queue, job.id)
    again = await queue.enqueue(make_job(), reply_to=None, max_queued=9, fingerprint=key)
    assert (again.job_id, again.replayed) == (job.id, True)
    assert await redis.pttl(keys.idempotency("key")) > 86_400_000


# -- purge -----------------------------------------------------------------------------------


async def purge(queue: JobQueue) -> int:
    return sum([num async for num in queue.purge()])


async def test_a_purge_cancels_what_waits_and_nothing_else(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    running = await enqueue(queue)
    await claim_one(queue)
    waiting = [await enqueue(queue) for _ in range(PURGED_AT_ONCE + 5)]
    assert await purge(queue) == len(waiting)
    assert await queue.depth() == Depth(waiting=0, running=1)
    entries = await redis.xrange(keys.replies("api-1"))
    told = [event for _, fields in entries for event in decode_events(fields[b"events"])]
    assert sorted(event.job_id for event in told) == sorted(job.id for job in waiting)
    assert all(event.status is JobStatus.CANCELLED for event in told if isinstance(event, Failed))
    record = await queue.record(running.id)
    assert record is not None and record.status is JobStatus.RUNNING
    assert await redis.hget(keys.line, "tokens") == b"0"


async def test_a_purge_of_nothing_cancels_nothing(queue: JobQueue) -> None:
    assert await purge(queue) == 0


async def test_a_purge_leaves_alone_what_comes_after_its_start(queue: JobQueue) -> None:
    old = await enqueue(queue)
    batches = queue.purge()
    assert await anext(batches) == 0  # names what waits
    await _until_a_later_ms(queue)
    late = await enqueue(queue)
    assert [num async for num in batches] == [1]
    statuses = [(await record_of(queue, job)).status for job in (old, late)]
    assert statuses == [JobStatus.CANCELLED, JobStatus.QUEUED]


async def test_a_purge_ends_though_records_are_gone(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    gone, job = await enqueue(queue), await enqueue(queue)
    await redis.delete(keys.record(gone.id))
    assert await purge(queue) == 1
    assert (await record_of(queue, job)).status is JobStatus.CANCELLED


async def record_of(queue: JobQueue, job: ChatJob) -> JobRecord:
    record = await queue.record(job.id)
    assert record is not None
    return record


async def _until_a_later_ms(queue: JobQueue) -> None:
    probe = make_job()
    first = await queue.enqueue(probe, reply_to=None, max_queued=9)
    await queue.cancel(probe.id)
    while True:
        probe = make_job()
        later = await queue.enqueue(probe, reply_to=None, max_queued=9)
        await queue.cancel(probe.id)
        if later.created_ms > first.created_ms:
            return
