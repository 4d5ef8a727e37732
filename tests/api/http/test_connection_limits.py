"""Limits of a connection: bytes of headers and bodies, and times."""

import asyncio
import sys

import pytest

from api.http.connection_limits import MAX_HEAD_BYTES
from tests.api.job_events import JobWriter, claim_job
from tests.api.raw_client import RawClient, connected
from tests.fakes_api import FakeService

SOON_S = 0.2
NUM_PIPELINED = 16

GET = b"GET /livez HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /chat HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
ENDLESS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"


async def test_requests_that_arrive_byte_by_byte_get_responses(client: RawClient) -> None:
    for byte in GET + GET:
        await client.send(bytes([byte]))
    for _ in range(2):
        assert (await client.read_json()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("piece", [b"a" * 10_000, b"name: value\r\n" * 1000])
async def test_headers_beyond_the_limit_are_rejected(client: RawClient, piece: bytes) -> None:
    """One header is too long, or there are too many."""
    await client.send(b"GET / HTTP/1.1\r\nname: ")
    for _ in range(0, MAX_HEAD_BYTES + 1, len(piece)):
        await client.send(piece)
    assert (await client.read_until(b"\r\n")).startswith(b"HTTP/1.1 400")
    await client.until_closed()


async def test_trailers_beyond_the_limit_close_the_connection(client: RawClient) -> None:
    await client.send(ENDLESS + b"1\r\n{\r\n0\r\nname: ")
    await client.send_until_closed(b"a" * 10_000)


async def test_slow_headers_close_the_connection(
    monkeypatch: pytest.MonkeyPatch, client: RawClient
) -> None:
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", SOON_S)
    await client.send(GET)
    await client.read_json()
    await client.send(b"GET / HTTP/1.1\r\nHo")
    assert await client.read_to_end() == b""


async def test_a_connection_without_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, client: RawClient
) -> None:
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", SOON_S)
    async with client.connect_again() as silent:
        assert await silent.read_to_end() == b""


async def test_a_slow_body_is_rejected(
    monkeypatch: pytest.MonkeyPatch, client: RawClient, workerless: FakeService
) -> None:
    monkeypatch.setattr("api.http.body.BODY_TIMEOUT_S", SOON_S)
    await client.send(POST + b"Content-Length: 1000\r\n\r\n{")
    response = await client.read_json()
    assert response.startswith(b"HTTP/1.1 400")
    assert b"must arrive within 0.2 s" in response
    assert await workerless.num_queued() == 0


async def test_a_client_that_sends_a_too_large_body_gets_a_413_and_keeps_its_connection(
    client: RawClient,
) -> None:
    length = 20_000_000
    await client.send(POST + b"Content-Length: %d\r\n\r\n" % length)
    await client.send(b"a" * length)
    assert (await client.read_json()).startswith(b"HTTP/1.1 413")
    await client.send(GET)
    assert (await client.read_json()).startswith(b"HTTP/1.1 200")


async def test_an_endless_body_is_cut_off_after_its_413(
    monkeypatch: pytest.MonkeyPatch, client: RawClient
) -> None:
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", SOON_S)
    await client.send(ENDLESS)
    await client.send_until_closed(CHUNK)


RETRY = b"POST /jobs/nobody/retry HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("call", "rest"),
    [
        (GET, b""),
        (RETRY, b"{}"),
        (POST + b"Content-Length: 3000000\r\n\r\n", b"a" * 3_000_000),
    ],
)
async def test_an_idle_connection_is_closed_also_after_the_rest_of_a_rejected_body(
    monkeypatch: pytest.MonkeyPatch, client: RawClient, call: bytes, rest: bytes
) -> None:
    """The rest is empty, or a body that arrives after the response."""
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", 1.0)
    await client.send(call)
    await client.read_json()
    await client.send(rest)
    await client.until_closed()


async def test_a_request_after_a_late_body_gets_its_response(client: RawClient) -> None:
    await client.send(RETRY)
    await client.read_json()
    await client.send(b"{}" + GET)
    assert (await client.read_json()).startswith(b"HTTP/1.1 200")


CHAT = POST + b'Content-Length: 19\r\n\r\n{"prompt": "hello"}'


async def test_pipelined_requests_get_their_responses_in_order(
    client: RawClient, workerless: FakeService
) -> None:
    await client.send(CHAT)
    await workerless.until_queued(1)
    for _ in range(NUM_PIPELINED):
        await client.send(GET)
    await asyncio.sleep(0.1)
    await (await claim_job(workerless)).finish()
    assert b"Result" in await client.read_json()
    received = b""
    while received.count(b"alive") < NUM_PIPELINED:
        received += await client.read_json()


STREAM = b'{"prompt": "hello", "stream": true}'
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs TCP_USER_TIMEOUT")
WORD = "a" * 1_000_000
NUM_WORDS = 24  # more than sockets hold


async def streamed(client: RawClient, service: FakeService) -> JobWriter:
    """Request a stream, claim its job and return the writer of the job."""
    await client.send(POST + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM)
    await service.until_queued(1)
    return await claim_job(service)


@LINUX
async def test_a_client_that_does_not_read_its_stream_is_cut_off_and_its_job_cancelled(
    workerless: FakeService,
) -> None:
    async with connected(workerless, unread_s=SOON_S) as reader:
        writer = await streamed(reader, workerless)
        for _ in range(NUM_WORDS):
            await writer.write(WORD)
        await workerless.until(lambda: not workerless.services.redis.replies._subscriptions)
        assert await writer.is_cancelled()
        with pytest.raises(ConnectionError):
            await reader.read_to_end()
