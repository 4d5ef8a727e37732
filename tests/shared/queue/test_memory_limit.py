"""At `maxmemory`, Redis refuses new jobs, and accepted jobs run to their end."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.protocol import ChatJob, Delta, JobStatus, encode
from shared.queue.backlog import Depth
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.token_log import TokenLog
from shared.redis.client import connect
from shared.registry.worker_registry import Registry
from tests.factories import make_card, make_job, make_succeeded, make_worker_info
from tests.integration.service import eventually
from tests.redis_server import RedisServer

LEASE_MS = 60_000


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    server = RedisServer(tmp_path)
    server.start()
    client = connect(server.url, name="test")
    yield client
    await client.aclose()
    server.stop()


async def enqueue(queue: JobQueue) -> ChatJob:
    job = make_job(stream=True)
    await queue.enqueue(job, reply_to="api-1", max_queued=100)
    return job


async def claim(queue: JobQueue, rows: int) -> list[ClaimedJob]:
    free = FreeCapacity(rows=rows, kv_tokens=1_000_000, running=0)
    return (await queue.claim("w1", free, lease_ms=LEASE_MS)).jobs


async def fill(redis: Redis) -> None:
    await redis.config_set("maxmemory", 1)
    with pytest.raises(ResponseError, match="command not allowed"):
        await redis.set("more", "than fits")


async def status(queue: JobQueue, job: ChatJob) -> JobStatus:
    record = await queue.record(job.id)
    assert record is not None
    return record.status


async def test_a_new_job_is_refused_and_writes_nothing(redis: Redis, queue: JobQueue) -> None:
    await enqueue(queue)
    before = sorted(await redis.keys())
    await fill(redis)
    with pytest.raises(ResponseError, match="command not allowed"):
        await enqueue(queue)
    assert sorted(await redis.keys()) == before


async def test_accepted_jobs_run_to_their_end(redis: Redis, queue: JobQueue) -> None:
    jobs = [await enqueue(queue) for _ in range(3)]
    await fill(redis)
    for job in await claim(queue, rows=3):
        assert await queue.start(
            "w1", job.job.id, fencing_token=job.fencing_token, lease_ms=LEASE_MS
        )
        assert (
            await queue.renew("w1", {job.job.id: job.fencing_token}, lease_ms=LEASE_MS)
        ).lost == []
        log = TokenLog(redis, Keys())
        packed = [encode(Delta(text=text, token_ids=[1])) for text in "ab"]
        assert await log.append("w1", [(job.job.id, job.fencing_token, 0, packed)]) == [2]
        assert [delta.text for delta in await log.read(job.job.id, 1)] == ["b"]
        assert await queue.finish(job, make_succeeded(job.job.id), fencing_token=job.fencing_token)
    assert [await status(queue, job) for job in jobs] == [JobStatus.SUCCEEDED] * 3
    assert await redis.xlen(Keys().replies("api-1")) == 6  # deltas and the end of each


async def test_workers_can_start_and_stop(redis: Redis, queue: JobQueue) -> None:
    job = await enqueue(queue)
    await fill(redis)
    registry = Registry(redis, Keys())
    card_hash = await registry.publish_card(make_card(), b"{}")
    assert await registry.report(make_worker_info("w1", card_hash=card_hash))
    (claimed,) = await claim(queue, rows=1)
    assert await queue.release("w1", {job.id: claimed.fencing_token}) == 1
    await registry.remove("w1")
    assert await queue.depth() == Depth(waiting=1, running=0)


async def test_clients_can_watch_and_cancel(redis: Redis, queue: JobQueue) -> None:
    running, waiting = [await enqueue(queue) for _ in range(2)]
    await fill(redis)
    (claimed,) = await claim(queue, rows=1)
    assert claimed.job.id == running.id
    for job in (running, waiting):
        assert await queue.watch(job.id, "api-2") is not None
        await queue.cancel(job.id)
    assert await status(queue, waiting) is JobStatus.CANCELLED
    renewal = await queue.renew("w1", {running.id: claimed.fencing_token}, lease_ms=LEASE_MS)
    assert renewal.cancelled == [running.id]


async def test_jobs_are_accepted_again_once_results_have_expired(
    redis: Redis, queue: JobQueue
) -> None:
    for _ in range(50):
        await queue.enqueue(make_job(ttl_s=1), reply_to=None, max_queued=100)
    for claimed in await claim(queue, rows=50):
        long = make_succeeded(claimed.job.id, text=20_000 * "x")  # in two places of the result
        assert await queue.finish(claimed, long, fencing_token=claimed.fencing_token)
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used - 1_000_000)
    with pytest.raises(ResponseError, match="command not allowed"):
        await enqueue(queue)

    async def takes_jobs() -> bool:
        with suppress(ResponseError):
            await enqueue(queue)
        return (await queue.depth()).waiting > 0

    await eventually(takes_jobs)
