"""A replica dies after Redis took a job and before its caller heard: the key leads to that job."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from shared.queue.job_queue import Depth, JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from tests.api.api_process import ApiProcess
from tests.integration.redis_proxy import RedisProxy, Way
from tests.integration.service import eventually
from tests.redis_server import RedisServer

BODY = {"prompt": "Once upon a time"}
KEY = {"Idempotency-Key": "k1"}


class HoldingProxy(RedisProxy):
    """Holds back what Redis answers from the moment at which a client sends `held_at`."""

    held_at: bytes | None = None

    def _cuts(self, data: bytes) -> bool:
        if self.held_at is not None and self.held_at in data:
            self.hold(Way.FROM_REDIS)
        return super()._cuts(data)


@pytest.fixture
async def queue(redis_server: RedisServer) -> AsyncIterator[JobQueue]:
    redis = connect(redis_server.url, name="test")
    yield JobQueue(redis, Keys())
    await redis.aclose()


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[HoldingProxy]:
    proxy = HoldingProxy(redis_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def post(
    api: ApiProcess, body: dict[str, str], headers: dict[str, str] | None = None
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}", timeout=60) as http:
        return await http.post("/jobs", json=body, headers=headers)


async def test_a_call_that_comes_again_after_its_replica_died_gets_the_job_that_is_there(
    redis_server: RedisServer, proxy: HoldingProxy, queue: JobQueue
) -> None:
    async def is_enqueued() -> bool:
        return (await queue.depth()).waiting == 2

    with await asyncio.to_thread(ApiProcess, proxy.url) as doomed:
        assert (await post(doomed, BODY)).status_code == 202  # Redis knows the script from now on
        proxy.held_at = BODY["prompt"].encode()
        call = asyncio.create_task(post(doomed, BODY, KEY))
        await eventually(is_enqueued)
        doomed.process.kill()
        with pytest.raises(httpx.TransportError):
            await call
    proxy.restore()

    with await asyncio.to_thread(ApiProcess, redis_server.url) as other:
        again = await post(other, BODY, KEY)
        assert (again.status_code, again.json()["position"]) == (202, 2)
        assert (await post(other, BODY, KEY)).json()["id"] == again.json()["id"]
        assert (await post(other, {"prompt": "Another"}, KEY)).status_code == 409
        assert await queue.depth() == Depth(waiting=2, running=0)
