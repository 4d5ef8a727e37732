"""Fixtures: a Redis, and processes of the service that a test starts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from shared.process.asyncio_tasks import cancel_all
from shared.process.sockets import free_port
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.reply_stream import BLOCK_S, ReplyStream
from shared.redis.client import connect
from shared.registry.worker_registry import Registry
from tests.integration.service import ApiChild, Service, WorkerChild, launch
from tests.redis_server import RedisServer, running_redis
from tests.running_service import running_service


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path / "redis", append_only=True) as server:
        yield server


@pytest.fixture(scope="module")
def module_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a service for the tests of a module that only send requests."""
    with running_service(tmp_path_factory.mktemp("service")) as address:
        yield address


@pytest.fixture
def start_worker(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., WorkerChild]]:
    """Return a function that starts `falconer worker` on the tiny model; flags are its settings."""
    started: list[WorkerChild] = []

    def start(**flags: object) -> WorkerChild:
        worker_id = f"w{len(started) + 1}"
        settings = {"redis_url": redis_server.url, "worker_id": worker_id, "lease_s": 2, **flags}
        log = tmp_path / f"{worker_id}.log"
        child = WorkerChild(launch("worker", settings, log), log, worker_id)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()


@pytest.fixture
def start_api(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., ApiChild]]:
    """Return a function that starts `falconer api` on a free port; flags are its settings."""
    started: list[ApiChild] = []

    def start(**flags: object) -> ApiChild:
        log = tmp_path / f"api-{len(started) + 1}.log"
        settings = {"redis_url": redis_server.url, "port": free_port(), **flags}
        child = ApiChild(launch("api", settings, log), log, f"http://127.0.0.1:{settings['port']}")
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()


@pytest.fixture
async def service(redis_server: RedisServer) -> AsyncIterator[Service]:
    """Return what an api replica has: the queue, the registry and a reply stream."""
    keys = Keys()
    redis = connect(redis_server.url, name="test")
    blocking = connect(redis_server.url, name="test-replies", block_s=BLOCK_S)
    reader = ReplyStream(blocking, keys, "api-1")
    reading = asyncio.create_task(reader.run())
    yield Service(redis, keys, JobQueue(redis, keys), Registry(redis, keys), reader)
    await cancel_all([reading])
    await redis.aclose()
    await blocking.aclose()
