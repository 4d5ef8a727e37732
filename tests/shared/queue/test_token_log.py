"""The token log: writes of the lease's owner, repeated and late writes, and events."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.asyncio import Redis

from shared.protocol import Delta, TokenDeltas, decode_token_deltas, encode
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import REPLIES_TTL_S, UNFINISHED_JOB_TTL_S, Keys
from shared.queue.token_log import MAX_AT_ONCE, PAGE, PendingAppend, TokenLog
from shared.redis.client import connect
from tests.factories import make_job, make_succeeded
from tests.redis_server import RedisServer

T = TypeVar("T")
FREE = FreeCapacity(rows=100, kv_tokens=10_000, running=0)
LONG_MS = 600_000


def deltas(*token_ids: int) -> list[Delta]:
    return [Delta(text=f"<{token_id}>", token_ids=[token_id]) for token_id in token_ids]


def addition(lease: ClaimedJob, index: int, *token_ids: int) -> PendingAppend:
    packed = [encode(delta) for delta in deltas(*token_ids)]
    return (lease.job.id, lease.fencing_token, index, packed)


@pytest.fixture
def log(redis: Redis, keys: Keys) -> TokenLog:
    return TokenLog(redis, keys)


async def start(queue: JobQueue, reply_to: str | None = "api-1") -> ClaimedJob:
    """Enqueue a job and let w1 claim it."""
    await queue.enqueue(make_job(stream=True), reply_to=reply_to, max_queued=1000)
    return await claim(queue, "w1")


async def claim(queue: JobQueue, worker_id: str, lease_ms: int = LONG_MS) -> ClaimedJob:
    [claimed] = (await queue.claim(worker_id, FREE, lease_ms=lease_ms)).jobs
    return claimed


async def heard(redis: Redis, keys: Keys, replica_id: str) -> list[list[TokenDeltas]]:
    """Return the new deltas in each entry of a replica's stream."""
    entries = await redis.xrange(keys.replies(replica_id))
    return [
        [decode_token_deltas(name.decode(), data) for name, data in fields.items()]
        for _, fields in entries
    ]


async def test_a_log_is_read_from_any_index(queue: JobQueue, log: TokenLog) -> None:
    lease = await start(queue)
    assert await log.append("w1", [addition(lease, 0, 10, 11)]) == [2]
    assert await log.append("w1", [addition(lease, 2, 12)]) == [3]
    assert await log.read(lease.job.id, 0) == deltas(10, 11, 12)
    assert await log.read(lease.job.id, 2) == deltas(12)
    assert await log.read(lease.job.id, 3) == []
    assert await log.length(lease.job.id) == 3


async def test_a_long_log_is_read_in_pages(queue: JobQueue, log: TokenLog) -> None:
    lease = await start(queue)
    await log.append("w1", [addition(lease, 0, *range(PAGE + 3))])
    assert await log.read(lease.job.id, 1) == deltas(*range(1, PAGE + 1))
    assert await log.read(lease.job.id, PAGE) == deltas(PAGE, PAGE + 1, PAGE + 2)


async def test_a_delta_keeps_every_field_of_a_result(queue: JobQueue, log: TokenLog) -> None:
    lease = await start(queue)
    delta = Delta(
        sequence=2,
        text="é\n",
        token_ids=[7],
        logprob=-0.25,
        top_logprobs={7: -0.25, 9: -1.5},
        finish_reason="stop",
    )
    await log.append("w1", [(lease.job.id, lease.fencing_token, 0, [encode(delta)])])
    assert await log.read(lease.job.id, 0) == [delta]


async def test_a_repeated_write_adds_nothing_and_sends_one_event(
    queue: JobQueue, log: TokenLog, redis: Redis, keys: Keys
) -> None:
    lease = await start(queue)
    for _ in range(2):
        assert await log.append("w1", [addition(lease, 0, 10, 11)]) == [2]
    assert await log.append("w1", [addition(lease, 1, 11, 12)]) == [3]
    assert await log.read(lease.job.id, 0) == deltas(10, 11, 12)
    published = [each for entry in await heard(redis, keys, "api-1") for each in entry]
    assert [(each.index, each.deltas) for each in published] == [
        (0, deltas(10, 11)),
        (2, deltas(12)),
    ]


async def test_a_log_that_lost_its_end_returns_its_length(queue: JobQueue, log: TokenLog) -> None:
    lease = await start(queue)
    await log.append("w1", [addition(lease, 0, 10)])
    assert await log.append("w1", [addition(lease, 3, 13)]) == [1]
    assert await log.read(lease.job.id, 0) == deltas(10)


async def test_each_replica_gets_one_entry_for_all_jobs_of_a_call(
    queue: JobQueue, log: TokenLog, redis: Redis, keys: Keys
) -> None:
    first, second, third = await start(queue), await start(queue), await start(queue, "api-2")
    await queue.watch(second.job.id, "api-2")
    additions = [addition(lease, 0, 1) for lease in (first, second, third)]
    assert await log.append("w1", additions) == [1, 1, 1]
    for replica_id, leases in (("api-1", [first, second]), ("api-2", [second, third])):
        [entry] = await heard(redis, keys, replica_id)
        assert [each.job_id for each in entry] == [lease.job.id for lease in leases]
        assert 0 < await redis.ttl(keys.replies(replica_id)) <= REPLIES_TTL_S


async def test_jobs_with_a_lost_lease_get_no_deltas_and_the_others_do(
    queue: JobQueue, log: TokenLog, redis: Redis, keys: Keys
) -> None:
    lost, kept = await start(queue), await start(queue)
    await queue.release("w1", {lost.job.id: lost.fencing_token})
    both = [addition(lost, 0, 66), addition(kept, 0, 1)]
    assert await log.append("w1", both) == [None, 1]
    again = await claim(queue, "w1")  # the same worker, with another fencing_token
    assert await log.append("w1", both) == [None, 1]
    assert await log.append("w2", [addition(again, 0, 66)]) == [None]
    assert await log.append("w1", [addition(again, 0, 1)]) == [1]
    await queue.finish(again, make_succeeded(again.job.id), fencing_token=again.fencing_token)
    assert await log.append("w1", [addition(again, 1, 66)]) == [None]
    assert await log.read(lost.job.id, 0) == deltas(1)


async def test_a_log_has_the_ttl_of_its_job_and_then_of_the_result(
    queue: JobQueue, log: TokenLog, redis: Redis, keys: Keys
) -> None:
    await queue.enqueue(make_job(stream=True, ttl_s=60), reply_to=None, max_queued=10)
    lease = await claim(queue, "w1")
    key = keys.token_log(lease.job.id)
    await log.append("w1", [addition(lease, 0, 1)])
    assert UNFINISHED_JOB_TTL_S - 60 < await redis.ttl(key) <= UNFINISHED_JOB_TTL_S
    await queue.finish(lease, make_succeeded(lease.job.id), fencing_token=lease.fencing_token)
    assert 0 < await redis.ttl(key) <= 60


async def test_a_released_job_keeps_its_log(queue: JobQueue, log: TokenLog) -> None:
    lease = await start(queue)
    await log.append("w1", [addition(lease, 0, 1)])
    await queue.release("w1", {lease.job.id: lease.fencing_token})
    assert await log.read(lease.job.id, 0) == deltas(1)


class LogMachine(RuleBasedStateMachine):
    """One job, workers that lose its lease, and a Redis that loses its last writes.

    The token at each index equals the index; a worker without the lease writes other tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis = FakeAsyncRedis()
        self.keys = Keys()
        self.queue = JobQueue(self.redis, self.keys)
        self.log = TokenLog(self.redis, self.keys)
        self.former: list[ClaimedJob] = []
        self.length = 0
        self.lease = self.do(start(self.queue))
        self.num_made = 0

    def teardown(self) -> None:
        self.do(self.redis.aclose())
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(worker_id=st.sampled_from(["w1", "w2"]))
    def another_lease(self, worker_id: str) -> None:
        self.do(
            self.queue.release(self.lease.worker_id, {self.lease.job.id: self.lease.fencing_token})
        )
        self.former.append(self.lease)
        self.lease = self.do(claim(self.queue, worker_id))
        self.num_made = len(self.do(self.log.read(self.lease.job.id, 0)))

    @rule(overlap=st.integers(0, 3), count=st.integers(0, 4))
    def append(self, overlap: int, count: int) -> None:
        """Append new deltas after some that were sent before."""
        first = max(0, self.num_made - overlap)
        self.num_made += count
        sent = addition(self.lease, first, *range(first, self.num_made))
        lengths = self.do(self.log.append(self.lease.worker_id, [sent]))
        if self.length >= first:
            self.length = max(self.length, self.num_made)
        assert lengths == [self.length]

    @rule()
    def send_again_what_is_missing(self) -> None:
        missing = addition(self.lease, self.length, *range(self.length, self.num_made))
        self.length = self.num_made
        assert self.do(self.log.append(self.lease.worker_id, [missing])) == [self.length]

    @rule(data=st.data(), index=st.integers(0, 9))
    def append_without_right(self, data: st.DataObject, index: int) -> None:
        if self.former:
            lease = data.draw(st.sampled_from(self.former))
            wrong = addition(lease, index, 666)
            assert self.do(self.log.append(lease.worker_id, [wrong])) == [None]

    @rule(count=st.integers(1, 3))
    def lose_the_end(self, count: int) -> None:
        self.length = max(0, self.length - count)
        for _ in range(count):
            self.do(self.redis.rpop(self.keys.token_log(self.lease.job.id)))

    @invariant()
    def the_log_is_what_was_made_in_order(self) -> None:
        expected = deltas(*range(self.length))
        assert self.do(self.log.read(self.lease.job.id, 0)) == expected

    @invariant()
    def the_watcher_heard_every_token_in_its_place(self) -> None:
        heard_indices: set[int] = set()
        for entry in self.do(heard(self.redis, self.keys, "api-1")):
            for published in entry:
                indices = range(published.index, published.end)
                assert published.deltas == deltas(*indices)
                heard_indices |= set(indices)
        assert heard_indices >= set(range(self.length))


TestLogModel = LogMachine.TestCase
TestLogModel.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


@pytest.fixture
async def real_redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(redis_server.url, name="test", block_s=10)
    await client.flushall()
    yield client
    await client.aclose()


async def test_one_command_can_address_the_largest_number_of_jobs(real_redis: Redis) -> None:
    keys, count = Keys(), MAX_AT_ONCE
    queue, log = JobQueue(real_redis, keys), TokenLog(real_redis, keys)
    for _ in range(count):
        await queue.enqueue(make_job(stream=True), reply_to="api-1", max_queued=count)
    free = FreeCapacity(rows=count, kv_tokens=10 * count, running=0)
    leases = (await queue.claim("w1", free, lease_ms=LONG_MS)).jobs
    lengths = await log.append("w1", [addition(lease, 0, 1) for lease in leases])
    assert lengths == [1] * count
    [entry] = await heard(real_redis, keys, "api-1")
    assert sorted(each.job_id for each in entry) == sorted(lease.job.id for lease in leases)


async def test_a_step_of_32_streamed_rows_takes_one_call(
    real_redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker with 32 streamed rows makes one call; the api replica gets one entry."""
    redis, keys, steps = real_redis, Keys(), 200
    queue, log = JobQueue(redis, keys), TokenLog(redis, keys)
    leases = [await start(queue) for _ in range(32)]
    await redis.config_resetstat()
    for index in range(steps):
        await log.append("w1", [addition(lease, index, index) for lease in leases])
    stats = await redis.info("commandstats")
    calls = sum(stat["calls"] for stat in stats.values()) / steps
    usec = stats["cmdstat_evalsha"]["usec"] / steps
    with capsys.disabled():
        print(f"\n32 streamed rows: {calls:.0f} commands, {usec:.0f} µs of Redis a step")
    assert len(await heard(redis, keys, "api-1")) == steps
    assert calls <= 32 * 4 + 5
