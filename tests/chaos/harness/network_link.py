"""Network link between a process and Redis that a run can cut, block and slow down."""

import asyncio
from contextlib import suppress
from enum import StrEnum

from shared.process.asyncio_tasks import cancel_all

CHUNK_BYTES = 65_536


class State(StrEnum):
    OPEN = "open"
    CUT = "cut"  # every connection breaks, also new connections
    BLOCKED = "blocked"  # connections stay open, no byte passes: a black hole
    SLOW = "slow"


class NetworkLink:
    """A loopback port that forwards connections to Redis."""

    def __init__(self, redis_port: int, port: int) -> None:
        self.port = port
        self._redis_port = redis_port
        self._state = State.OPEN
        self._delay_s = 0.0
        self._passes = asyncio.Event()
        self._passes.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._drop()

    async def cut(self) -> None:
        self._state = State.CUT
        await self._drop()

    def block(self) -> None:
        self._state = State.BLOCKED
        self._passes.clear()

    def slow(self, delay_s: float) -> None:
        """Delay every chunk of bytes by `delay_s` in both directions."""
        self._state, self._delay_s = State.SLOW, delay_s

    async def heal(self, *, drops: bool) -> None:
        """Restore the link; drop the connections that were blocked, or deliver their bytes late."""
        was_blocked = self._state is State.BLOCKED
        self._state, self._delay_s = State.OPEN, 0.0
        if was_blocked and drops:
            await self._drop()
        self._passes.set()

    async def _drop(self) -> None:
        await cancel_all(list(self._connections))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self._state is not State.CUT:
                await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # Redis is unreachable or the link was cut: the client sees a closed connection
        finally:
            self._connections.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        copies = [
            asyncio.create_task(self._copy(reader, redis_writer)),
            asyncio.create_task(self._copy(redis_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            redis_writer.close()
            await cancel_all(copies)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._passes.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                target.write(data)
                await target.drain()
