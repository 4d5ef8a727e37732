"""A real Redis for tests: a process of its own on a free loopback port."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve.embedded_redis import find_redis_binary
from shared.process.sockets import free_port
from tests.processes import end

START_TIMEOUT_S = 30.0


class RedisServer:
    """A restart keeps the port and, with `append_only`, the data."""

    def __init__(
        self,
        directory: Path,
        *,
        append_only: bool = False,
        password: str = "",
        binary: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._directory = directory
        self._binary = binary or redis_binary()
        self._options = options
        self._append_only = append_only
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            self._binary,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
            *("--save", "", "--appendonly", "yes" if self._append_only else "no"),
            *("--appendfsync", "always"),
            *("--requirepass", self._password),
            *self._options,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(START_TIMEOUT_S)
        self._process = None

    def freeze(self) -> None:
        """Stop the process until `thaw`: connections stay open, and commands get no response."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._responds():
            assert process.poll() is None, "redis-server exited"
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def _responds(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@contextmanager
def running_redis(directory: Path, **options: Any) -> Iterator[RedisServer]:
    """Start a Redis with its files in `directory`; stop it at exit."""
    directory.mkdir(exist_ok=True)
    server = RedisServer(directory, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def redis_binary() -> str:
    """Return `FALCONER_TEST_REDIS_SERVER`, else the server that `falconer serve` runs."""
    return os.environ.get("FALCONER_TEST_REDIS_SERVER") or find_redis_binary()
