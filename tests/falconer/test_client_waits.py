"""More calls wait at once than a process should have connections."""

import asyncio
import contextlib

from falconer.client import AsyncClient
from falconer.client.calls import LONG_POLL_S, MAX_POLLS

NUM_WAITS = 1000


class SlowService:
    """A small HTTP service whose jobs run until `has_ended`, the second one of its own."""

    def __init__(self) -> None:
        self.has_ended = asyncio.Event()
        self.second_has_ended = asyncio.Event()
        self.num_open = 0
        self.most_open = 0
        self.num_polls = 0
        self.is_crowded = asyncio.Event()
        self.is_idle = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self.answer(head.split()[1], writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.num_open -= 1
        if self.num_open == 0:
            self.is_idle.set()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        """Answer a poll when the jobs have ended, else after its `wait`."""
        job_id = path.partition("?")[0].rpartition("/")[2]
        status = "running"
        if "wait=" in path:
            self.num_polls += 1
            if self.num_polls == MAX_POLLS:
                self.is_crowded.set()
            has_ended = self.second_has_ended if job_id == "2" else self.has_ended
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(float(path.rpartition("=")[2])):
                    await has_ended.wait()
            status = "cancelled" if has_ended.is_set() else "running"
        body = f'{{"id": "{job_id}", "status": "{status}", "created_at": "2026-01-01T00:00:00Z"}}'
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()


def address_of(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_1000_waits_share_the_polls_and_leave_room_for_other_calls() -> None:
    service = SlowService()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0, backlog=NUM_WAITS)
    async with server, AsyncClient(address_of(server)) as client:
        job = await client.job("1")
        waits = [asyncio.create_task(job.wait(120)) for _ in range(NUM_WAITS)]
        await service.is_crowded.wait()
        assert not (await client.job("2")).status.is_terminal
        service.has_ended.set()
        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(one).__name__ for one in ended} == {"JobFailed"}
        assert service.most_open <= MAX_POLLS + 2
    await service.is_idle.wait()


async def test_a_wait_sees_the_end_of_its_job_while_100_long_polls_last() -> None:
    service = SlowService()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0, backlog=NUM_WAITS)
    async with server, AsyncClient(address_of(server)) as client:
        first, second = await client.job("1"), await client.job("2")
        waits = [asyncio.create_task(first.wait()) for _ in range(MAX_POLLS)]
        await service.is_crowded.wait()
        service.second_has_ended.set()
        async with asyncio.timeout(LONG_POLL_S / 2):
            ended = await asyncio.gather(
                second.wait(5), second.wait(0.2), second.wait(), return_exceptions=True
            )
        assert {type(one).__name__ for one in ended} == {"JobFailed"}
        service.has_ended.set()
        await asyncio.gather(*waits, return_exceptions=True)
    await service.is_idle.wait()
