"""An api process behind nginx with the configuration of the guide."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from redis.asyncio import Redis

from api.settings import ApiSettings
from shared.queue.keys import Keys
from tests.api.api_process import PATIENCE_S, ApiProcess
from tests.api.http.nginx import Nginx, documented, needs_nginx
from tests.api.http.test_paths import check_prefix
from tests.api.job_events import JobWriter, claim_from
from tests.api.served import served
from tests.echo_worker import EchoWorker
from tests.fakes_api import FakeService
from tests.redis_server import RedisServer

REMOVES = "proxy_pass http://falconer/;"
KEEPS = "proxy_pass http://falconer;"

pytestmark = [needs_nginx, pytest.mark.integration]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, module_api: ApiProcess) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx"), documented(), module_api.port) as running:
        yield running


@pytest.fixture
async def http(nginx: Nginx) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(nginx) as client:
        yield client


def client_of(nginx: Nginx) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=nginx.url, timeout=PATIENCE_S)


@pytest.fixture
async def redis(module_redis: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(module_redis.url) as client:
        await client.flushall()
        yield client


@asynccontextmanager
async def echoing(redis: Redis) -> AsyncIterator[None]:
    worker = asyncio.create_task(EchoWorker(redis, Keys()).run())
    yield
    worker.cancel()
    with suppress(asyncio.CancelledError):
        await worker


async def test_every_link_works_if_nginx_strips_the_prefix(
    http: httpx.AsyncClient, redis: Redis
) -> None:
    async with echoing(redis):
        await check_prefix(http, "/falcon", keep=True)


async def test_every_link_works_if_nginx_keeps_the_prefix(
    tmp_path_factory: pytest.TempPathFactory, module_api: ApiProcess, redis: Redis
) -> None:
    configuration = documented().replace(REMOVES, KEEPS)
    assert KEEPS in configuration
    with Nginx(tmp_path_factory.mktemp("nginx"), configuration, module_api.port) as nginx:
        async with echoing(redis), client_of(nginx) as http:
            await check_prefix(http, "/falcon", keep=True)


@asynccontextmanager
async def running_stream(
    http: httpx.AsyncClient, redis: Redis
) -> AsyncIterator[tuple[AsyncIterator[str], JobWriter]]:
    """Request a stream, and yield its lines and the writer of its job."""
    body = {"prompt": "hello", "stream": True}
    async with http.stream("POST", "/falcon/chat", json=body) as response:
        assert response.status_code == 200
        assert re.fullmatch("/falcon/jobs/[0-9a-f]+", response.headers["location"])
        yield response.aiter_lines(), await claim_from(redis, Keys())


async def data(lines: AsyncIterator[str]) -> dict[str, object]:
    """Return the data of the next event."""
    async with asyncio.timeout(PATIENCE_S):
        async for line in lines:
            if line.startswith("data: "):
                event: dict[str, object] = json.loads(line.removeprefix("data: "))
                return event
    raise AssertionError("the stream ended")


async def test_each_event_of_a_stream_arrives_before_the_next_is_written(
    tmp_path_factory: pytest.TempPathFactory,
    workerless: FakeService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keep-alive comments are off: they would flush a buffer of nginx."""
    monkeypatch.setattr("api.routes.sse.KEEP_ALIVE_S", 3600)
    async with served(workerless.asgi) as direct:
        port = direct.base_url.port
        assert port
        with Nginx(tmp_path_factory.mktemp("nginx"), documented(), port) as nginx:
            async with (
                client_of(nginx) as http,
                running_stream(http, workerless.redis) as (lines, writer),
            ):
                for word in (" one", " two"):
                    await writer.write(word)
                    assert (await data(lines))["delta"] == word
                await writer.finish()
                assert (await data(lines))["status"] == "succeeded"


async def test_a_disconnect_behind_nginx_cancels_the_job(
    http: httpx.AsyncClient, redis: Redis
) -> None:
    async with running_stream(http, redis) as (lines, writer):
        await writer.write(" one")
        await data(lines)
    await writer.until_cancelled()


async def test_the_api_rejects_a_too_large_body(http: httpx.AsyncClient) -> None:
    response = await http.post("/falcon/chat", json={"prompt": "a" * 1_500_000})
    assert response.status_code == 413
    assert "1048576" in response.json()["detail"]


async def test_nginx_does_not_repeat_a_post(tmp_path_factory: pytest.TempPathFactory) -> None:
    methods = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read a request and close the connection, as a killed api does."""
        methods.append((await reader.readuntil(b"\r\n\r\n")).partition(b" ")[0])
        writer.close()

    servers = [await asyncio.start_server(swallow, "127.0.0.1", 0) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    with Nginx(tmp_path_factory.mktemp("nginx"), documented(), *ports) as nginx:
        async with client_of(nginx) as http:
            assert (await http.post("/falcon/chat", json={})).status_code == 502
            assert methods == [b"POST"]
            assert (await http.get("/falcon/jobs")).status_code == 502
    for server in servers:
        server.close()
    assert b"GET" in methods[1:]


def test_nginx_has_a_longer_timeout_than_the_api() -> None:
    found = re.search(r"proxy_read_timeout (\d+)s;", documented())
    assert found
    assert int(found[1]) > ApiSettings().sync_timeout_s
