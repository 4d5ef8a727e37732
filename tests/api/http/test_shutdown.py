"""Graceful shutdown of an api process: every client gets a response."""

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
from tests.api.api_process import PATIENCE_S, ApiProcess, command, eventually, response_of
from tests.fakes_api import FakeService
from tests.redis_server import RedisServer

GET = b"GET /livez HTTP/1.1\r\nHost: api\r\n\r\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_shutdown_responds_to_open_requests_and_exits_with_0(
    api: ApiProcess, signum: signal.Signals
) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(api.open_chat()) for _ in range(100)]
        eventually(lambda: api.num_waiting() == 100)
        assert api.stop(signum) == 0
        for connection in connections:
            response = response_of(connection)
            body = json.loads(response.read())
            assert (response.status, response.getheader("retry-after")) == (503, "1")
            assert (
                body["detail"] == f"the server is stopping; the job goes on, see /jobs/{body['id']}"
            )


def test_signals_that_the_parent_ignores_stay_ignored(
    redis_server: RedisServer,
) -> None:
    """uvicorn alone installs its handlers for ignored signals too."""
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


def test_a_shutdown_ends_a_stream_with_a_shutdown_event(api: ApiProcess) -> None:
    with api.open_chat(stream=True) as connection:
        response = response_of(connection)
        assert response.status == 200
        assert api.stop() == 0
        events = response.read().decode().strip().split("\n\n")
        assert "the server is stopping; the job goes on" in events[-1]


def test_a_shutdown_responds_to_a_request_with_an_incomplete_body(api: ApiProcess) -> None:
    with api.open_incomplete_chat() as connection:
        assert api.stop() == 0
        response = response_of(connection)
    assert response.status == 503
    assert "close" in str(response.getheader("connection"))


def test_a_shutdown_does_not_wait_for_idle_connections(redis_server: RedisServer) -> None:
    with (
        ApiProcess(redis_server.url, grace_s=10 * PATIENCE_S) as api,
        api.connect() as silent,
        api.connect() as idle,
    ):
        idle.sendall(GET)
        assert response_of(idle).status == 200
        assert api.stop() == 0
        assert silent.recv(1) == b""


def test_an_api_that_has_logged_its_address_shuts_down_gracefully(
    redis_server: RedisServer,
) -> None:
    starting = command("--port", "0", "--redis-url", redis_server.url)
    with subprocess.Popen(starting, stderr=subprocess.PIPE, text=True) as api:
        assert api.stderr is not None
        assert any("listening" in line for line in api.stderr)
        api.terminate()
        assert api.wait(PATIENCE_S) == 0


class ServerWithBacklog(ApiServer):
    """Receives requests at the moment of its shutdown, in the backlog and on an open connection."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        self.clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(50)]
        for client in [self.kept, *self.clients]:
            client.sendall(GET)
        await super().shutdown(sockets)

    kept: socket.socket
    clients: list[socket.socket]


async def test_requests_in_the_backlog_get_responses_at_a_shutdown(
    workerless: FakeService,
) -> None:
    """Each response has `Connection: close`."""
    config = uvicorn.Config(
        workerless.app, http=LimitedHttpProtocol, lifespan="off", log_config=None
    )
    server = ServerWithBacklog(config, workerless.services)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        server.kept = socket.create_connection(listener.getsockname())
        server.kept.sendall(GET)
        assert await asyncio.to_thread(status_and_connection, server.kept) == (200, None)
        server.should_exit = True
        await serving
    for client in [server.kept, *server.clients]:
        with client:
            assert status_and_connection(client) == (200, "close")


def status_and_connection(client: socket.socket) -> tuple[int, str | None]:
    response = response_of(client)
    response.read()
    return response.status, response.getheader("connection")


def test_a_request_that_completes_in_the_grace_period_gets_its_result(
    redis_server: RedisServer,
) -> None:
    with (
        ApiProcess(redis_server.url, grace_s=PATIENCE_S) as api,
        api.open_chat(deadline_s=2) as connection,
    ):
        eventually(lambda: api.num_waiting() == 1)
        assert api.stop() == 0
        assert response_of(connection).status == 504  # the job ran into its deadline


@pytest.mark.parametrize("is_redis_there", [True, False])
def test_a_second_signal_does_not_wait_for_open_requests(
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


def test_a_shutdown_during_a_redis_outage_responds_to_open_requests(
    redis_server: RedisServer,
) -> None:
    with ApiProcess(redis_server.url) as api, api.open_chat() as connection:
        eventually(lambda: api.num_waiting() == 1)
        redis_server.freeze()
        try:
            assert api.stop() == 0
        finally:
            redis_server.thaw()
        assert response_of(connection).status == 503


def test_the_port_is_free_during_the_grace_period(api: ApiProcess) -> None:
    with api.open_chat() as connection:
        eventually(lambda: api.num_waiting() == 1)
        api.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(api))
        with socket.socket() as successor:
            successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            successor.bind(("127.0.0.1", api.port))
        assert response_of(connection).status == 503
