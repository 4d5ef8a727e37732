"""Real connections of callers that are too large or too slow: bounded in bytes and in time."""

import asyncio
import sys

import pytest

from api.http.connection_limits import MAX_HEAD_BYTES
from tests.api.caller import Caller, connected
from tests.api.job_events import JobWriter, claim_job
from tests.fakes_api import FakeService

SOON_S = 0.2
NUM_BEHIND = 8  # requests behind another on its connection

GET = b"GET /livez HTTP/1.1\r\nHost: api\r\n\r\n"
POST = b"POST /chat HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
ENDLESS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"


async def test_a_call_in_small_pieces_is_answered_and_so_is_the_next(caller: Caller) -> None:
    for byte in GET + GET:
        await caller.send(bytes([byte]))
    for _ in range(2):
        assert (await caller.answer()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("piece", [b"a" * 10_000, b"name: value\r\n" * 1000])
async def test_headers_without_end_are_refused(caller: Caller, piece: bytes) -> None:
    """One endless header, or endlessly many."""
    await caller.send(b"GET / HTTP/1.1\r\nname: ")
    for _ in range(0, MAX_HEAD_BYTES + 1, len(piece)):
        await caller.send(piece)
    assert (await caller.until(b"\r\n")).startswith(b"HTTP/1.1 400")
    assert await caller.is_closed()


async def test_trailers_without_end_close_the_connection(caller: Caller) -> None:
    await caller.send(ENDLESS + b"1\r\n{\r\n0\r\nname: ")
    await caller.send_until_closed(b"a" * 10_000)


async def test_a_connection_whose_headers_do_not_arrive_in_time_is_closed(
    monkeypatch: pytest.MonkeyPatch, caller: Caller
) -> None:
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", SOON_S)
    await caller.send(GET)
    await caller.answer()
    await caller.send(b"GET / HTTP/1.1\r\nHo")
    assert await caller.all_that_comes() == b""


async def test_a_connection_without_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, caller: Caller
) -> None:
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", SOON_S)
    async with caller.another() as silent:
        assert await silent.all_that_comes() == b""


async def test_a_body_that_does_not_arrive_in_time_is_refused(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, workerless: FakeService
) -> None:
    monkeypatch.setattr("api.http.body.BODY_TIMEOUT_S", SOON_S)
    await caller.send(POST + b"Content-Length: 1000\r\n\r\n{")
    answer = await caller.answer()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"must arrive within 0.2 s" in answer
    assert await workerless.num_queued() == 0


async def test_a_caller_that_sends_all_of_a_large_body_gets_its_413_and_may_go_on(
    caller: Caller,
) -> None:
    length = 20_000_000
    await caller.send(POST + b"Content-Length: %d\r\n\r\n" % length)
    await caller.send(b"a" * length)
    assert (await caller.answer()).startswith(b"HTTP/1.1 413")
    await caller.send(GET)
    assert (await caller.answer()).startswith(b"HTTP/1.1 200")


async def test_a_body_without_end_is_cut_off_some_time_after_its_413(
    monkeypatch: pytest.MonkeyPatch, caller: Caller
) -> None:
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", SOON_S)
    await caller.send(ENDLESS)
    await caller.send_until_closed(CHUNK)


RETRY = b"POST /jobs/nobody/retry HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("call", "rest"),
    [
        (GET, b""),
        (RETRY, b"{}"),
        (POST + b"Content-Length: 3000000\r\n\r\n", b"a" * 3_000_000),
    ],
)
async def test_a_connection_that_asks_nothing_more_is_closed_whatever_came_after_its_answer(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, call: bytes, rest: bytes
) -> None:
    """Nothing, or a body that was answered before it arrived."""
    monkeypatch.setattr("api.http.connection_limits.HEAD_TIMEOUT_S", 1.0)
    await caller.send(call)
    await caller.answer()
    await caller.send(rest)
    assert await caller.is_closed()


async def test_a_call_after_a_body_that_came_late_is_answered(caller: Caller) -> None:
    await caller.send(RETRY)
    await caller.answer()
    await caller.send(b"{}" + GET)
    assert (await caller.answer()).startswith(b"HTTP/1.1 200")


CHAT = POST + b'Content-Length: 19\r\n\r\n{"prompt": "hello"}'


async def test_calls_behind_one_that_waits_are_answered_in_order(
    caller: Caller, workerless: FakeService
) -> None:
    await caller.send(CHAT)
    await workerless.until_queued(1)
    for _ in range(2 * NUM_BEHIND):
        await caller.send(GET)
    await asyncio.sleep(0.1)
    await (await claim_job(workerless)).finish()
    assert b"Result" in await caller.answer()
    received = b""
    while received.count(b"alive") < 2 * NUM_BEHIND:
        received += await caller.answer()


STREAM = b'{"prompt": "hello", "stream": true}'
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs TCP_USER_TIMEOUT")
WORD = "a" * 1_000_000
NUM_WORDS = 24  # more than sockets hold


async def streamed(caller: Caller, service: FakeService) -> JobWriter:
    """Return the writer of a job whose events the client receives."""
    await caller.send(POST + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM)
    await service.until_queued(1)
    return await claim_job(service)


@LINUX
async def test_a_stream_that_its_client_does_not_read_ends_and_its_job_is_cancelled(
    workerless: FakeService,
) -> None:
    async with connected(workerless, unread_s=SOON_S) as reader:
        writer = await streamed(reader, workerless)
        for _ in range(NUM_WORDS):
            await writer.write(WORD)
        await workerless.until(lambda: not workerless.services.redis.replies._subscriptions)
        assert await writer.is_cancelled()
        with pytest.raises(ConnectionError):
            await reader.all_that_comes()
