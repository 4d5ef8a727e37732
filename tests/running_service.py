"""`falconer serve` with the bundled model, in a process of its own."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.process.sockets import free_port
from tests.processes import end

ROOT = Path(__file__).parents[1]
START_S = 180.0


@contextmanager
def running_service(folder: Path, **variables: str) -> Iterator[str]:
    """Run `falconer serve` with these variables; yield the address."""
    port = str(free_port())
    settings = {"FALCONER_PORT": port, "FALCONER_STATE_DIR": str(folder)} | variables
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "falconer", "serve"],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_healthy(address, folder)
            yield address
        finally:
            end(process)


def wait_until_healthy(address: str, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=START_S):
            return
        logs = "\n".join(log.read_text() for log in folder.rglob("*.log"))
        assert time.monotonic() < deadline, logs
        time.sleep(0.1)
