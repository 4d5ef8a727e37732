"""What the harness counts as a takeover, with a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from tests.chaos.harness.takeover import LeasedJob, TakeoverWatch
from tests.redis_server import running_redis
from tests.shared.queue.jobs import EXPIRED_AT_ONCE_MS, LEASE_MS, claim_one, enqueue

pytestmark = pytest.mark.integration
POLLS_S = 0.3  # several polls of the watch


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    with running_redis(tmp_path) as server:
        client = connect(server.url, name="test", block_s=10)
        yield client
        await client.aclose()


async def test_a_job_of_another_worker_is_a_takeover(redis: Redis) -> None:
    queue, watch = JobQueue(redis, Keys()), TakeoverWatch(redis, Keys())
    job = await enqueue(queue)
    lost = await claim_one(queue, "frozen", ms=EXPIRED_AT_ONCE_MS)
    watching = asyncio.create_task(watch.watch([LeasedJob(job.id, lost.fencing_token)]))
    await asyncio.sleep(POLLS_S)
    await claim_one(queue, "other")
    await asyncio.wait_for(watching, 10)
    assert [takeover.job_id for takeover in watch.takeovers] == [job.id]


async def test_a_worker_that_renews_its_lease_lost_no_job(redis: Redis) -> None:
    """A later release, as of a shutdown, is no takeover of the earlier freeze."""
    queue, watch = JobQueue(redis, Keys()), TakeoverWatch(redis, Keys())
    job = await enqueue(queue)
    kept = await claim_one(queue, "frozen", ms=LEASE_MS)
    watching = asyncio.create_task(watch.watch([LeasedJob(job.id, kept.fencing_token)]))
    await asyncio.sleep(POLLS_S)
    await queue.renew("frozen", {job.id: kept.fencing_token}, lease_ms=LEASE_MS)
    await asyncio.sleep(POLLS_S)
    await queue.release("frozen", {job.id: kept.fencing_token})
    await claim_one(queue, "other")
    await asyncio.wait_for(watching, 10)
    assert watch.takeovers == []
