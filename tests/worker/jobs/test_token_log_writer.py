"""Token logs are written in order, together, and completely."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import ConnectionError

from shared.process.asyncio_tasks import cancel_all
from shared.protocol import Delta
from shared.queue.claims import FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.token_log import MAX_AT_ONCE, PAGE, PendingAppend, TokenLog
from tests.factories import make_job
from worker.jobs.active_job import ActiveJob
from worker.jobs.capacity import Capacity
from worker.jobs.token_log_writer import TokenLogWriter

WAIT_S = 30.0
LEASE_MS = 60_000
KEYS = Keys()


def delta(token_id: int) -> Delta:
    return Delta(text="a", token_ids=[token_id])


async def in_time(awaited: Awaitable[object]) -> None:
    await asyncio.wait_for(awaited, WAIT_S)


class PausedLog(TokenLog):
    """A log whose writes wait for a permit; records every call."""

    def __init__(self, redis: FakeAsyncRedis) -> None:
        super().__init__(redis, KEYS)
        self.begun = asyncio.Semaphore(0)
        self.permits = asyncio.Semaphore(0)
        self.calls: list[Sequence[PendingAppend]] = []
        self.failures: list[Exception] = []

    def permit_all(self) -> None:
        for _ in range(1000):
            self.permits.release()

    async def append(self, worker_id: str, appends: Sequence[PendingAppend]) -> list[int | None]:
        self.calls.append(appends)
        self.begun.release()
        await self.permits.acquire()
        if self.failures:
            raise self.failures.pop()
        return await super().append(worker_id, appends)

    @property
    def sizes(self) -> list[list[int]]:
        """Number of deltas of each job in each call."""
        return [sorted(len(deltas) for *_, deltas in call) for call in self.calls]


@pytest.fixture
def redis() -> FakeAsyncRedis:
    return FakeAsyncRedis()


@pytest.fixture
def token_log(redis: FakeAsyncRedis) -> PausedLog:
    return PausedLog(redis)


@pytest.fixture
async def writer(token_log: PausedLog) -> AsyncIterator[TokenLogWriter]:
    writer = TokenLogWriter(token_log, "w1")
    running = asyncio.create_task(writer.run())
    yield writer
    await cancel_all([running])


@pytest.fixture
def queue(redis: FakeAsyncRedis) -> JobQueue:
    return JobQueue(redis, KEYS)


async def new_job(queue: JobQueue) -> ActiveJob:
    """Return a new job, claimed by w1."""
    await queue.enqueue(make_job(stream=True), reply_to=None, max_queued=10)
    return await claim(queue, "w1")


async def claim(queue: JobQueue, worker_id: str) -> ActiveJob:
    free = FreeCapacity(rows=8, kv_tokens=1000, running=0)
    [claimed] = (await queue.claim(worker_id, free, lease_ms=LEASE_MS)).jobs
    return Capacity(rows=8, kv_tokens=1000, max_attempts=3).to_active_job(claimed)


async def logged(token_log: TokenLog, active: ActiveJob) -> list[int]:
    deltas = await token_log.read(active.job.id, 0)
    return [token_id for delta in deltas for token_id in delta.token_ids]


async def test_tokens_that_arrive_during_a_write_are_written_together_by_the_next(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue
) -> None:
    a, b = await new_job(queue), await new_job(queue)
    async with writer.open(a) as log_a, writer.open(b) as log_b:
        log_a.append(delta(0))
        await in_time(token_log.begun.acquire())
        log_a.append(delta(1))
        log_b.append(delta(2))
        log_b.append(delta(3))
        token_log.permit_all()
        await in_time(log_a.flush())
        await in_time(log_b.flush())
    assert token_log.sizes == [[1], [1, 2]]
    assert await logged(token_log, a) == [0, 1]
    assert await logged(token_log, b) == [2, 3]


async def test_flushing_an_empty_log_does_not_wait(writer: TokenLogWriter, queue: JobQueue) -> None:
    async with writer.open(await new_job(queue)) as tokens:
        await in_time(tokens.flush())


async def test_flushing_does_not_wait_for_the_tokens_of_other_jobs(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue
) -> None:
    mine, theirs = await new_job(queue), await new_job(queue)
    async with writer.open(mine) as my_log, writer.open(theirs) as their_log:
        my_log.append(delta(0))
        await in_time(token_log.begun.acquire())
        flushing = asyncio.create_task(my_log.flush())
        await asyncio.sleep(0)  # it waits
        their_log.append(delta(0))
        token_log.permits.release()
        await in_time(token_log.begun.acquire())  # the write of their token begins, and hangs
        await in_time(flushing)


async def test_tokens_wait_while_redis_is_unreachable(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue
) -> None:
    active = await new_job(queue)
    token_log.failures = [ConnectionError("gone"), OSError()]
    token_log.permit_all()
    async with writer.open(active) as tokens:
        tokens.append(delta(0))
        tokens.append(delta(1))
        await in_time(tokens.flush())
    assert token_log.failures == []
    assert await logged(token_log, active) == [0, 1]


async def test_a_long_backlog_of_one_job_is_written_in_portions(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue, redis: FakeAsyncRedis
) -> None:
    active = await new_job(queue)
    count = MAX_AT_ONCE + 1
    token_log.permit_all()
    async with writer.open(active) as tokens:
        for index in range(count):
            tokens.append(delta(index))
        await in_time(tokens.flush())
    assert token_log.sizes == [[MAX_AT_ONCE], [1]]
    assert await redis.llen(KEYS.token_log(active.job.id)) == count


async def test_a_long_backlog_of_several_jobs_is_written_in_portions(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue
) -> None:
    half = MAX_AT_ONCE // 2
    async with AsyncExitStack() as stack:
        jobs = [await new_job(queue) for _ in range(5)]
        logs = [await stack.enter_async_context(writer.open(job)) for job in jobs]
        for tokens in logs:
            for index in range(half):
                tokens.append(delta(index))
        token_log.permit_all()
        for tokens in logs:
            await in_time(tokens.flush())
    assert token_log.sizes == [[half, half], [half, half], [half]]
    for job in jobs:
        assert await logged(token_log, job) == list(range(half))


async def test_tokens_that_redis_lost_are_written_again(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue, redis: FakeAsyncRedis
) -> None:
    active = await new_job(queue)
    token_log.permit_all()
    async with writer.open(active) as tokens:
        for index in range(5):
            tokens.append(delta(index))
        await in_time(tokens.flush())
        await redis.ltrim(KEYS.token_log(active.job.id), 0, 1)
        tokens.append(delta(5))
        await in_time(tokens.flush())
    assert await logged(token_log, active) == [0, 1, 2, 3, 4, 5]


async def test_a_second_attempt_continues_the_log_of_the_first(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue, redis: FakeAsyncRedis
) -> None:
    count = PAGE + 1
    token_log.permit_all()
    first = await new_job(queue)
    async with writer.open(first) as tokens:
        for index in range(count):
            tokens.append(delta(index))
        await in_time(tokens.flush())
    await queue.release("w1", {first.job.id: first.fencing_token})
    second = await claim(queue, "w1")
    async with writer.open(second) as tokens:
        assert [d.token_ids[0] for d in tokens.earlier] == list(range(count))
        tokens.append(delta(count))
        await in_time(tokens.flush())
    assert await redis.llen(KEYS.token_log(second.job.id)) == count + 1


async def test_a_worker_that_lost_its_job_writes_nothing_and_its_flush_waits(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue
) -> None:
    active = await new_job(queue)
    await queue.release("w1", {active.job.id: active.fencing_token})
    await claim(queue, "w2")
    token_log.permit_all()
    async with writer.open(active) as tokens:
        tokens.append(delta(0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tokens.flush(), 0.5)
    assert await logged(token_log, active) == []
    assert len(token_log.calls) < 10  # it pauses between attempts


async def test_a_worker_that_claims_its_own_job_again_continues_to_write(
    writer: TokenLogWriter, token_log: PausedLog, queue: JobQueue
) -> None:
    active = await new_job(queue)
    await queue.release("w1", {active.job.id: active.fencing_token})
    again = await claim(queue, "w1")
    token_log.permit_all()
    async with writer.open(active) as tokens:
        tokens.append(delta(0))
        await in_time(token_log.begun.acquire())  # refused: the fencing token is the old one
        active.fencing_token = again.fencing_token
        await in_time(tokens.flush())
    assert await logged(token_log, active) == [0]
