"""Disconnects cancel the work of a request: in one coroutine, and on a real api process."""

import asyncio
import random
import socket
import struct
import time

import pytest
from starlette.types import Message

from api.http.disconnect import ClientConnection
from api.http.errors import ClientDisconnected, ServerStopping
from tests.api.api_process import ApiProcess, chat_request, eventually, response_of
from tests.redis_server import RedisServer

WAIT_S = 30.0
REQUEST = chat_request()
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset instead of a FIN


async def disconnect() -> Message:
    return {"type": "http.disconnect"}


async def stay_connected() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("the event is never set")


async def ignore_cancellation() -> None:
    """Swallow the first cancellations, as redis-py sometimes does while it connects."""
    for _ in range(2):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


async def test_a_disconnect_stops_work_that_swallows_a_cancellation() -> None:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ClientDisconnected):
            await ClientConnection(disconnect, asyncio.Event()).run_until_disconnect(
                ignore_cancellation()
            )


async def test_a_shutdown_stops_work_that_swallows_a_cancellation() -> None:
    stopping = asyncio.Event()
    stopping.set()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ServerStopping):
            await ClientConnection(stay_connected, stopping).run_until_disconnect(
                ignore_cancellation()
            )


async def test_a_result_that_is_ready_at_the_disconnect_is_returned() -> None:
    async def result() -> int:
        return 7

    assert await ClientConnection(disconnect, asyncio.Event()).run_until_disconnect(result()) == 7


def close(connection: socket.socket, *, by_reset: bool = False) -> None:
    if by_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def all_cancelled(api: ApiProcess) -> bool:
    return api.num_waiting() == 0 and api.num_jobs("cancelled") == api.num_jobs("queued")


def test_a_disconnect_within_a_request_leaves_no_job(api: ApiProcess) -> None:
    for by_reset in (False, True):
        for length in (0, 1, 20, len(REQUEST) - 20, len(REQUEST) - 1):
            connection = api.connect()
            connection.sendall(REQUEST[:length])
            close(connection, by_reset=by_reset)
    api.wait_until_received()
    assert api.num_jobs("queued") == 0


def test_a_disconnect_at_any_moment_cancels_the_job(api: ApiProcess) -> None:
    rng = random.Random(1)
    for index in range(120):
        connection = api.open_chat(stream=index % 4 < 2)
        time.sleep(rng.uniform(0, 0.006))  # before, while and after its job is enqueued
        close(connection, by_reset=index % 2 == 0)
    eventually(lambda: all_cancelled(api))
    assert api.num_jobs("queued") > 0


def test_a_disconnect_after_the_head_of_a_stream_cancels_the_job(api: ApiProcess) -> None:
    connection = api.open_chat(stream=True)
    assert response_of(connection).status == 200
    close(connection)
    eventually(lambda: api.num_jobs("cancelled") == 1)


def test_a_disconnect_before_redis_answers_the_enqueue_cancels_the_job(
    api: ApiProcess, redis_server: RedisServer
) -> None:
    redis_server.freeze()
    try:
        for stream in (False, True):
            connection = api.open_chat(stream=stream)
            api.wait_until_received()
            close(connection)
    finally:
        redis_server.thaw()
    eventually(lambda: api.num_jobs("queued") == 2 and all_cancelled(api))


def test_a_disconnect_during_a_redis_outage_cancels_the_job_afterwards(
    api: ApiProcess, redis_server: RedisServer
) -> None:
    connections = [api.open_chat(stream=stream) for stream in (False, True)]
    eventually(lambda: api.num_waiting() == 2)
    redis_server.freeze()
    try:
        for connection in connections:
            close(connection)
        time.sleep(3)  # longer than the api tries
    finally:
        redis_server.thaw()
    eventually(lambda: api.num_jobs("cancelled") == 2)


def test_a_half_closed_client_gets_its_response(api: ApiProcess) -> None:
    for stream in (False, True):
        with api.open_chat(stream=stream, deadline_s=2) as connection:
            connection.shutdown(socket.SHUT_WR)
            response = response_of(connection)
            assert response.status == (200 if stream else 504)
            assert "deadline" in response.read().decode()
    assert api.num_jobs("cancelled") == 0


def test_a_disconnect_after_a_half_close_cancels_the_job(api: ApiProcess) -> None:
    connections = [api.open_chat(stream=stream) for stream in (False, True)]
    for connection in connections:
        connection.shutdown(socket.SHUT_WR)
    eventually(lambda: api.num_waiting() == 2)
    for connection in connections:
        connection.close()
    eventually(lambda: all_cancelled(api))
