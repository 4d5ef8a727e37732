"""Stands between a process and Redis and does what networks do: cut, hold bytes back, be slow."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto

from shared.process.asyncio_tasks import cancel_all
from tests.redis_server import free_port


class Way(Enum):
    TO_REDIS = auto()
    FROM_REDIS = auto()


class RedisProxy:
    """Passes bytes both ways, to whichever Redis `leads_to` names when a client connects.

    Cuts all connections when a client sends `word`, and is gone until `restore`. With `tls` it is
    what its clients speak.
    """

    def __init__(
        self, redis_port: int, word: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.port = free_port()
        self.is_cut = False
        self.leads_to = redis_port
        self.delay_s = 0.0  # of everything, each way
        self._open = {way: asyncio.Event() for way in Way}
        self._word = word
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self.restore()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )

    def hold(self, *ways: Way) -> None:
        """Be a black hole: connections stay open, and what is sent arrives after `restore`.

        TCP over a network that drops packets looks so from both ends; a client that gave up
        meanwhile has its last command arrive all the same.
        """
        for way in ways:
            self._open[way].clear()

    def restore(self) -> None:
        self.is_cut = False
        for is_open in self._open.values():
            is_open.set()

    async def stop(self) -> None:
        """Close all connections: a failed test may have left clients that never would."""
        assert self._server is not None
        self.restore()
        self._server.close()
        for writer in self._clients:
            writer.transport.abort()
        while self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self._clients.add(writer)
        async with _closing(writer):
            with suppress(OSError):
                if not self.is_cut:
                    await self._connect(reader, writer)
        self._clients.remove(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self.leads_to)
        passing = [
            asyncio.create_task(self._pass(reader, redis_writer, Way.TO_REDIS)),
            asyncio.create_task(self._pass(redis_reader, writer, Way.FROM_REDIS)),
        ]
        async with _closing(redis_writer):
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all(passing)

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: Way
    ) -> None:
        with suppress(OSError):
            while (data := await source.read(65536)) and not self._cuts(data):
                await asyncio.sleep(self.delay_s)
                await self._open[way].wait()
                target.write(data)
                await target.drain()

    def _cuts(self, data: bytes) -> bool:
        """Whether the way is cut, by this data or before."""
        if self._word is not None and self._word in data:
            self._word, self.is_cut = None, True
        return self.is_cut


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
