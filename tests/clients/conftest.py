"""One service for the tests of all clients: `falconer serve` with the bundled model."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from falconer import AsyncClient, Client
from tests.clients.both_clients import Connect, clients_of
from tests.clients.calls import REQUEST
from tests.clients.openai_client import WAIT_S
from tests.clients.pages import PageServer, page_server
from tests.running_service import START_S, running_service


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
