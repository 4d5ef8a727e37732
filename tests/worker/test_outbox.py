"""Deltas on their way to Redis: in order, together, and known to be there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping

import pytest
from fakeredis import FakeAsyncRedis
from redis.exceptions import ConnectionError

from shared.keys import Keys
from shared.protocol import Delta, Event, decode_events
from shared.replies import FIELD, write_events
from shared.tasks import cancel_all
from worker import outbox as outbox_module
from worker.outbox import Outbox

WAIT_S = 30.0
KEYS = Keys()


def delta(job_id: str, index: int = 0) -> Delta:
    return Delta(job_id=job_id, attempt=1, index=index, sequence=0, text="a", token_ids=[1])


async def within_reason(awaited: Awaitable[object]) -> None:
    await asyncio.wait_for(awaited, WAIT_S)


class Writes:
    """Stands in for Redis: each write waits until it is let through."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.permits = asyncio.Semaphore(0)
        self.bundles: list[Mapping[str, list[Event]]] = []

    async def write(self, redis: object, keys: Keys, bundles: Mapping[str, list[Event]]) -> None:
        self.bundles.append(bundles)
        self.begun.release()
        await self.permits.acquire()


@pytest.fixture
def redis() -> FakeAsyncRedis:
    return FakeAsyncRedis()


@pytest.fixture
async def outbox(redis: FakeAsyncRedis) -> AsyncIterator[Outbox]:
    outbox = Outbox(redis, KEYS)
    running = asyncio.create_task(outbox.run())
    yield outbox
    await cancel_all([running])


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    writes = Writes()
    monkeypatch.setattr(outbox_module, "write_events", writes.write)
    return writes


async def test_each_replica_gets_its_deltas_in_order(outbox: Outbox, redis: FakeAsyncRedis) -> None:
    for index in range(3):
        outbox.put("api-1", delta("a", index))
    outbox.put("api-2", delta("b"))
    await within_reason(outbox.written())
    for replica, expected in (("api-1", [("a", 0), ("a", 1), ("a", 2)]), ("api-2", [("b", 0)])):
        entries = await redis.xrange(KEYS.replies(replica))
        events = [event for _, fields in entries for event in decode_events(fields[FIELD])]
        assert [(e.job_id, e.index) for e in events if isinstance(e, Delta)] == expected


async def test_what_comes_during_a_write_goes_with_the_next(outbox: Outbox, writes: Writes) -> None:
    outbox.put("api-1", delta("a", 0))
    await within_reason(writes.begun.acquire())
    outbox.put("api-1", delta("a", 1))
    outbox.put("api-1", delta("b", 0))
    writes.permits.release()
    await within_reason(writes.begun.acquire())
    assert [len(bundles["api-1"]) for bundles in writes.bundles] == [1, 2]


async def test_with_nothing_put_there_is_nothing_to_wait_for(outbox: Outbox) -> None:
    await within_reason(outbox.written())


async def test_written_waits_for_the_write_that_takes_the_latest_delta(
    outbox: Outbox, writes: Writes
) -> None:
    outbox.put("api-1", delta("a", 0))
    await within_reason(writes.begun.acquire())
    outbox.put("api-1", delta("a", 1))
    waiting = asyncio.create_task(outbox.written())
    writes.permits.release()
    await within_reason(writes.begun.acquire())  # the second write is under way
    assert not waiting.done()
    writes.permits.release()
    await within_reason(waiting)


async def test_a_neighbour_that_never_stops_is_not_waited_for(
    outbox: Outbox, writes: Writes
) -> None:
    outbox.put("api-1", delta("mine"))
    await within_reason(writes.begun.acquire())
    waiting = asyncio.create_task(outbox.written())
    await asyncio.sleep(0)  # it waits
    outbox.put("api-1", delta("theirs"))
    writes.permits.release()
    await within_reason(writes.begun.acquire())  # theirs is under way, and stays so
    await within_reason(waiting)


async def test_deltas_wait_while_redis_is_away(
    outbox: Outbox, redis: FakeAsyncRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [ConnectionError("gone"), OSError()]

    async def write(redis: object, keys: Keys, bundles: Mapping[str, list[Event]]) -> None:
        if failures:
            raise failures.pop()
        await write_events(outbox._redis, keys, bundles)

    monkeypatch.setattr(outbox_module, "write_events", write)
    outbox.put("api-1", delta("a"))
    await within_reason(outbox.written())
    assert failures == []
    assert await redis.xlen(KEYS.replies("api-1")) == 1
