"""Pools open connections at the same time up to a limit, and drop connections to a replica."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError, RedisError

from shared.process.asyncio_tasks import cancel_all
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from shared.redis.pool import MAX_CONNECTIONS
from tests.factories import make_job
from tests.integration.service import eventually
from tests.redis_server import RedisServer, running_redis


class SilentServer:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.num_connections = 0
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        await reader.read()  # until the client disconnects
        writer.close()

    async def has_more_than(self, count: int) -> bool:
        return self.num_connections > count


async def test_calls_connect_at_the_same_time_up_to_the_limit() -> None:
    server = SilentServer()
    async with server.listening():
        client = connect(f"redis://127.0.0.1:{server.port}", name="test")
        calls = [asyncio.create_task(client.ping()) for _ in range(2 * MAX_CONNECTIONS)]
        await eventually(partial(server.has_more_than, MAX_CONNECTIONS - 1))
        await asyncio.sleep(0.05)
        assert server.num_connections == MAX_CONNECTIONS
        await cancel_all(calls)
        await client.aclose()


async def test_a_cancelled_call_frees_its_connection() -> None:
    server = SilentServer()
    async with server.listening():
        client = connect(f"redis://127.0.0.1:{server.port}", name="test")
        for _ in range(2):
            calls = [asyncio.create_task(client.ping()) for _ in range(MAX_CONNECTIONS)]
            await asyncio.sleep(0.05)
            await cancel_all(calls)
        another = asyncio.create_task(client.ping())
        await eventually(partial(server.has_more_than, server.num_connections))
        await cancel_all([another])
        await client.aclose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


async def test_a_connection_closes_when_its_server_becomes_a_replica(server: RedisServer) -> None:
    """Writes of commands and of scripts detect it; reads do not."""
    client, other = connect(server.url, name="test"), connect(server.url, name="other")
    queue = JobQueue(client, Keys())
    await queue.enqueue(make_job(), reply_to=None, max_queued=10)
    await other.replicaof("127.0.0.1", "1")
    for write in (client.set("a", 1), queue.enqueue(make_job(), reply_to=None, max_queued=10)):
        connections = (await other.info("stats"))["total_connections_received"]
        with pytest.raises(ConnectionError, match="no master"):
            await write
        assert (await other.info("stats"))["total_connections_received"] > connections
    await other.replicaof("NO", "ONE")
    await queue.enqueue(make_job(), reply_to=None, max_queued=10)
    assert (await queue.depth()).waiting == 2
    for each in (client, other):
        await each.aclose()


async def test_a_blocked_call_ends_when_its_server_becomes_a_replica(
    server: RedisServer,
) -> None:
    client, other = connect(server.url, name="test", block_s=30), connect(server.url, name="other")
    blocked = asyncio.ensure_future(client.blpop(["list"], timeout=30))

    async def is_blocked() -> bool:
        return bool((await other.info("clients"))["blocked_clients"])

    await eventually(is_blocked)
    await other.replicaof("127.0.0.1", "1")
    with pytest.raises(RedisError, match="no master"):
        await blocked
    for each in (client, other):
        await each.aclose()


async def test_the_url_can_lower_the_connection_limit() -> None:
    server = SilentServer()
    async with server.listening():
        client = connect(f"redis://127.0.0.1:{server.port}?max_connections=3", name="test")
        calls = [asyncio.create_task(client.ping()) for _ in range(9)]
        await eventually(partial(server.has_more_than, 2))
        await asyncio.sleep(0.05)
        assert server.num_connections == 3
        assert not any(call.done() for call in calls)  # the others wait for a free connection
        await cancel_all(calls)
        await client.aclose()
