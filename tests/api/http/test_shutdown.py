"""A real api process that is told to stop: every caller gets an answer, and then it ends."""

import asyncio
import json
import signal
import socket
import subprocess
from contextlib import ExitStack

import pytest
import uvicorn

from api.http.connection_limits import LimitedHttpProtocol
from api.server import ApiServer
from tests.api.api_process import PATIENCE_S, ApiProcess, answer_to, command, eventually
from tests.fakes_api import FakeService
from tests.redis_server import RedisServer

GET = b"GET /livez HTTP/1.1\r\nHost: api\r\n\r\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_answers_open_calls_and_ends_with_exit_code_0(
    api: ApiProcess, signum: signal.Signals
) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(api.open_chat()) for _ in range(100)]
        eventually(lambda: api.num_waiting() == 100)
        assert api.stop(signum) == 0
        for connection in connections:
            answer = answer_to(connection)
            body = json.loads(answer.read())
            assert (answer.status, answer.getheader("retry-after")) == (503, "1")
            assert (
                body["detail"] == f"the server is stopping; the job goes on, see /jobs/{body['id']}"
            )


def test_an_api_that_was_started_to_ignore_signals_goes_on_ignoring_them(
    redis_server: RedisServer,
) -> None:
    """uvicorn installs its own handlers whatever it was started with."""
    ignored = (signal.SIGINT, signal.SIGHUP)
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in ignored}
    try:
        api = ApiProcess(redis_server.url)
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    for signum in ignored:
        api.process.send_signal(signum)
    assert api.status("/readyz") == 200
    assert api.stop(signal.SIGTERM) == 0


def test_a_stop_ends_a_stream_with_a_last_event(api: ApiProcess) -> None:
    with api.open_chat(stream=True) as connection:
        answer = answer_to(connection)
        assert answer.status == 200
        assert api.stop() == 0
        events = answer.read().decode().strip().split("\n\n")
        assert "the server is stopping; the job goes on" in events[-1]


def test_a_stop_answers_a_call_whose_body_is_still_to_come(api: ApiProcess) -> None:
    with api.open_half_a_chat() as connection:
        assert api.stop() == 0
        answer = answer_to(connection)
    assert answer.status == 503
    assert "close" in str(answer.getheader("connection"))


def test_a_stop_does_not_wait_for_connections_without_a_call(redis_server: RedisServer) -> None:
    with (
        ApiProcess(redis_server.url, grace_s=10 * PATIENCE_S) as api,
        api.connect() as silent,
        api.connect() as idle,
    ):
        idle.sendall(GET)
        assert answer_to(idle).status == 200
        assert api.stop() == 0
        assert silent.recv(1) == b""


def test_an_api_that_says_it_listens_ends_in_order(redis_server: RedisServer) -> None:
    starting = command("--port", "0", "--redis-url", redis_server.url)
    with subprocess.Popen(starting, stderr=subprocess.PIPE, text=True) as api:
        assert api.stderr is not None
        assert any("listening" in line for line in api.stderr)
        api.terminate()
        assert api.wait(PATIENCE_S) == 0


class LateCallers(ApiServer):
    """Calls that are on their way when a stop begins: their bytes are there, and not yet read."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        self.callers = [socket.create_connection(sockets[0].getsockname()) for _ in range(50)]
        for caller in [self.kept, *self.callers]:
            caller.sendall(GET)
        await super().shutdown(sockets)

    kept: socket.socket
    callers: list[socket.socket]


async def test_calls_on_their_way_to_a_server_that_stops_are_answered(
    workerless: FakeService,
) -> None:
    """Those that were not accepted yet, too; each is told to connect elsewhere next time."""
    config = uvicorn.Config(
        workerless.app, http=LimitedHttpProtocol, lifespan="off", log_config=None
    )
    server = LateCallers(config, workerless.services)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        server.kept = socket.create_connection(listener.getsockname())
        server.kept.sendall(GET)
        assert await asyncio.to_thread(status_and_connection, server.kept) == (200, None)
        server.should_exit = True
        await serving
    for caller in [server.kept, *server.callers]:
        with caller:
            assert status_and_connection(caller) == (200, "close")


def status_and_connection(caller: socket.socket) -> tuple[int, str | None]:
    answer = answer_to(caller)
    answer.read()
    return answer.status, answer.getheader("connection")


def test_a_call_that_ends_in_the_grace_period_gets_its_result(redis_server: RedisServer) -> None:
    with (
        ApiProcess(redis_server.url, grace_s=PATIENCE_S) as api,
        api.open_chat(deadline_s=2) as connection,
    ):
        eventually(lambda: api.num_waiting() == 1)
        assert api.stop() == 0
        assert answer_to(connection).status == 504  # the end of its job, as without a stop


@pytest.mark.parametrize("is_redis_there", [True, False])
def test_asked_twice_it_does_not_wait_for_open_calls(
    redis_server: RedisServer, is_redis_there: bool
) -> None:
    with ApiProcess(redis_server.url, grace_s=10 * PATIENCE_S) as api, api.open_chat():
        eventually(lambda: api.num_waiting() == 1)
        if not is_redis_there:
            redis_server.kill()
        api.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(api))
        assert api.stop() == 0


def accepts(api: ApiProcess) -> bool:
    try:
        api.connect().close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_stop_while_redis_is_mute_answers_open_calls(redis_server: RedisServer) -> None:
    with ApiProcess(redis_server.url) as api, api.open_chat() as connection:
        eventually(lambda: api.num_waiting() == 1)
        redis_server.freeze()
        try:
            assert api.stop() == 0
        finally:
            redis_server.thaw()
        assert answer_to(connection).status == 503


def test_the_port_is_free_for_the_next_one_at_once(api: ApiProcess) -> None:
    with api.open_chat() as connection:
        eventually(lambda: api.num_waiting() == 1)
        api.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(api))
        with socket.socket() as successor:
            successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            successor.bind(("127.0.0.1", api.port))
        assert answer_to(connection).status == 503
