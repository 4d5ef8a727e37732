"""A queue in a fake Redis with a clock that tests advance, and a worker for one job at a time."""

from typing import Any

import pytest
from redis.asyncio import Redis

from shared.errors import QueueFull
from shared.protocol import ChatJob
from shared.queue.claims import FreeCapacity
from shared.queue.enqueued import Enqueued
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.registry.worker_registry import Registry
from tests.factories import make_job, make_succeeded, make_worker_info

TOKENS = 10  # of each job
MAX_QUEUED = 1000


class Clock:
    """The clock of Redis: a microsecond later for each script, and advanced by tests."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def time(self) -> float:
        self.now_s += 1e-6
        return self.now_s


class QueueHarness:
    """One worker with capacity for one job; each job takes as long as the test says."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self.redis, self.keys, self.clock = redis, Keys(), clock
        self.queue = JobQueue(redis, self.keys)
        self.registry = Registry(redis, self.keys)

    async def submit(
        self,
        *,
        max_queued: int = MAX_QUEUED,
        max_tokens: int = 10**9,
        **job: Any,
    ) -> Enqueued:
        return await self.queue.enqueue(
            make_job(**job),
            reply_to=None,
            max_queued=max_queued,
            max_queued_tokens=max_tokens,
        )

    async def refused(self, **call: Any) -> QueueFull:
        with pytest.raises(QueueFull) as caught:
            await self.submit(**call)
        return caught.value

    async def take(self, rows: int = 1) -> list[ChatJob]:
        """Claim as many jobs as fit, and end them at once."""
        await self.registry.report(make_worker_info("w1"))
        free = FreeCapacity(rows=rows, kv_tokens=rows * TOKENS, running=1)
        claim = await self.queue.claim("w1", free, lease_ms=60_000)
        for claimed in claim.jobs:
            await self.queue.finish(
                claimed, make_succeeded(claimed.job.id), fencing_token=claimed.fencing_token
            )
        return [claimed.job for claimed in claim.jobs]

    async def take_repeatedly(self, num: int, every_s: float, *, rows: int = 1) -> None:
        for _ in range(num):
            self.clock.now_s += every_s
            assert len(await self.take(rows)) == rows

    async def tokens(self) -> int:
        return int(await self.redis.hget(self.keys.backlog, "tokens") or 0)


async def with_backlog(
    harness: QueueHarness, *, waiting: int, every_s: float, rows: int = 1
) -> None:
    """Fill the backlog with so many jobs, after the claim rate has been measured."""
    measured = 30
    for _ in range(waiting + rows * (measured + 1)):
        await harness.submit()
    await harness.take(rows)
    await harness.take_repeatedly(measured, every_s, rows=rows)


def retry_after_for(needed_s: float) -> Any:
    """Return the Retry-After of this estimate: 1.2 times, plus 1 s, in whole seconds."""
    return pytest.approx(1.2 * needed_s + 1.5, abs=0.6)
