"""Network faults to Redis under load: no job is lost, no call hangs, no connection leaks."""

from collections import Counter
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from shared.redis.pool import MAX_CONNECTIONS
from tests.integration.load import Load, assert_all_ended_once
from tests.integration.redis.proxy import Direction, RedisProxy
from tests.integration.service import ApiChild, Service, WorkerChild
from tests.redis_server import RedisServer

pytestmark = pytest.mark.integration

StartWorker = Callable[..., WorkerChild]
StartApi = Callable[..., ApiChild]


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[RedisProxy]:
    proxy = RedisProxy(redis_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def load(
    proxy: RedisProxy, service: Service, start_api: StartApi, start_worker: StartWorker
) -> AsyncIterator[Load]:
    """Return a load on an api and two workers that reach Redis through the proxy."""
    api = start_api(redis_url=proxy.url)
    workers = [start_worker(redis_url=proxy.url) for _ in range(2)]
    await service.ready(*workers)
    await api.ready()
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as http:
        yield Load(http, new_tokens=30)
    ended = [child for child in (api, *workers) if child.process.poll() is not None]
    for child in (api, *workers):
        child.kill()
    assert not ended, [child.log.read_text() for child in ended]


async def assert_no_loss_and_no_leak(service: Service, load: Load) -> None:
    """Assert that only outages refused calls, all jobs ended, and no connection is left."""
    assert {refusal.status for refusal in load.refusals} <= {503}
    assert all(refusal.retry_after for refusal in load.refusals)
    assert {end["status"] for end in await load.ends()} == {"succeeded"}
    await assert_all_ended_once(service, load)
    names = Counter(client["name"] for client in await service.redis.client_list())
    assert names.pop("falconer-api") <= MAX_CONNECTIONS
    assert names.pop("falconer-api-replies") == 1
    for worker in ("w1", "w2"):
        for shared in ("jobs", "tokens"):
            assert names.pop(f"falconer-{worker}-{shared}") <= MAX_CONNECTIONS
        for blocking in ("wake", "control"):
            assert names.pop(f"falconer-{worker}-{blocking}", 0) <= 1
    assert set(names) == {"test", "test-replies"}


async def test_repeatedly_killed_connections(service: Service, load: Load) -> None:
    async with load.running():
        for _ in range(20):
            await load.wait_for_accepted(2)
            await service.redis.client_kill_filter(_type="normal", skipme=True)
        await load.wait_for_accepted(10)
    await assert_no_loss_and_no_leak(service, load)


async def test_no_job_is_lost_in_a_blocked_or_slow_network(
    service: Service, load: Load, proxy: RedisProxy
) -> None:
    async with load.running():
        for directions in (tuple(Direction), (Direction.TO_REDIS,), (Direction.FROM_REDIS,)):
            await load.wait_for_accepted(10)
            proxy.block(*directions)
            await load.wait_for_refused(8)
            proxy.restore()
        await load.wait_for_accepted(10)
        proxy.delay_s = 0.1
        await load.wait_for_accepted(20)
    await assert_no_loss_and_no_leak(service, load)
