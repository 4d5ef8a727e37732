from collections.abc import AsyncIterator, Iterator

import pytest

from tests.api.api_process import ApiProcess
from tests.api.job_events import JobWriter, claim_job, submit
from tests.api.raw_client import RawClient, connected
from tests.fakes_api import FakeService, fake_service
from tests.redis_server import RedisServer, running_redis


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """Return an api with one live echo worker."""
    async with fake_service() as running:
        yield running


@pytest.fixture
async def workerless() -> AsyncIterator[FakeService]:
    """Return an api without a registered worker."""
    async with fake_service(with_worker=False) as running:
        yield running


@pytest.fixture
async def client(workerless: FakeService) -> AsyncIterator[RawClient]:
    async with connected(workerless) as client:
        yield client


@pytest.fixture
async def writer(workerless: FakeService) -> JobWriter:
    """Submit and claim a job, and return its writer."""
    await submit(workerless)
    return await claim_job(workerless)


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def api(redis_server: RedisServer) -> Iterator[ApiProcess]:
    """Start an api process on a real Redis, without a worker."""
    with ApiProcess(redis_server.url) as process:
        yield process
