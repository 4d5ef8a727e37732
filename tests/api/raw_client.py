"""A client that sends bytes to an api in this process, as the test gives them."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPResponse
from typing import Any

from api.server import UNREAD_S
from tests.api.served import serving
from tests.fakes_api import FakeService

WAIT_S = 60.0


class RawClient:
    """One connection to the api."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read_json(self) -> bytes:
        """Return the bytes up to the end of a JSON body without nested objects."""
        return await self.read_until(b"}")

    async def read_until(self, end: bytes) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self._reader.readuntil(end)

    @asynccontextmanager
    async def connect_again(self) -> "AsyncIterator[RawClient]":
        """Open a second connection to the same server."""
        host, port = self._writer.get_extra_info("peername")
        client = RawClient(*await asyncio.open_connection(host, port))
        yield client
        client.close()

    async def read_to_end(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self._reader.read()

    async def read(self, num_bytes: int) -> bytes:
        """Return `num_bytes`, or fewer at the end of the stream."""
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._reader.readexactly(num_bytes)
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def until_closed(self) -> None:
        """Discard what the api sends until it closes the connection."""
        async with asyncio.timeout(WAIT_S):
            try:
                while await self._reader.read(65536):
                    pass
            except ConnectionError:
                pass

    async def send_until_closed(self, data: bytes) -> None:
        async with asyncio.timeout(WAIT_S):
            try:
                while True:
                    await self.send(data)
                    await asyncio.sleep(0)
            except ConnectionError:
                pass

    async def half_close(self) -> None:
        """Close the sending side of the connection."""
        self._writer.write_eof()
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(service: FakeService, unread_s: float = UNREAD_S) -> AsyncIterator[RawClient]:
    """Serve the api, and open one connection to it."""
    async with serving(service.asgi, unread_s=unread_s, timeout_keep_alive=1) as address:
        client = RawClient(*await asyncio.open_connection(*address))
        yield client
        client.close()


class Responses(io.BytesIO):
    """The received bytes, as a socket that `http.client` can read."""

    def makefile(self, *_: Any, **__: Any) -> "Responses":
        return self

    def close(self) -> None:
        """Keep the bytes after the response that was read."""


def parse_responses(raw: bytes, count: int) -> list[tuple[HTTPResponse, bytes]]:
    """Return `count` responses with their bodies; fail if there are more or fewer bytes."""
    source: Any = Responses(raw)
    responses = []
    for _ in range(count):
        response = HTTPResponse(source)
        response.begin()
        responses.append((response, response.read()))
    assert source.read() == b""
    return responses
