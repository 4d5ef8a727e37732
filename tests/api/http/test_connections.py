"""Clients that use HTTP/1.0, upgrade offers, absolute targets or half-closed connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from shared.protocol import JobStatus
from tests.api.job_events import claim_job, events_of
from tests.api.raw_client import RawClient, connected, parse_responses
from tests.fakes_api import FakeService

OFFERS = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n",
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "unknown": "Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.0, IRC/6.9\r\n",
}
VERSIONS = ["1.1", "1.0"]
PLAIN = {"prompt": "hello big world"}
STREAM = PLAIN | {"stream": True}


def head_of(method: str, path: str, headers: str = "", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: api\r\n{headers}".encode()


def get(path: str = "/livez", headers: str = "", version: str = "1.1") -> bytes:
    return head_of("GET", path, headers, version) + b"\r\n"


def post(
    fields: dict[str, object], path: str = "/chat", headers: str = "", version: str = "1.1"
) -> bytes:
    body = json.dumps(fields).encode()
    head = head_of("POST", path, headers, version)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
async def echo_client(service: FakeService) -> AsyncIterator[RawClient]:
    """Connect to an api with a worker, which completes every job at once."""
    async with connected(service) as client:
        yield client


def in_one_piece(data: bytes) -> list[bytes]:
    return [data]


def body_apart(data: bytes) -> list[bytes]:
    head, end, body = data.partition(b"\r\n\r\n")
    return [head + end, body]


@pytest.mark.parametrize("split", [in_one_piece, body_apart])
@pytest.mark.parametrize("offer", OFFERS)
async def test_an_upgrade_offer_is_ignored_and_each_request_gets_one_response(
    echo_client: RawClient, offer: str, split: Callable[[bytes], list[bytes]]
) -> None:
    received = b""
    for request in [post(PLAIN, headers=OFFERS[offer]), get(headers=OFFERS[offer])] * 2:
        for piece in split(request):
            await echo_client.send(piece)
            await asyncio.sleep(0.01)  # so that pieces arrive apart
        received += await echo_client.read_until(b"}")
    await echo_client.send(get(headers="Connection: close\r\n"))
    received += await echo_client.read_to_end()
    assert [response.status for response, _ in parse_responses(received, 5)] == [200] * 5


async def test_upgrade_offers_of_pipelined_requests_are_ignored(echo_client: RawClient) -> None:
    await echo_client.send(
        post(PLAIN, headers=OFFERS["h2c"]) * 3 + get(headers="Connection: close\r\n")
    )
    responses = parse_responses(await echo_client.read_to_end(), 4)
    assert [response.status for response, _ in responses] == [200] * 4


@pytest.mark.parametrize("offer", OFFERS)
async def test_a_disconnect_after_an_upgrade_offer_cancels_the_job(
    client: RawClient, workerless: FakeService, offer: str
) -> None:
    await client.send(post(PLAIN, headers=OFFERS[offer]))
    await workerless.until_queued(1)
    client.close()
    await workerless.until_queued(0)


@pytest.mark.parametrize("headers", ["", "Connection: keep-alive\r\n"])
async def test_a_stream_for_http_1_0_has_no_chunks_and_ends_with_the_connection(
    echo_client: RawClient, headers: str
) -> None:
    await echo_client.send(post(STREAM, headers=headers, version="1.0"))
    received = await echo_client.read_to_end()
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body.startswith(b"id: 0\ndata: ")
    assert events_of(body.decode())[-1]["status"] == "succeeded"
    parse_responses(received, 1)


@pytest.mark.parametrize("headers", ["", "Connection: keep-alive\r\n"])
async def test_a_plain_response_for_http_1_0_has_a_content_length(
    echo_client: RawClient, headers: str
) -> None:
    await echo_client.send(post(PLAIN, headers=headers, version="1.0"))
    [(response, body)] = parse_responses(await echo_client.read_to_end(), 1)
    assert response.status == 200
    assert response.getheader("content-length") == str(len(body))


async def test_an_absolute_target_is_routed_by_its_path(echo_client: RawClient) -> None:
    target = "http://elsewhere:8000/livez?why=proxy"
    await echo_client.send(get(target, headers="Connection: close\r\n"))
    [(response, _)] = parse_responses(await echo_client.read_to_end(), 1)
    assert response.status == 200


async def test_a_body_with_invalid_framing_gets_one_response_and_no_stack_trace(
    echo_client: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The route rejects the media type while the server rejects the framing."""
    headers = "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    await echo_client.send(head_of("POST", "/chat", headers))
    [(response, _)] = parse_responses(await echo_client.read_to_end(), 1)
    assert response.status == 400
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fields", [PLAIN, STREAM])
async def test_a_half_closed_client_gets_its_response(
    client: RawClient, workerless: FakeService, version: str, fields: dict[str, object]
) -> None:
    await client.send(post(fields, version=version))
    await client.half_close()
    await workerless.until_queued(1)
    writer = await claim_job(workerless)
    if "stream" in fields:
        await writer.write("hello", "world")
    await asyncio.sleep(0.5)  # for a few probes
    assert not await writer.is_cancelled()
    await writer.finish()
    [(response, body)] = parse_responses(await client.read_to_end(), 1)
    assert response.status == 200
    if "stream" in fields:
        assert [event.get("delta") for event in events_of(body.decode())] == [
            "hello",
            "world",
            None,
        ]
    else:
        assert json.loads(body)["sequences"]


async def test_a_half_closed_client_gets_its_responses_after_all_probes(
    monkeypatch: pytest.MonkeyPatch, client: RawClient, workerless: FakeService
) -> None:
    monkeypatch.setattr("api.http.connection_limits.PROBE_S", 0.001)
    monkeypatch.setattr("api.http.connection_limits.PROBE_GROWTH", 1)
    await client.send(post(PLAIN) + post(STREAM) + get())
    await client.half_close()
    for fields in (PLAIN, STREAM):
        await workerless.until_queued(1)
        writer = await claim_job(workerless)
        await asyncio.sleep(0.2)
        if fields is STREAM:
            await writer.write("hello")
            await asyncio.sleep(0.2)
        await writer.finish()
    responses = parse_responses(await client.read_to_end(), 3)
    assert [response.status for response, _ in responses] == [200] * 3
    assert events_of(responses[1][1].decode())[-1]["status"] == "succeeded"


async def test_a_half_closed_client_gets_pipelined_responses_in_order(
    echo_client: RawClient,
) -> None:
    await echo_client.send(get() + post(PLAIN, path="/jobs") + get("/nowhere") + get()[:-2])
    await echo_client.half_close()
    responses = parse_responses(await echo_client.read_to_end(), 3)
    assert [response.status for response, _ in responses] == [200, 202, 404]


async def test_a_half_closed_client_that_expects_100_continue_gets_its_response(
    echo_client: RawClient,
) -> None:
    await echo_client.send(post(PLAIN, headers="Expect: 100-continue\r\n"))
    await echo_client.half_close()
    received = await echo_client.read_to_end()
    [(response, _)] = parse_responses(received, 1)
    assert (response.status, received.count(b"HTTP/1.1 ")) in [(200, 1), (200, 2)]


@pytest.mark.parametrize("fields", [PLAIN, STREAM])
async def test_a_disconnect_after_a_half_close_cancels_the_job(
    client: RawClient, workerless: FakeService, fields: dict[str, object]
) -> None:
    await client.send(post(fields))
    await client.half_close()
    await workerless.until_queued(1)
    await asyncio.sleep(0.2)
    client.close()
    await workerless.until_queued(0)
    totals = await workerless.services.redis.queue.totals()
    assert totals == {JobStatus.QUEUED: 1, JobStatus.CANCELLED: 1}


@pytest.mark.parametrize("length", [1, 30, -1])
async def test_a_half_close_within_a_request_closes_the_connection(
    client: RawClient, workerless: FakeService, length: int
) -> None:
    await client.send(post(PLAIN)[:length])
    await client.half_close()
    assert await client.read_to_end() == b""
    assert await workerless.num_queued() == 0
