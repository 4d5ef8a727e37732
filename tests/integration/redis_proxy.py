"""Stands between a worker and Redis and can go away at a word, as no real Redis does on demand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from shared.tasks import cancel_all
from tests.redis_server import free_port


class RedisProxy:
    """Passes bytes both ways until a client sends `word`; then is gone until `restore`."""

    def __init__(self, redis_port: int, word: bytes) -> None:
        self.port = free_port()
        self.is_cut = False
        self._redis_port = redis_port
        self._word: bytes | None = word
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def restore(self) -> None:
        self.is_cut = False

    async def stop(self) -> None:
        """Call it when the clients are gone."""
        assert self._server is not None
        self._server.close()
        while self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        async with _closing(writer):
            if not self.is_cut:
                await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        ways = ((reader, redis_writer), (redis_reader, writer))
        passing = [asyncio.create_task(self._pass(source, target)) for source, target in ways]
        async with _closing(redis_writer):
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all(passing)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while (data := await source.read(65536)) and not self._cuts(data):
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
