"""Callers that hang up on a real api, at every stage of their call: no job runs for nobody."""

import random
import socket
import struct
import time

import pytest

from tests.api.api_process import ApiProcess, answer_to, chat_call, eventually
from tests.redis_server import RedisServer

CALL = chat_call()
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: hang up by a reset, not by an orderly end


def hang_up(connection: socket.socket, *, by_reset: bool) -> None:
    if by_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def all_cancelled(api: ApiProcess) -> bool:
    return api.num_waiting() == 0 and api.num_ended("cancelled") == api.num_ended("queued")


@pytest.mark.parametrize("by_reset", [False, True])
def test_a_call_that_was_never_complete_leaves_no_job(api: ApiProcess, by_reset: bool) -> None:
    for length in (0, 1, 20, len(CALL) - 20, len(CALL) - 1):
        connection = api.connect()
        connection.sendall(CALL[:length])
        hang_up(connection, by_reset=by_reset)
    api.catch_up()
    assert api.num_ended("queued") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_hangs_up_at_any_moment_takes_its_job_with_it(
    api: ApiProcess, stream: bool
) -> None:
    rng = random.Random(1)
    for index in range(60):
        connection = api.open_chat(stream=stream)
        time.sleep(rng.uniform(0, 0.006))  # before, while and after its job is enqueued
        hang_up(connection, by_reset=index % 2 == 0)
    eventually(lambda: all_cancelled(api))
    assert api.num_ended("queued") > 0


def test_a_caller_of_a_stream_that_has_begun_takes_its_job_with_it(api: ApiProcess) -> None:
    connection = api.open_chat(stream=True)
    assert answer_to(connection).status == 200
    hang_up(connection, by_reset=False)
    eventually(lambda: api.num_ended("cancelled") == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_hangs_up_while_redis_is_mute_takes_its_job_with_it(
    api: ApiProcess, redis_server: RedisServer, stream: bool
) -> None:
    redis_server.freeze()
    try:
        connection = api.open_chat(stream=stream)
        api.catch_up()
        hang_up(connection, by_reset=False)
    finally:
        redis_server.thaw()
    eventually(lambda: api.num_ended("queued") == 1 and all_cancelled(api))


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_whose_caller_hung_up_is_cancelled_once_redis_is_back(
    api: ApiProcess, redis_server: RedisServer, stream: bool
) -> None:
    connection = api.open_chat(stream=stream)
    eventually(lambda: api.num_waiting() == 1)
    redis_server.freeze()
    try:
        hang_up(connection, by_reset=False)
        time.sleep(3)  # longer than the api tries
    finally:
        redis_server.thaw()
    eventually(lambda: api.num_ended("cancelled") == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_half_closed_gets_its_answer(api: ApiProcess, stream: bool) -> None:
    with api.open_chat(stream=stream, deadline_s=2) as connection:
        connection.shutdown(socket.SHUT_WR)
        answer = answer_to(connection)
        assert answer.status == (200 if stream else 504)
        assert "deadline" in answer.read().decode()
    assert api.num_ended("cancelled") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_half_closes_and_then_leaves_takes_its_job_with_it(
    api: ApiProcess, stream: bool
) -> None:
    connection = api.open_chat(stream=stream)
    connection.shutdown(socket.SHUT_WR)
    eventually(lambda: api.num_waiting() == 1)
    connection.close()
    eventually(lambda: all_cancelled(api))
