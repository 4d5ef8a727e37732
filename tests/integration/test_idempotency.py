"""A replica dies after Redis accepted a job: a retry with the same key returns that job."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from shared.queue.backlog import Depth
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from tests.api.api_process import ApiProcess
from tests.integration.redis.proxy import Direction, RedisProxy
from tests.integration.service import eventually
from tests.redis_server import RedisServer

BODY = {"prompt": "Once upon a time"}
KEY = {"Idempotency-Key": "k1"}


class BlockingProxy(RedisProxy):
    """Blocks the replies of Redis once a client sends `block_at`."""

    block_at: bytes | None = None

    def intercept(self, data: bytes) -> bool:
        if self.block_at is not None and self.block_at in data:
            self.block(Direction.FROM_REDIS)
        return super().intercept(data)


@pytest.fixture
async def queue(redis_server: RedisServer) -> AsyncIterator[JobQueue]:
    redis = connect(redis_server.url, name="test")
    yield JobQueue(redis, Keys())
    await redis.aclose()


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[BlockingProxy]:
    proxy = BlockingProxy(redis_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def post(
    api: ApiProcess, body: dict[str, str], headers: dict[str, str] | None = None
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}", timeout=60) as http:
        return await http.post("/jobs", json=body, headers=headers)


async def test_a_retry_after_the_replica_died_gets_the_accepted_job(
    redis_server: RedisServer, proxy: BlockingProxy, queue: JobQueue
) -> None:
    async def is_enqueued() -> bool:
        return (await queue.depth()).waiting == 2

    with await asyncio.to_thread(ApiProcess, proxy.url) as doomed:
        assert (await post(doomed, BODY)).status_code == 202  # Redis has the script from now on
        proxy.block_at = BODY["prompt"].encode()
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
