"""Reply streams: events reach their subscriptions, also after a dropped connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from shared.process.asyncio_tasks import cancel_all
from shared.protocol import Delta, Event, TokenDeltas, encode, encode_events
from shared.queue.keys import Keys
from shared.queue.reply_stream import TERMINAL_EVENTS, ReplyStream
from tests.factories import make_succeeded

WAIT_S = 30.0


def token(job_id: str, index: int) -> TokenDeltas:
    return TokenDeltas(job_id=job_id, index=index, deltas=[Delta(text="x", token_ids=[1])])


async def write(redis: Redis, keys: Keys, *events: Event, replica_id: str = "api-1") -> None:
    """Write an entry as the scripts do."""
    fields: dict[bytes, bytes] = {}
    for event in events:
        if isinstance(event, TokenDeltas):
            fields[event.job_id.encode()] = b"%d %b" % (event.index, encode(event.deltas))
        else:
            fields[TERMINAL_EVENTS] = encode_events([event])
    await redis.xadd(keys.replies(replica_id), fields)


@pytest.fixture
async def reader(redis: Redis, keys: Keys) -> AsyncIterator[ReplyStream]:
    reader = ReplyStream(redis, keys, "api-1")
    running = asyncio.create_task(reader.run())
    yield reader
    await cancel_all([running])


async def test_a_subscriber_gets_the_events_of_its_job_in_order(
    redis: Redis, keys: Keys, reader: ReplyStream
) -> None:
    end = make_succeeded("a")
    with reader.subscribe("a") as a, reader.subscribe("b") as b:
        await write(redis, keys, token("a", 0), token("b", 0))
        await write(redis, keys, token("c", 0), replica_id="api-2")
        await write(redis, keys, token("a", 1))
        await write(redis, keys, end)
        heard = [await a.get(WAIT_S) for _ in range(3)]
        assert heard == [token("a", 0), token("a", 1), end]
        assert await b.get(WAIT_S) == token("b", 0)


async def test_every_subscriber_of_a_job_gets_its_events(
    redis: Redis, keys: Keys, reader: ReplyStream
) -> None:
    with reader.subscribe("a") as first, reader.subscribe("a") as second:
        await write(redis, keys, token("a", 0))
        assert await first.get(WAIT_S) == await second.get(WAIT_S) == token("a", 0)


async def test_waiting_for_an_event_ends_with_its_timeout(reader: ReplyStream) -> None:
    with reader.subscribe("a") as subscription, pytest.raises(TimeoutError):
        await subscription.get(0.01)


@pytest.mark.parametrize("field", ["events", "a"])
@pytest.mark.parametrize("junk", [b"\xc1", b"", b"x \x90", b"0 \xc1"])
async def test_an_unreadable_entry_does_not_stop_the_rest(
    redis: Redis, keys: Keys, reader: ReplyStream, field: str, junk: bytes
) -> None:
    with reader.subscribe("a") as subscription:
        await redis.xadd(keys.replies("api-1"), {field: junk})
        await write(redis, keys, token("a", 0))
        assert await subscription.get(WAIT_S) == token("a", 0)


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
    await write(redis, keys, token("a", 0))
    reader = ReplyStream(redis, keys, "api-1")
    with reader.subscribe("a") as subscription:
        running = asyncio.create_task(reader.run())
        assert await subscription.get(WAIT_S) == token("a", 0)
        await cancel_all([running])
    assert not failures
