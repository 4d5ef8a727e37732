"""Raw connections to an api in this process: every byte is the test's own."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPResponse
from typing import Any

from api.server import UNREAD_S
from tests.api.http.served import serving
from tests.fakes_api import FakeService

WAIT_S = 60.0


class Caller:
    """One connection to the api."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> bytes:
        """Up to the end of a JSON body."""
        return await self.until(b"}")

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self._reader.readuntil(end)

    @asynccontextmanager
    async def another(self) -> "AsyncIterator[Caller]":
        """A second connection to the same server."""
        host, port = self._writer.get_extra_info("peername")
        caller = Caller(*await asyncio.open_connection(host, port))
        yield caller
        caller.close()

    async def all_that_comes(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self._reader.read()

    async def read(self, num_bytes: int) -> bytes:
        """All of them, or those before the end."""
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._reader.readexactly(num_bytes)
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def is_closed(self) -> bool:
        """By the api, within the time of a test; what it still says is left out."""
        async with asyncio.timeout(WAIT_S):
            try:
                while await self._reader.read(65536):
                    pass
            except ConnectionError:
                pass
            return True

    async def send_until_closed(self, data: bytes) -> None:
        async with asyncio.timeout(WAIT_S):
            try:
                while True:
                    await self.send(data)
                    await asyncio.sleep(0)
            except ConnectionError:
                pass

    async def half_close(self) -> None:
        """End what this side sends, and wait for the answers."""
        self._writer.write_eof()
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(service: FakeService, unread_s: float = UNREAD_S) -> AsyncIterator[Caller]:
    """Serve the api, and open one connection to it."""
    async with serving(service.asgi, unread_s=unread_s, timeout_keep_alive=1) as address:
        caller = Caller(*await asyncio.open_connection(*address))
        yield caller
        caller.close()


class Answers(io.BytesIO):
    """What a connection sent, read as HTTP by Python's own client."""

    def makefile(self, *_: Any, **__: Any) -> "Answers":
        return self

    def close(self) -> None:
        """Keep what follows the answer that was read."""


def parse_answers(raw: bytes, count: int) -> list[tuple[HTTPResponse, bytes]]:
    """Return so many answers and their bodies; fails where there are more or fewer bytes."""
    source: Any = Answers(raw)
    answers = []
    for _ in range(count):
        answer = HTTPResponse(source)
        answer.begin()
        answers.append((answer, answer.read()))
    assert source.read() == b""
    return answers
