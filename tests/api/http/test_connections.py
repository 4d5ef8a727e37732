"""HTTP as older and unusual clients speak it: HTTP/1.0, upgrade offers, half-closed connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from shared.protocol import JobStatus
from tests.api.caller import Caller, connected, parse_answers
from tests.api.job_events import claim_job
from tests.api.routes.test_chat import events_of
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
async def served(service: FakeService) -> AsyncIterator[Caller]:
    """A connection to an api with a worker, which answers at once."""
    async with connected(service) as caller:
        yield caller


def in_one_piece(data: bytes) -> list[bytes]:
    return [data]


def body_apart(data: bytes) -> list[bytes]:
    head, end, body = data.partition(b"\r\n\r\n")
    return [head + end, body]


@pytest.mark.parametrize("split", [in_one_piece, body_apart])
@pytest.mark.parametrize("offer", OFFERS)
async def test_an_offer_to_upgrade_is_ignored_and_every_request_answered_once(
    served: Caller, offer: str, split: Callable[[bytes], list[bytes]]
) -> None:
    received = b""
    for request in [post(PLAIN, headers=OFFERS[offer]), get(headers=OFFERS[offer])] * 2:
        for piece in split(request):
            await served.send(piece)
            await asyncio.sleep(0.01)  # so that pieces arrive apart
        received += await served.until(b"}")
    await served.send(get(headers="Connection: close\r\n"))
    received += await served.all_that_comes()
    assert [answer.status for answer, _ in parse_answers(received, 5)] == [200] * 5


async def test_offers_on_pipelined_requests_are_ignored(served: Caller) -> None:
    await served.send(post(PLAIN, headers=OFFERS["h2c"]) * 3 + get(headers="Connection: close\r\n"))
    answers = parse_answers(await served.all_that_comes(), 4)
    assert [answer.status for answer, _ in answers] == [200] * 4


@pytest.mark.parametrize("offer", OFFERS)
async def test_a_client_that_leaves_after_an_offer_takes_its_job_with_it(
    caller: Caller, workerless: FakeService, offer: str
) -> None:
    await caller.send(post(PLAIN, headers=OFFERS[offer]))
    await workerless.until_queued(1)
    caller.close()
    await workerless.until_queued(0)


@pytest.mark.parametrize("headers", ["", "Connection: keep-alive\r\n"])
async def test_a_stream_for_http_1_0_is_plain_bytes_until_the_end(
    served: Caller, headers: str
) -> None:
    await served.send(post(STREAM, headers=headers, version="1.0"))
    received = await served.all_that_comes()
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body.startswith(b"id: 0\ndata: ")
    assert events_of(body.decode())[-1]["status"] == "succeeded"
    parse_answers(received, 1)


@pytest.mark.parametrize("headers", ["", "Connection: keep-alive\r\n"])
async def test_a_plain_answer_for_http_1_0_has_its_length(served: Caller, headers: str) -> None:
    await served.send(post(PLAIN, headers=headers, version="1.0"))
    [(answer, body)] = parse_answers(await served.all_that_comes(), 1)
    assert answer.status == 200
    assert answer.getheader("content-length") == str(len(body))


async def test_a_url_as_target_leads_to_its_path(served: Caller) -> None:
    target = "http://elsewhere:8000/livez?why=proxy"
    await served.send(get(target, headers="Connection: close\r\n"))
    [(answer, _)] = parse_answers(await served.all_that_comes(), 1)
    assert answer.status == 200


async def test_a_body_that_is_not_http_gets_one_answer_and_no_stack_trace(
    served: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """The route refuses its media type while the server refuses its framing."""
    headers = "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    await served.send(head_of("POST", "/chat", headers))
    [(answer, _)] = parse_answers(await served.all_that_comes(), 1)
    assert answer.status == 400
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fields", [PLAIN, STREAM])
async def test_a_half_closed_call_is_answered(
    caller: Caller, workerless: FakeService, version: str, fields: dict[str, object]
) -> None:
    await caller.send(post(fields, version=version))
    await caller.half_close()
    await workerless.until_queued(1)
    writer = await claim_job(workerless)
    if "stream" in fields:
        await writer.write("hello", "world")
    await asyncio.sleep(0.5)  # for a few probes
    assert not await writer.is_cancelled()
    await writer.finish()
    [(answer, body)] = parse_answers(await caller.all_that_comes(), 1)
    assert answer.status == 200
    if "stream" in fields:
        assert [event.get("delta") for event in events_of(body.decode())] == [
            "hello",
            "world",
            None,
        ]
    else:
        assert json.loads(body)["sequences"]


async def test_a_half_closed_call_outlives_every_probe(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, workerless: FakeService
) -> None:
    monkeypatch.setattr("api.http.connection_limits.PROBE_S", 0.001)
    monkeypatch.setattr("api.http.connection_limits.PROBE_GROWTH", 1)
    await caller.send(post(PLAIN) + post(STREAM) + get())
    await caller.half_close()
    for fields in (PLAIN, STREAM):
        await workerless.until_queued(1)
        writer = await claim_job(workerless)
        await asyncio.sleep(0.2)
        if fields is STREAM:
            await writer.write("hello")
            await asyncio.sleep(0.2)
        await writer.finish()
    answers = parse_answers(await caller.all_that_comes(), 3)
    assert [answer.status for answer, _ in answers] == [200] * 3
    assert events_of(answers[1][1].decode())[-1]["status"] == "succeeded"


async def test_half_closed_calls_behind_one_another_are_answered_in_order(served: Caller) -> None:
    await served.send(get() + post(PLAIN, path="/jobs") + get("/nowhere") + get()[:-2])
    await served.half_close()
    answers = parse_answers(await served.all_that_comes(), 3)
    assert [answer.status for answer, _ in answers] == [200, 202, 404]


async def test_a_half_closed_call_to_continue_is_answered(served: Caller) -> None:
    await served.send(post(PLAIN, headers="Expect: 100-continue\r\n"))
    await served.half_close()
    received = await served.all_that_comes()
    [(answer, _)] = parse_answers(received, 1)
    assert (answer.status, received.count(b"HTTP/1.1 ")) in [(200, 1), (200, 2)]


@pytest.mark.parametrize("fields", [PLAIN, STREAM])
async def test_a_client_that_half_closes_and_leaves_later_takes_its_job_with_it(
    caller: Caller, workerless: FakeService, fields: dict[str, object]
) -> None:
    await caller.send(post(fields))
    await caller.half_close()
    await workerless.until_queued(1)
    await asyncio.sleep(0.2)
    caller.close()
    await workerless.until_queued(0)
    totals = await workerless.services.redis.queue.totals()
    assert totals == {JobStatus.QUEUED: 1, JobStatus.CANCELLED: 1}


@pytest.mark.parametrize("length", [1, 30, -1])
async def test_a_half_closed_call_that_is_incomplete_is_closed(
    caller: Caller, workerless: FakeService, length: int
) -> None:
    await caller.send(post(PLAIN)[:length])
    await caller.half_close()
    assert await caller.all_that_comes() == b""
    assert await workerless.num_queued() == 0
