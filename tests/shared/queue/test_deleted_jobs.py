"""The request of a response is stored with its job, and deleted with its result."""

import pytest
from redis.asyncio import Redis

from shared.errors import QueueFull
from shared.protocol import JobStatus
from shared.queue.enqueued import IdempotencyKey
from shared.queue.job_queue import JobQueue
from shared.queue.keys import RESULT_TTL_S, UNFINISHED_JOB_TTL_S, Keys
from shared.queue.token_log import TokenLog
from tests.factories import make_job
from tests.shared.queue.jobs import claim_one, failed, finish

REQUEST = b"the request"
KEY = IdempotencyKey("digest", body_digest="body")


async def enqueue(queue: JobQueue, *, max_queued: int = 9, ttl_s: int | None = None) -> str:
    job = make_job(stream=True, ttl_s=ttl_s)
    enqueued = await queue.enqueue(
        job, reply_to=None, max_queued=max_queued, idempotency_key=KEY, response=REQUEST
    )
    return enqueued.job_id


async def test_a_request_is_stored_with_its_job_and_as_long_as_the_result(
    redis: Redis, keys: Keys, queue: JobQueue
) -> None:
    job_id = await enqueue(queue)
    assert await queue.response(job_id) == REQUEST
    assert 0 <= UNFINISHED_JOB_TTL_S - await redis.ttl(keys.response(job_id)) < 600
    assert await finish(queue, await claim_one(queue))
    assert 0 <= RESULT_TTL_S - await redis.ttl(keys.response(job_id)) < 600


async def test_a_refused_request_is_not_stored(redis: Redis, keys: Keys, queue: JobQueue) -> None:
    with pytest.raises(QueueFull):
        await enqueue(queue, max_queued=0)
    assert await redis.keys(keys.response("*")) == []


async def test_a_retry_has_the_request_of_the_job(queue: JobQueue) -> None:
    job_id = await enqueue(queue)
    claimed = await claim_one(queue)
    assert await queue.finish(claimed, failed(job_id), fencing_token=claimed.fencing_token)
    retried = await queue.retry(job_id, max_queued=9)
    assert await queue.response(retried.job_id) == REQUEST


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_a_deleted_job_leaves_nothing_to_read(
    redis: Redis, keys: Keys, queue: JobQueue, ends: str
) -> None:
    """It does not matter whether the job ends before or after it is deleted."""
    job_id = await enqueue(queue)
    claimed = await claim_one(queue)
    await TokenLog(redis, keys).append("w1", [(job_id, claimed.fencing_token, 0, [b"\x80"])])
    if ends == "before":
        assert await finish(queue, claimed)
    for _ in range(2):
        await queue.delete(job_id)
    assert await queue.response(job_id) is None
    assert await TokenLog(redis, keys).length(job_id) == 0
    if ends == "after":
        assert await finish(queue, claimed)
    while await redis.exists(keys.arq_result(job_id)):
        pass  # it expires within a millisecond
    assert await queue.record(job_id) is None
    assert not await finish(queue, claimed)


async def test_the_payload_of_a_deleted_job_cannot_be_retried(
    redis: Redis, keys: Keys, queue: JobQueue
) -> None:
    job_id = await enqueue(queue)
    record = await queue.cancel(job_id)
    assert record is not None and record.status is JobStatus.CANCELLED
    await queue.delete(job_id)
    assert not await redis.exists(keys.retry_payload(job_id))


async def test_the_key_of_a_deleted_job_makes_another_job(queue: JobQueue) -> None:
    first = await enqueue(queue)
    assert await enqueue(queue) == first
    await queue.delete(first)
    second = await enqueue(queue)
    assert second != first
    await queue.delete(first)
    assert await queue.find_by_key(KEY) == second
