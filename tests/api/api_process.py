"""Run `falconer api` as a process, and send requests to it."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Self

from shared.process.sockets import free_port
from tests.processes import PATIENCE_S, end

RUN = "from falconer.__main__ import main; main()"


def command(*flags: str) -> list[str]:
    return [sys.executable, "-c", RUN, "api", *flags]


def run_to_its_end(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*flags), capture_output=True, text=True, timeout=PATIENCE_S)


class ApiProcess:
    """Starts, and returns once `probe` has status 200."""

    def __init__(self, redis_url: str, probe: str = "/readyz", *, grace_s: float = 0.5) -> None:
        self.port = free_port()
        flags = ["--port", str(self.port), "--redis-url", redis_url, "--grace-s", str(grace_s)]
        self.process = subprocess.Popen(command(*flags), stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: self.status(probe) == 200)
        except BaseException:
            end(self.process)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def status(self, path: str) -> int | None:
        """Return the status; None while the port is closed."""
        assert self.process.poll() is None, "the api exited"
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

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def open_chat(self, **fields: object) -> socket.socket:
        """Send a `/chat` request on a new connection, and leave its response unread."""
        connection = self.connect()
        connection.sendall(chat_request(**fields))
        return connection

    def open_incomplete_chat(self) -> socket.socket:
        """Send a `/chat` request with an incomplete body, and wait until the api receives it."""
        connection = self.connect()
        connection.sendall(b'POST /chat HTTP/1.1\r\nHost: api\r\nContent-Length: 99\r\n\r\n{"')
        self.wait_until_received()
        return connection

    def wait_until_received(self) -> None:
        """Wait until the api has received what was sent so far: it reads connections in order."""
        for _ in range(3):
            self.get("/livez")

    def num_waiting(self) -> int:
        return self.metric('falconer_queue_depth{state="waiting"}')

    def num_jobs(self, status: str) -> int:
        return self.metric(f'falconer_jobs_total{{status="{status}"}}')

    def metric(self, name: str) -> int:
        """Return the value of a metric, 0 if it is missing."""
        text = self.get("/metrics")[1]
        return int(float(text.partition(name + " ")[2].partition("\n")[0] or 0))

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(PATIENCE_S)


def chat_request(**fields: object) -> bytes:
    body = json.dumps({"prompt": "hello"} | fields).encode()
    head = f"POST /chat HTTP/1.1\r\nHost: api\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def response_of(connection: socket.socket) -> http.client.HTTPResponse:
    """Read the head of a response; the body is not read yet."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)
