"""Replies reach whoever subscribed, also across a dropped connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from shared.keys import Keys
from shared.protocol import Delta, Event
from shared.replies import ReplyReader, write_events
from shared.tasks import cancel_all
from tests.factories import make_finished

WAIT_S = 30.0


def delta(job_id: str, index: int) -> Delta:
    return Delta(job_id=job_id, attempt=1, index=index, sequence=0, text="x", token_ids=[1])


@pytest.fixture
async def reader(redis: Redis, keys: Keys) -> AsyncIterator[ReplyReader]:
    reader = ReplyReader(redis, keys, "api-1")
    running = asyncio.create_task(reader.run())
    yield reader
    await cancel_all([running])


async def test_a_subscriber_gets_the_events_of_its_job_in_order(
    redis: Redis, keys: Keys, reader: ReplyReader
) -> None:
    with reader.subscribe("a") as a, reader.subscribe("b") as b:
        sent: list[Event] = [delta("a", 0), delta("b", 0), delta("a", 1), make_finished("a")]
        await write_events(redis, keys, {"api-1": sent[:2]})
        await write_events(redis, keys, {"api-1": sent[2:], "api-2": [delta("c", 0)]})
        assert [await a.get(WAIT_S) for _ in range(3)] == [sent[0], sent[2], sent[3]]
        assert await b.get(WAIT_S) == sent[1]


async def test_every_subscriber_of_a_job_gets_its_events(
    redis: Redis, keys: Keys, reader: ReplyReader
) -> None:
    with reader.subscribe("a") as first, reader.subscribe("a") as second:
        await write_events(redis, keys, {"api-1": [delta("a", 0)]})
        assert await first.get(WAIT_S) == await second.get(WAIT_S) == delta("a", 0)


async def test_waiting_for_an_event_ends_when_told(reader: ReplyReader) -> None:
    with reader.subscribe("a") as subscription, pytest.raises(TimeoutError):
        await subscription.get(0.01)


async def test_an_unreadable_entry_does_not_stop_the_rest(
    redis: Redis, keys: Keys, reader: ReplyReader
) -> None:
    with reader.subscribe("a") as subscription:
        await redis.xadd(keys.replies("api-1"), {"events": b"\xc1"})
        await write_events(redis, keys, {"api-1": [delta("a", 0)]})
        assert await subscription.get(WAIT_S) == delta("a", 0)


async def test_a_dropped_connection_loses_no_event(
    redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [ConnectionError("gone"), OSError("reset"), TimeoutError()]
    read = redis.xread

    async def flaky(*args: object, **kwargs: object) -> object:
        if failures:
            raise failures.pop()
        return await read(*args, **kwargs)

    monkeypatch.setattr(redis, "xread", flaky)
    await write_events(redis, keys, {"api-1": [delta("a", 0)]})
    reader = ReplyReader(redis, keys, "api-1")
    with reader.subscribe("a") as subscription:
        running = asyncio.create_task(reader.run())
        assert await subscription.get(WAIT_S) == delta("a", 0)
        await cancel_all([running])
    assert not failures


async def test_the_stream_of_a_replica_that_died_goes_away(redis: Redis, keys: Keys) -> None:
    await write_events(redis, keys, {"api-9": [delta("a", 0)]})
    assert 0 < await redis.ttl(keys.replies("api-9")) <= 600
