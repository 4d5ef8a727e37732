"""The limits that docs/reference/limits.md leaves to nginx, configured as in the guide."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.api.http.nginx import Nginx, documented, needs_nginx
from tests.api.job_events import claim_job
from tests.api.raw_client import RawClient
from tests.api.served import serving
from tests.fakes_api import FakeService

WORD = "a" * 1_000_000
NUM_WORDS = 24  # more than sockets hold

pytestmark = needs_nginx


@asynccontextmanager
async def behind_nginx(
    service: FakeService, directory: Path, documented_line: str, shorter: str
) -> AsyncIterator[tuple[RawClient, RawClient]]:
    """Yield two connections to nginx, with one line of the documented configuration replaced."""
    configuration = documented()
    assert configuration.count(documented_line) == 1
    async with serving(service.asgi) as (_, port):
        with Nginx(directory, configuration.replace(documented_line, shorter), port) as nginx:
            clients = [
                RawClient(*await asyncio.open_connection("127.0.0.1", nginx.port)) for _ in range(2)
            ]
            yield clients[0], clients[1]
            for client in clients:
                client.close()


def chat(**fields: object) -> bytes:
    body = json.dumps({"prompt": "hello"} | fields).encode()
    head = f"POST /falcon/chat HTTP/1.1\r\nHost: api\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def test_nginx_closes_a_connection_with_slow_headers(
    workerless: FakeService, tmp_path: Path
) -> None:
    times = "client_header_timeout 20s;", "client_header_timeout 1s;"
    async with behind_nginx(workerless, tmp_path, *times) as (client, _):
        await client.send(b"GET /falcon/ HTTP/1.1\r\nHo")
        await client.until_closed()


async def test_nginx_cuts_off_a_client_that_does_not_read_its_stream(
    workerless: FakeService, tmp_path: Path
) -> None:
    times = "send_timeout 60s;", "send_timeout 1s;"
    async with behind_nginx(workerless, tmp_path, *times) as (client, _):
        await client.send(chat(stream=True))
        await workerless.until_queued(1)
        writer = await claim_job(workerless)
        await writer.write(*[WORD] * NUM_WORDS)
        await writer.until_cancelled()


async def test_nginx_cancels_the_job_of_a_client_that_pipelines_and_disconnects(
    workerless: FakeService, tmp_path: Path
) -> None:
    unchanged = "client_body_timeout 30s;", "client_body_timeout 30s;"
    async with behind_nginx(workerless, tmp_path, *unchanged) as (client, _):
        await client.send(chat())
        await workerless.until_queued(1)
        await client.send(chat())
        client.close()
        await workerless.until_queued(0)


async def test_nginx_limits_the_requests_of_one_address(
    workerless: FakeService, tmp_path: Path
) -> None:
    counts = "limit_conn clients 100;", "limit_conn clients 1;"
    async with behind_nginx(workerless, tmp_path, *counts) as (first, second):
        await first.send(chat())
        await workerless.until_queued(1)
        await second.send(chat())
        assert (await second.read_until(b"\r\n")).startswith(b"HTTP/1.1 429")
