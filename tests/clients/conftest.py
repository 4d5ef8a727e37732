"""One service for the tests of all clients: `falconer serve` with the bundled model."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from falconer import AsyncClient, Client
from shared.process.sockets import free_port
from tests.clients.both_clients import Connect, clients_of
from tests.clients.calls import REQUEST
from tests.clients.openai_client import WAIT_S
from tests.clients.pages import PageServer, page_server
from tests.processes import end

ROOT = Path(__file__).parents[2]
START_S = 180.0


@pytest.fixture(scope="session")
def pages() -> Iterator[PageServer]:
    with page_server() as server:
        yield server


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, pages: PageServer) -> Iterator[str]:
    """Return the address of a service that pages of the page server may call."""
    folder = tmp_path_factory.mktemp("service")
    origin = f"http://127.0.0.1:{pages.port}"
    with running_service(folder, FALCONER_CORS_ORIGINS=origin) as address:
        yield address


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


@pytest.fixture(scope="session")
def expected(url: str) -> str:
    """Return the text that each client must receive."""
    headers = {"Content-Type": "application/json"}
    call = urllib.request.Request(f"{url}/chat", json.dumps(REQUEST).encode(), headers)
    with urllib.request.urlopen(call, timeout=START_S) as answer:
        result: dict[str, Any] = json.load(answer)
    return str(result["sequences"][0]["text"])


@pytest.fixture(params=[Client, AsyncClient])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Return a function that opens a client; a test calls both classes alike."""
    with clients_of(request.param) as opened:
        yield opened


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    """Return OpenAI's client; it repeats no request."""
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=WAIT_S
    ) as client:
        yield client
