"""A retry is a new job: a copy of a job that ended without a result."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.errors import Conflict, NotFound, QueueFull
from shared.protocol import ChatJob, Failed, JobError, JobRecord, JobStatus
from shared.queue.backlog import Depth
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.enqueued import Enqueued, IdempotencyKey
from shared.queue.job_queue import JobQueue
from shared.queue.keys import PRIORITY_WINDOW_MS, Keys
from shared.queue.scripts import Script, ScriptArg, Scripts
from shared.queue.token_log import TokenLog
from tests.factories import make_job, make_succeeded

WIDE = FreeCapacity(rows=1000, kv_tokens=1_000_000, running=0)
LEASE_MS = 60_000


async def enqueue(queue: JobQueue, **fields: object) -> ChatJob:
    job = make_job(**fields)
    await queue.enqueue(job, reply_to="api-1", priority=job.priority, max_queued=1000)
    return job


async def claim_one(queue: JobQueue) -> ClaimedJob:
    (claimed,) = (await queue.claim("w1", WIDE, lease_ms=LEASE_MS)).jobs
    return claimed


async def fail(queue: JobQueue, claimed: ClaimedJob, *, is_dead_letter: bool = False) -> bool:
    outcome = Failed(
        job_id=claimed.job.id,
        attempt=3,
        status=JobStatus.FAILED,
        error=JobError(message="no room on the device"),
    )
    return await queue.finish(
        claimed, outcome, fencing_token=claimed.fencing_token, is_dead_letter=is_dead_letter
    )


async def retry(queue: JobQueue, job_id: str) -> Enqueued:
    return await queue.retry(job_id, max_queued=1000)


async def record_of(queue: JobQueue, job_id: str) -> JobRecord:
    record = await queue.record(job_id)
    assert record is not None
    return record


async def test_a_retry_is_a_copy_of_the_job_under_a_new_id(queue: JobQueue) -> None:
    fields = {"deadline_s": 100.0, "ttl_s": 60, "adapter": "verse", "stream": True}
    job = await enqueue(queue, metadata={"run": "7"}, **fields)
    first = await claim_one(queue)
    await fail(queue, first)
    retried = await retry(queue, job.id)
    assert retried.job_id != job.id and not retried.replayed
    for job_id in (job.id, retried.job_id):
        assert (await record_of(queue, job_id)).metadata == {"run": "7"}
    new = await claim_one(queue)
    assert new.job.id == retried.job_id
    assert {**_fields(new.job), "id": job.id} == _fields(job)
    assert (new.attempts, new.previous_fencing_token) == (0, 0)
    assert 50 < new.time_left_s <= 100
    assert await queue.finish(new, make_succeeded(new.job.id), fencing_token=new.fencing_token)
    assert (await record_of(queue, new.job.id)).status is JobStatus.SUCCEEDED


def _fields(job: ChatJob) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


async def test_the_records_of_a_job_and_its_retry_name_each_other(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await fail(queue, await claim_one(queue))
    retried = await retry(queue, job.id)
    old, new = await record_of(queue, job.id), await record_of(queue, retried.job_id)
    assert (old.retry_of, old.retried_as) == (None, new.id)
    assert (new.retry_of, new.retried_as) == (job.id, None)
    assert (new.status, new.position, new.attempts) == (JobStatus.QUEUED, 1, 0)
    again = await claim_one(queue)
    await fail(queue, again)
    third = await retry(queue, new.id)
    assert (await record_of(queue, new.id)).retried_as == third.job_id


async def test_the_retried_job_stays_as_it_ended(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    job, log = await enqueue(queue, stream=True), TokenLog(redis, keys)
    claimed = await claim_one(queue)
    await log.append("w1", [(job.id, claimed.fencing_token, 0, [b"a delta"])])
    await fail(queue, claimed)
    before = await record_of(queue, job.id)
    retried = await retry(queue, job.id)
    after = await record_of(queue, job.id)
    assert (after.status, after.outcome) == (JobStatus.FAILED, before.outcome)
    assert (after.created_ms, after.finished_ms) == (before.created_ms, before.finished_ms)
    assert (await log.length(job.id), await log.length(retried.job_id)) == (1, 0)
    assert await redis.xlen(keys.replies("api-1")) == 2  # one delta, one terminal event


async def test_a_cancelled_and_an_expired_job_can_be_retried(queue: JobQueue) -> None:
    cancelled, expired = await enqueue(queue), await enqueue(queue, deadline_s=0)
    await queue.cancel(cancelled.id)
    await queue.record(expired.id)  # expires it
    retries = [(await retry(queue, job.id)).job_id for job in (cancelled, expired)]
    claim = await queue.claim("w1", WIDE, lease_ms=9)
    assert [job.job.id for job in claim.jobs] == retries


async def test_a_retry_has_the_priority_of_its_job(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job, other = await enqueue(queue, priority=2), await enqueue(queue)
    await queue.cancel(job.id)
    retried = await retry(queue, job.id)
    ahead_ms = await redis.zscore(keys.queue, other.id) - await redis.zscore(
        keys.queue, retried.job_id
    )
    assert PRIORITY_WINDOW_MS < ahead_ms <= 2 * PRIORITY_WINDOW_MS


async def test_a_retried_dead_letter_leaves_the_list(
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


async def test_a_job_that_waits_runs_or_succeeded_is_not_retried(queue: JobQueue) -> None:
    job = await enqueue(queue)
    with pytest.raises(Conflict, match="it is queued"):
        await retry(queue, job.id)
    claimed = await claim_one(queue)
    with pytest.raises(Conflict, match="it is running"):
        await retry(queue, job.id)
    await queue.finish(claimed, make_succeeded(job.id), fencing_token=claimed.fencing_token)
    with pytest.raises(Conflict, match="it is succeeded"):
        await retry(queue, job.id)


async def test_a_job_with_an_expired_payload_is_a_conflict(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    await redis.delete(keys.retry_payload(job.id))
    with pytest.raises(Conflict, match="its data is gone"):
        await retry(queue, job.id)


async def test_a_repeated_retry_returns_the_retry_that_exists(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    first = await retry(queue, job.id)
    again = await retry(queue, job.id)
    assert (again.job_id, again.replayed) == (first.job_id, True)
    await queue.cancel(first.job_id)
    assert (await retry(queue, job.id)).job_id == first.job_id  # however it ended
    assert await queue.depth() == Depth(waiting=0, running=0)
    assert (await queue.totals())[JobStatus.QUEUED] == 2


async def test_concurrent_retries_make_one_job(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    retries = await asyncio.gather(*(retry(queue, job.id) for _ in range(5)))
    assert len({each.job_id for each in retries}) == 1
    assert sum(not each.replayed for each in retries) == 1
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_a_job_that_redis_lost_is_retried_once_more(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    lost = await retry(queue, job.id)
    await redis.delete(keys.record(lost.job_id))
    again = await retry(queue, job.id)
    assert again.job_id != lost.job_id and not again.replayed


async def test_a_retry_that_reaches_redis_too_late_is_refused(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    run = Scripts.run

    async def run_late(self: Scripts, script: Script, *args: ScriptArg) -> Any:
        await asyncio.sleep(0.1)
        return await run(self, script, *args)

    monkeypatch.setattr(Scripts, "run", run_late)
    with pytest.raises(TimeoutError, match="too late"):
        await queue.retry(job.id, max_queued=9, within_s=0.05)
    assert (await record_of(queue, job.id)).retried_as is None


async def test_a_job_can_be_retried_until_its_ttl_ends(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue, ttl_s=5)
    await queue.cancel(job.id)
    assert 0 < await redis.pttl(keys.retry_payload(job.id)) <= 5000
    await redis.delete(keys.arq_result(job.id), keys.retry_payload(job.id))  # as the ttl does
    for job_id in (job.id, "unknown"):
        with pytest.raises(NotFound, match="no job"):
            await retry(queue, job_id)


async def test_a_job_that_expires_during_its_retry_leaves_nothing(
    queue: JobQueue, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    run = Scripts.run

    async def run_after_its_ttl(self: Scripts, script: Script, *args: ScriptArg) -> Any:
        names = (keys.record(job.id), keys.arq_result(job.id), keys.retry_payload(job.id))
        await redis.delete(*names)
        return await run(self, script, *args)

    monkeypatch.setattr(Scripts, "run", run_after_its_ttl)
    with pytest.raises(NotFound, match="no job"):
        await retry(queue, job.id)
    assert not await redis.exists(keys.record(job.id))
    assert await queue.depth() == Depth(waiting=0, running=0)


async def test_the_queue_limits_hold_for_retries(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    await enqueue(queue)
    with pytest.raises(QueueFull):
        await queue.retry(job.id, max_queued=1)
    with pytest.raises(QueueFull):
        await queue.retry(job.id, max_queued=9, max_queued_tokens=15)
    assert (await record_of(queue, job.id)).retried_as is None


async def test_the_idempotency_key_of_a_job_finds_its_retry(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    key, job = IdempotencyKey("key", "body"), make_job(ttl_s=60)
    await queue.enqueue(job, reply_to=None, max_queued=9, idempotency_key=key)
    await queue.cancel(job.id)
    retried = await retry(queue, job.id)
    again = await queue.enqueue(make_job(), reply_to=None, max_queued=9, idempotency_key=key)
    assert (again.job_id, again.replayed) == (retried.job_id, True)
    with pytest.raises(Conflict, match="different request body"):
        other = IdempotencyKey("key", "another body")
        await queue.enqueue(make_job(), reply_to=None, max_queued=9, idempotency_key=other)
    assert await redis.pttl(keys.idempotency("key")) > 86_400_000
    await queue.cancel(retried.job_id)
    assert 0 < await redis.pttl(keys.idempotency("key")) <= 60_000
