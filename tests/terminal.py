"""Run a command in a terminal of its own, and type to it."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.processes import end

PATIENCE_S = 120.0


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", fd: int) -> None:
        self.process = process
        self._fd = fd
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` appears in what is new since the last call."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._shown:
            left_s = deadline - time.monotonic()
            assert select.select([self._fd], [], [], max(0.0, left_s))[0], self._shown
            self._shown += os.read(self._fd, 65_536).decode()
        self._shown = self._shown.partition(text)[2]


@contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    parent, child = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "falconer", *words],
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
        )
        try:
            yield Terminal(process, parent)
        finally:
            end(process)
    finally:
        os.close(child)
        os.close(parent)
