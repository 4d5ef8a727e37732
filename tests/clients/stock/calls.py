"""Calls of clients that this project did not write, as a list that grows by a decorator."""

import functools
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

WAIT_S = 120.0
MODEL = "tiny"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@dataclass
class Target:
    """A running service, and OpenAI's client of it that repeats no request."""

    url: str
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp()))

    @functools.cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(**self.options)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "base_url": f"{self.url}/v1",
            "api_key": "none",
            "max_retries": 0,
            "timeout": WAIT_S,
        }

    def get(self, path: str, **params: Any) -> Any:
        """Return the body of a page of the service, past the client."""
        response = httpx.get(self.url + path, params=params, timeout=WAIT_S, trust_env=False)
        response.raise_for_status()
        return response.json()

    def wait(self, holds: Callable[[], Any]) -> Any:
        """Return the first value that is true; fail after WAIT_S."""
        deadline = time.monotonic() + WAIT_S
        while not (value := holds()):
            assert time.monotonic() < deadline, "the condition did not hold in time"
            time.sleep(0.02)
        return value


@dataclass(frozen=True)
class Call:
    """One call: `client` calls `method` in this `way`, and `run` fails if the answer is wrong."""

    client: str
    method: str
    way: str
    run: Callable[[Target], None]

    def __str__(self) -> str:
        return f"{self.client}: {self.method}, {self.way}"


class Calls:
    """The calls of one client."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.all: list[Call] = []

    def __call__(self, method: str, way: str) -> Callable[[Any], Any]:
        """Add the decorated function, which may be a coroutine."""

        def add(function: Callable[[Target], Any]) -> Callable[[Target], Any]:
            self.all.append(Call(self.client, method, way, function))
            return function

        return add


AsyncCall = Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, None]]


def with_async_client(function: AsyncCall) -> Callable[[Target], None]:
    """Run a coroutine with OpenAI's asynchronous client of the service."""
    import asyncio

    async def call(target: Target) -> None:
        async with openai.AsyncOpenAI(**target.options) as client:
            await function(client)

    return lambda target: asyncio.run(call(target))
