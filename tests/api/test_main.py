"""The api as a process: how it starts, what stops it, and real connections that close."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.redis_server import RedisServer, free_port

PATIENCE_S = 60.0

RUN = "import sys; from falconer import main; sys.argv[0] = 'falconer'; main()"


def command(*flags: str) -> list[str]:
    return [sys.executable, "-c", RUN, "api", *flags]


def run_to_its_end(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*flags), capture_output=True, text=True, timeout=PATIENCE_S)


class ApiProcess:
    """Ready once `probe` answers 200."""

    def __init__(self, redis_url: str, probe: str = "/readyz") -> None:
        self.port = free_port()
        flags = ["--port", str(self.port), "--redis-url", redis_url, "--grace-s", "0.5"]
        self.process = subprocess.Popen(command(*flags), stderr=subprocess.DEVNULL)
        eventually(lambda: self.status(probe) == 200)

    def status(self, path: str) -> int | None:
        """None while nobody listens."""
        assert self.process.poll() is None, "the api ended"
        try:
            return self.get(path)[0]
        except OSError:
            return None

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def open_chat(self) -> socket.socket:
        """A `/chat` call whose answer is not read yet."""
        body = json.dumps({"prompt": "hello"}).encode()
        head = f"POST /chat HTTP/1.1\r\nHost: api\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sendall(head.encode() + body)
        return connection

    def open_half_a_chat(self) -> socket.socket:
        """A `/chat` call whose body has only begun, and that the api has seen."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sendall(b'POST /chat HTTP/1.1\r\nHost: api\r\nContent-Length: 99\r\n\r\n{"')
        for _ in range(3):  # calls are taken in order
            self.get("/livez")
        return connection

    def num_waiting(self) -> int:
        line = 'falconer_queue_depth{state="waiting"} '
        text = self.get("/metrics")[1]
        return int(float(text.partition(line)[2].partition("\n")[0]))

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    directory: Path = tmp_path_factory.mktemp("redis")
    server = RedisServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def api(redis_server: RedisServer) -> Iterator[ApiProcess]:
    process = ApiProcess(redis_server.url)
    yield process
    process.stop()


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--port", "99999"], ["--port", "65535"]),
        (["--port", "http"], ["--port", "http"]),
        (["--redis-url", "http://somewhere"], ["redis_url", "http://somewhere"]),
        (["--host", "203.0.113.1"], ["203.0.113.1"]),
        (["--max-queued", "0"], ["--max-queued", "1"]),
        (["--log-format", "xml"], ["--log-format", "xml"]),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(flags: list[str], names: list[str]) -> None:
    result = run_to_its_end(*flags)
    assert result.returncode != 0
    (line,) = result.stderr.strip().splitlines()
    assert all(name in line for name in names), line


def test_a_port_in_use_stops_the_start_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_to_its_end("--port", str(port))
    assert result.returncode != 0
    (line,) = result.stderr.strip().splitlines()
    assert str(port) in line


def test_settings_come_from_the_environment_too() -> None:
    environment = os.environ | {"FALCONER_SYNC_TIMEOUT_S": "-1"}
    result = subprocess.run(
        command(), env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert result.returncode != 0
    assert "FALCONER_SYNC_TIMEOUT_S" in result.stderr


def test_a_connection_that_closes_takes_its_job_with_it(api: ApiProcess) -> None:
    connection = api.open_chat()
    eventually(lambda: api.num_waiting() == 1)
    connection.close()
    eventually(lambda: api.num_waiting() == 0)


def test_a_stop_answers_open_calls_and_ends_with_exit_code_0(api: ApiProcess) -> None:
    connection = api.open_chat()
    eventually(lambda: api.num_waiting() == 1)
    assert api.stop() == 0
    answer = connection.recv(65536).decode()
    connection.close()
    assert answer.startswith("HTTP/1.1 503")
    assert "retry-after" in answer


def test_a_stop_answers_a_call_whose_body_is_still_to_come(api: ApiProcess) -> None:
    connection = api.open_half_a_chat()
    assert api.stop() == 0
    answer = connection.recv(65536).decode()
    connection.close()
    assert answer.startswith("HTTP/1.1 503")
    assert "connection: close" in answer.lower()


def test_an_api_that_starts_before_redis_finds_it_later(tmp_path: Path) -> None:
    late = RedisServer(tmp_path)
    api = ApiProcess(late.url, probe="/livez")
    try:
        assert api.status("/readyz") == 503
        late.start()
        eventually(lambda: api.status("/readyz") == 200)
    finally:
        assert api.stop() == 0
        late.stop()
