"""Enqueue: the order of jobs, priorities, limits and wake-ups."""

import pytest
from redis.asyncio import Redis

from shared.errors import QueueFull
from shared.queue.backlog import Depth
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from tests.factories import make_job
from tests.shared.queue.jobs import claim, enqueue, ids


async def test_jobs_are_claimed_in_order_of_arrival(queue: JobQueue) -> None:
    jobs = [await enqueue(queue) for _ in range(20)]
    assert ids(await claim(queue)) == [job.id for job in jobs]


async def test_enqueue_returns_the_position(queue: JobQueue) -> None:
    positions = []
    for _ in range(3):
        enqueued = await queue.enqueue(make_job(), reply_to=None, max_queued=10)
        positions.append(enqueued.estimate.position)
    assert positions == [1, 2, 3]


async def test_a_higher_priority_overtakes_within_its_window(queue: JobQueue) -> None:
    normal, low = await enqueue(queue), await enqueue(queue, priority=-1)
    high = await enqueue(queue, priority=1)
    assert ids(await claim(queue)) == [high.id, normal.id, low.id]


async def test_priority_is_a_bounded_head_start_not_a_class(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    old = await enqueue(queue)
    await redis.zincrby(keys.queue, -60_001, old.id)  # it has waited for a minute
    high = await enqueue(queue, priority=2)
    assert ids(await claim(queue)) == [old.id, high.id]


async def test_a_full_queue_is_an_error_with_the_limit(queue: JobQueue) -> None:
    for _ in range(2):
        await queue.enqueue(make_job(), reply_to=None, max_queued=2)
    with pytest.raises(QueueFull, match="2 jobs are waiting, at most 2 may"):
        await queue.enqueue(make_job(), reply_to=None, max_queued=2)
    assert await queue.depth() == Depth(waiting=2, running=0)


async def test_running_jobs_do_not_count_towards_the_limit(queue: JobQueue) -> None:
    await queue.enqueue(make_job(), reply_to=None, max_queued=1)
    await claim(queue)
    await queue.enqueue(make_job(), reply_to=None, max_queued=1)
    assert await queue.depth() == Depth(waiting=1, running=1)


async def test_waiting_jobs_with_expired_records_do_not_count_towards_the_limit(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost = await enqueue(queue)
    await redis.delete(keys.record(lost.id))  # as its ttl does
    await redis.zincrby(keys.queue, -26 * 3_600_000, lost.id)
    await queue.enqueue(make_job(), reply_to=None, max_queued=1)
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_the_wake_list_has_at_most_one_element(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    for _ in range(50):
        await enqueue(queue)
    assert await redis.llen(keys.wake) == 1


async def test_queues_with_different_names_are_separate(redis: Redis, queue: JobQueue) -> None:
    await enqueue(queue)
    other = JobQueue(redis, Keys('a "quoted" queue'))
    assert ids(await claim(other)) == []
    job = await enqueue(other)
    assert ids(await claim(other)) == [job.id]
