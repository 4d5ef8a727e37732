"""A proxy between a process and Redis that cuts, blocks and delays the connections."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto

from shared.process.asyncio_tasks import cancel_all
from shared.process.sockets import free_port


class Direction(Enum):
    TO_REDIS = auto()
    FROM_REDIS = auto()


class RedisProxy:
    """Forwards connections to the port `redis_port`, which a test may change.

    After a client sends `trigger`, all connections are cut until `restore`. With `tls`, clients use
    TLS.
    """

    def __init__(
        self, redis_port: int, trigger: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.port = free_port()
        self.is_cut = False
        self.redis_port = redis_port
        self.delay_s = 0.0  # per direction
        self._open = {direction: asyncio.Event() for direction in Direction}
        self._trigger = trigger
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

    def block(self, *directions: Direction) -> None:
        """Block the directions: connections stay open, and bytes arrive after `restore`.

        A network that drops packets has this effect on TCP: the last command of a client that gave
        up arrives after all.
        """
        for direction in directions:
            self._open[direction].clear()

    def restore(self) -> None:
        self.is_cut = False
        for is_open in self._open.values():
            is_open.set()

    async def stop(self) -> None:
        """Close all connections, including connections of a failed test."""
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
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self.redis_port)
        passing = [
            asyncio.create_task(self._pass(reader, redis_writer, Direction.TO_REDIS)),
            asyncio.create_task(self._pass(redis_reader, writer, Direction.FROM_REDIS)),
        ]
        async with _closing(redis_writer):
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all(passing)

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with suppress(OSError):
            while (data := await source.read(65536)) and not self.intercept(data):
                await asyncio.sleep(self.delay_s)
                await self._open[direction].wait()
                target.write(data)
                await target.drain()

    def intercept(self, data: bytes) -> bool:
        """Return whether the connections are cut, by this data or before."""
        if self._trigger is not None and self._trigger in data:
            self._trigger, self.is_cut = None, True
        return self.is_cut


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
