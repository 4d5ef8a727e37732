"""Idempotency keys: which job a request with a known key gets."""

import pytest

from shared.errors import Conflict
from shared.protocol import ChatJob
from shared.queue.backlog import Depth
from shared.queue.claims import FreeCapacity
from shared.queue.enqueued import Enqueued, IdempotencyKey
from shared.queue.job_queue import JobQueue
from tests.factories import make_job, make_succeeded

KEY = IdempotencyKey("key", body_digest="body")
SAME_KEY_OTHER_BODY = IdempotencyKey("key", body_digest="another body")
OTHER_KEY = IdempotencyKey("another key", body_digest="body")


async def enqueue(
    queue: JobQueue, job: ChatJob | None = None, key: IdempotencyKey = KEY, max_queued: int = 9
) -> Enqueued:
    return await queue.enqueue(
        job or make_job(), reply_to=None, max_queued=max_queued, idempotency_key=key
    )


async def test_the_same_key_and_body_give_the_same_job(queue: JobQueue) -> None:
    first, again = await enqueue(queue), await enqueue(queue)
    assert (again.job_id, again.replayed, first.replayed) == (first.job_id, True, False)
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_a_key_finds_its_job_after_the_job_ended(queue: JobQueue) -> None:
    first = await enqueue(queue)
    free = FreeCapacity(rows=1, kv_tokens=1000, running=0)
    [claimed] = (await queue.claim("w1", free, lease_ms=60_000)).jobs
    assert await queue.finish(
        claimed, make_succeeded(first.job_id), fencing_token=claimed.fencing_token
    )
    again = await enqueue(queue)
    assert (again.job_id, again.replayed) == (first.job_id, True)


async def test_a_key_with_another_body_is_a_conflict(queue: JobQueue) -> None:
    await enqueue(queue)
    with pytest.raises(Conflict, match="Idempotency-Key"):
        await enqueue(queue, key=SAME_KEY_OTHER_BODY)


async def test_an_enqueue_sent_twice_makes_one_job(queue: JobQueue) -> None:
    job = make_job()
    for _ in range(2):  # the client lost the first reply
        enqueued = await enqueue(queue, job, max_queued=1)
        assert (enqueued.job_id, enqueued.replayed) == (job.id, False)
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_a_job_is_found_by_its_key_and_body_alone(queue: JobQueue) -> None:
    assert await queue.find_by_key(KEY) is None
    enqueued = await enqueue(queue)
    assert await queue.find_by_key(KEY) == enqueued.job_id
    assert await queue.find_by_key(SAME_KEY_OTHER_BODY) is None
    assert await queue.find_by_key(OTHER_KEY) is None
