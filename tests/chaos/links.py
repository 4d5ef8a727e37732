"""Network between one process and Redis, which can be cut, held up and slowed down at a word."""

import asyncio
from contextlib import suppress
from enum import StrEnum

from shared.process.asyncio_tasks import cancel_all

CHUNK_BYTES = 65_536


class State(StrEnum):
    OPEN = "open"
    CUT = "cut"  # connections break, new ones break at once
    HELD = "held"  # connections stay, nothing passes: a black hole
    SLOW = "slow"


class Link:
    """A listening loopback port whose connections lead to Redis."""

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

    def hold(self) -> None:
        self._state = State.HELD
        self._passes.clear()

    def slow(self, delay_s: float) -> None:
        """Every chunk of bytes takes this much longer, either way."""
        self._state, self._delay_s = State.SLOW, delay_s

    async def heal(self, *, drops: bool) -> None:
        """What a black hole held up is lost with its connections, or comes late."""
        was_held = self._state is State.HELD
        self._state, self._delay_s = State.OPEN, 0.0
        if was_held and drops:
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
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # Redis is away, or this connection was cut: its client sees it close
        finally:
            self._connections.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        ways = [
            asyncio.create_task(self._pass(reader, redis_writer)),
            asyncio.create_task(self._pass(redis_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            redis_writer.close()
            await cancel_all(ways)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._passes.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                target.write(data)
                await target.drain()
