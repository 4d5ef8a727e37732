"""Network link between a process and a server that a run can cut, block and slow down."""

import asyncio
from collections import deque
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
    """A loopback port that forwards connections to a server, in most runs Redis."""

    def __init__(self, server_port: int, port: int) -> None:
        self.port = port
        self._server_port = server_port
        self._limits: deque[int] = deque()  # bytes to the client, of the next connections
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

    def cut_next_after(self, *num_bytes: int) -> None:
        """Cut each of the next connections once its client got so many bytes of answers."""
        self._limits += num_bytes

    @property
    def cuts_left(self) -> int:
        return len(self._limits)

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
            pass  # no server, or the link was cut: the client sees a closed connection
        finally:
            self._connections.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self._limits.popleft() if self._limits else None
        await self._passes.wait()
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        copies = [
            asyncio.create_task(self._copy(reader, server_writer)),
            asyncio.create_task(self._copy(server_reader, writer, limit)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server_writer.close()
            await cancel_all(copies)

    async def _copy(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int | None = None
    ) -> None:
        """Copy until the source ends, or the target got `limit` bytes."""
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._passes.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                data = data[:limit]
                target.write(data)
                await target.drain()
                if limit is not None and (limit := limit - len(data)) == 0:
                    return
