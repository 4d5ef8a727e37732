"""The trail of a job: what its record keeps of claims, lost leases, releases and its end."""

from redis.asyncio import Redis

from shared.queue.job_queue import JobQueue
from shared.queue.keys import TRAIL_MAX_BYTES, Keys
from tests.shared.queue.jobs import EXPIRED_AT_ONCE_MS, LEASE_MS, claim_one, enqueue, finish

Event = tuple[str, int, str | None]


async def trail(queue: JobQueue, job_id: str) -> list[Event]:
    """Return event, attempts and worker of each entry; their times must not fall."""
    entries = await queue.trail(job_id)
    assert entries is not None
    times = [entry.at_ms for entry in entries]
    assert times == sorted(times)
    return [(str(entry.event), entry.attempts, entry.worker) for entry in entries]


async def test_a_trail_has_the_events_of_a_run_and_its_delivery(queue: JobQueue) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    for _ in range(2):  # as after a lost reply
        await queue.start("w1", job.id, fencing_token=claimed.fencing_token, lease_ms=LEASE_MS)
    assert await finish(queue, claimed)
    assert await trail(queue, job.id) == [
        ("queued", 0, None),
        ("claimed", 0, "w1"),
        ("started", 0, "w1"),
        ("succeeded", 1, "w1"),
    ]
    entries = await queue.trail(job.id)
    assert entries is not None and entries[-1].replicas == ("api-1",)


async def test_a_trail_names_both_workers_of_a_takeover(queue: JobQueue) -> None:
    job = await enqueue(queue)
    first = await claim_one(queue, "w1", ms=EXPIRED_AT_ONCE_MS)
    await queue.start("w1", job.id, fencing_token=first.fencing_token, lease_ms=EXPIRED_AT_ONCE_MS)
    await claim_one(queue, "w2")
    assert (await trail(queue, job.id))[1:] == [
        ("claimed", 0, "w1"),
        ("started", 0, "w1"),
        ("lease_lost", 1, "w1"),
        ("claimed", 1, "w2"),
    ]


async def test_a_trail_has_releases(queue: JobQueue) -> None:
    job = await enqueue(queue)
    for worker in ("w1", "w2"):
        claimed = await claim_one(queue, worker)
        assert await queue.release(worker, {job.id: claimed.fencing_token}) == 1
    assert (await trail(queue, job.id))[1:] == [
        ("claimed", 0, "w1"),
        ("released", 0, "w1"),
        ("claimed", 0, "w2"),
        ("released", 0, "w2"),
    ]


async def test_a_trail_has_the_cancellation_of_a_running_job_once(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await claim_one(queue)
    for _ in range(2):
        await queue.cancel(job.id)
    assert (await trail(queue, job.id))[1:] == [("claimed", 0, "w1"), ("cancel_requested", 0, "w1")]


async def test_the_trail_of_a_cancelled_job_without_a_worker_has_no_worker(queue: JobQueue) -> None:
    job = await enqueue(queue)
    await queue.cancel(job.id)
    assert await trail(queue, job.id) == [("queued", 0, None), ("cancelled", 0, None)]


async def test_a_trail_shows_that_redis_lost_a_claim(queue: JobQueue, redis: Redis) -> None:
    job = await enqueue(queue)
    claimed = await claim_one(queue)
    await redis.flushall()
    await queue.renew("w1", {job.id: claimed.fencing_token}, lease_ms=LEASE_MS)
    assert (await trail(queue, job.id))[1:] == [("restored", 0, "w1")]


async def test_a_long_trail_keeps_its_latest_events(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job = await enqueue(queue)
    for number in range(200):
        claimed = await claim_one(queue, f"w{number}")
        await queue.release(f"w{number}", {job.id: claimed.fencing_token})
    kept = await trail(queue, job.id)
    assert len(kept) > 60
    assert kept[-2:] == [("claimed", 0, "w199"), ("released", 0, "w199")]
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hstrlen(keys.record(job.id), "trail")
        (length,) = await pipe.execute()
    assert TRAIL_MAX_BYTES - 64 < length <= TRAIL_MAX_BYTES


async def test_an_unknown_job_has_no_trail(queue: JobQueue) -> None:
    assert await queue.trail("unknown") is None
