from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from tests.redis_server import RedisServer, running_redis
from tests.shared.queue.harness import Clock, QueueHarness


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    directory: Path = tmp_path_factory.mktemp("redis")
    with running_redis(directory) as server:
        yield server


@pytest.fixture(params=["fakeredis", "redis"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """An empty Redis, fake and real in turn: both must agree on what the scripts do."""
    if request.param == "fakeredis":
        client: Redis = FakeAsyncRedis()
    else:
        client = connect(request.getfixturevalue("redis_server").url, name="test", block_s=10)
        await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with patch("fakeredis.commands_mixins.server_mixin.time", SimpleNamespace(time=clock.time)):
        yield clock


@pytest.fixture
async def harness(clock: Clock) -> AsyncIterator[QueueHarness]:
    redis = FakeAsyncRedis()
    yield QueueHarness(redis, clock)
    await redis.aclose()


@pytest.fixture
def queue(redis: Redis, keys: Keys) -> JobQueue:
    return JobQueue(redis, keys)
