"""Idempotency keys, read without enqueueing anything."""

from redis.asyncio import Redis

from shared.queue.idempotency import IdempotencyKeys
from shared.queue.job_queue import Fingerprint, JobQueue
from shared.queue.keys import Keys
from tests.factories import make_job


async def test_a_key_and_its_body_stand_for_the_job_that_they_brought(
    redis: Redis, keys: Keys
) -> None:
    job, noted = make_job(), IdempotencyKeys(redis, keys)
    fingerprint = Fingerprint("key", "body")
    assert await noted.job_id(fingerprint) is None
    queue = JobQueue(redis, keys)
    await queue.enqueue(job, reply_to=None, max_queued=9, fingerprint=fingerprint)
    assert await noted.job_id(fingerprint) == job.id
    assert await noted.job_id(Fingerprint("key", "another body")) is None
    assert await noted.job_id(Fingerprint("another key", "body")) is None
