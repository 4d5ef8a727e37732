"""Tokens on their way to Redis: in order, together, and known to be there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import ConnectionError

from shared.process.asyncio_tasks import cancel_all
from shared.protocol import Delta
from shared.queue.claims import Room
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.token_log import MAX_AT_ONCE, PAGE, Addition, TokenLog
from tests.factories import make_job
from worker.jobs.active_job import ActiveJob
from worker.jobs.capacity import Capacity
from worker.jobs.token_log_writer import Outbox

WAIT_S = 30.0
LEASE_MS = 60_000
KEYS = Keys()


def delta(token_id: int) -> Delta:
    return Delta(text="a", token_ids=[token_id])


async def within_reason(awaited: Awaitable[object]) -> None:
    await asyncio.wait_for(awaited, WAIT_S)


class HaltingLog(TokenLog):
    """A log whose writes wait until they are let through, and that keeps what was to be added."""

    def __init__(self, redis: FakeAsyncRedis) -> None:
        super().__init__(redis, KEYS)
        self.begun = asyncio.Semaphore(0)
        self.permits = asyncio.Semaphore(0)
        self.calls: list[Sequence[Addition]] = []
        self.failures: list[Exception] = []

    def let_all_through(self) -> None:
        for _ in range(1000):
            self.permits.release()

    async def append(self, worker_id: str, additions: Sequence[Addition]) -> list[int | None]:
        self.calls.append(additions)
        self.begun.release()
        await self.permits.acquire()
        if self.failures:
            raise self.failures.pop()
        return await super().append(worker_id, additions)


@pytest.fixture
def redis() -> FakeAsyncRedis:
    return FakeAsyncRedis()


@pytest.fixture
def token_log(redis: FakeAsyncRedis) -> HaltingLog:
    return HaltingLog(redis)


@pytest.fixture
async def outbox(token_log: HaltingLog) -> AsyncIterator[Outbox]:
    outbox = Outbox(token_log, "w1")
    running = asyncio.create_task(outbox.run())
    yield outbox
    await cancel_all([running])


@pytest.fixture
def queue(redis: FakeAsyncRedis) -> JobQueue:
    return JobQueue(redis, KEYS)


async def hold(queue: JobQueue, worker_id: str = "w1") -> ActiveJob:
    """A new job, claimed."""
    await queue.enqueue(make_job(stream=True), reply_to=None, max_queued=10)
    return await claim(queue, worker_id)


async def claim(queue: JobQueue, worker_id: str) -> ActiveJob:
    room = Room(rows=8, tokens=1000, running=0)
    [claimed] = (await queue.claim(worker_id, room, lease_ms=LEASE_MS)).jobs
    return Capacity(rows=8, tokens=1000, max_attempts=3).hold(claimed)


async def logged(token_log: TokenLog, held: ActiveJob) -> list[int]:
    deltas = await token_log.read(held.job.id, 0)
    return [token_id for delta in deltas for token_id in delta.token_ids]


async def test_what_comes_during_a_write_goes_with_the_next_for_all_jobs_at_once(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue
) -> None:
    a, b = await hold(queue), await hold(queue)
    async with outbox.open(a) as log_a, outbox.open(b) as log_b:
        outbox.put(log_a, delta(0))
        await within_reason(token_log.begun.acquire())
        outbox.put(log_a, delta(1))
        outbox.put(log_b, delta(2))
        outbox.put(log_b, delta(3))
        token_log.let_all_through()
        await within_reason(outbox.written(log_a))
        await within_reason(outbox.written(log_b))
    assert [sorted(len(each.deltas) for each in call) for call in token_log.calls] == [[1], [1, 2]]
    assert await logged(token_log, a) == [0, 1]
    assert await logged(token_log, b) == [2, 3]


async def test_with_nothing_put_there_is_nothing_to_wait_for(
    outbox: Outbox, queue: JobQueue
) -> None:
    async with outbox.open(await hold(queue)) as job_log:
        await within_reason(outbox.written(job_log))


async def test_a_neighbour_that_never_stops_is_not_waited_for(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue
) -> None:
    async with (
        outbox.open(await hold(queue)) as mine,
        outbox.open(await hold(queue)) as theirs,
    ):
        outbox.put(mine, delta(0))
        await within_reason(token_log.begun.acquire())
        waiting = asyncio.create_task(outbox.written(mine))
        await asyncio.sleep(0)  # it waits
        outbox.put(theirs, delta(0))
        token_log.permits.release()
        await within_reason(token_log.begun.acquire())  # theirs is under way, and stays so
        await within_reason(waiting)


async def test_tokens_wait_while_redis_is_away(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue
) -> None:
    held = await hold(queue)
    token_log.failures = [ConnectionError("gone"), OSError()]
    token_log.let_all_through()
    async with outbox.open(held) as job_log:
        outbox.put(job_log, delta(0))
        outbox.put(job_log, delta(1))
        await within_reason(outbox.written(job_log))
    assert token_log.failures == []
    assert await logged(token_log, held) == [0, 1]


async def test_many_tokens_go_in_portions(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue, redis: FakeAsyncRedis
) -> None:
    held = await hold(queue)
    count = MAX_AT_ONCE + 1
    token_log.let_all_through()
    async with outbox.open(held) as job_log:
        for index in range(count):
            outbox.put(job_log, delta(index))
        await within_reason(outbox.written(job_log))
    assert [len(call[0].deltas) for call in token_log.calls] == [MAX_AT_ONCE, 1]
    assert await redis.llen(KEYS.token_log(held.job.id)) == count


async def test_the_end_that_redis_lost_is_written_again(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue, redis: FakeAsyncRedis
) -> None:
    held = await hold(queue)
    token_log.let_all_through()
    async with outbox.open(held) as job_log:
        for index in range(5):
            outbox.put(job_log, delta(index))
        await within_reason(outbox.written(job_log))
        await redis.ltrim(KEYS.token_log(held.job.id), 0, 1)
        outbox.put(job_log, delta(5))
        await within_reason(outbox.written(job_log))
    assert await logged(token_log, held) == [0, 1, 2, 3, 4, 5]


async def test_another_worker_goes_on_from_what_was_written(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue, redis: FakeAsyncRedis
) -> None:
    count = PAGE + 1
    token_log.let_all_through()
    first = await hold(queue)
    async with outbox.open(first) as job_log:
        for index in range(count):
            outbox.put(job_log, delta(index))
        await within_reason(outbox.written(job_log))
    await queue.release("w1", {first.job.id: first.fence})
    second = await claim(queue, "w1")
    async with outbox.open(second) as job_log:
        assert [d.token_ids[0] for d in job_log.earlier] == list(range(count))
        outbox.put(job_log, delta(count))
        await within_reason(outbox.written(job_log))
    assert await redis.llen(KEYS.token_log(second.job.id)) == count + 1


async def test_a_worker_that_lost_its_job_writes_nothing_and_waits_to_be_told(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue
) -> None:
    held = await hold(queue)
    await queue.release("w1", {held.job.id: held.fence})
    await claim(queue, "w2")
    token_log.let_all_through()
    async with outbox.open(held) as job_log:
        outbox.put(job_log, delta(0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outbox.written(job_log), 0.5)
    assert await logged(token_log, held) == []
    assert len(token_log.calls) < 10  # it does not ask at every turn


async def test_a_worker_that_claims_its_own_job_anew_goes_on_writing(
    outbox: Outbox, token_log: HaltingLog, queue: JobQueue
) -> None:
    held = await hold(queue)
    await queue.release("w1", {held.job.id: held.fence})
    again = await claim(queue, "w1")
    token_log.let_all_through()
    async with outbox.open(held) as job_log:
        outbox.put(job_log, delta(0))
        await within_reason(token_log.begun.acquire())  # refused: it has the fence of old
        held.fence = again.fence
        await within_reason(outbox.written(job_log))
    assert await logged(token_log, held) == [0]
