"""Clients that call an api continuously through Redis outages, and the responses that they got."""

import asyncio
import time
from collections.abc import AsyncIterator, Sized
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from shared.process.asyncio_tasks import cancel_all
from shared.protocol import JobStatus
from shared.queue.backlog import Depth
from tests.integration.service import Service, eventually

CLIENTS = 4
PAUSE_S = 0.02  # of a client between two calls
WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Refusal:
    took_s: float
    status: int
    detail: str
    retry_after: str | None


@dataclass
class Load:
    """Some clients submit jobs, the same number of clients waits for results."""

    http: httpx.AsyncClient
    new_tokens: int = 8
    accepted: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    _is_stopping: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the clients in this context; each has its last response at the end."""
        paths = ["/jobs", "/chat"] * CLIENTS
        calling = [asyncio.create_task(self._call_repeatedly(path)) for path in paths]
        try:
            yield
            self._is_stopping = True
            await asyncio.gather(*calling)
        finally:
            await cancel_all(calling)

    async def _call_repeatedly(self, path: str) -> None:
        while not self._is_stopping:
            await self._call(path)
            await asyncio.sleep(PAUSE_S)

    async def _call(self, path: str) -> None:
        kwargs = {"max_new_tokens": self.new_tokens, "eos_token_id": None}
        body = {"prompt": "Once upon a time", "generate_kwargs": kwargs}
        started = time.monotonic()
        answer = await self.http.post(path, json=body, timeout=WAIT_S)
        took_s = time.monotonic() - started
        response: dict[str, Any] = answer.json()
        if answer.is_success:
            self.accepted.append(response["id"])
        else:
            retry_after = answer.headers.get("Retry-After")
            self.refusals.append(
                Refusal(took_s, answer.status_code, response["detail"], retry_after)
            )

    async def wait_for_accepted(self, count: int) -> None:
        """Wait until `count` more jobs were accepted."""
        await _grows(self.accepted, count)

    async def wait_for_refused(self, count: int) -> None:
        """Wait until `count` more calls were refused."""
        await _grows(self.refusals, count)

    async def ends(self) -> list[dict[str, Any]]:
        """Wait for all accepted jobs and return their records."""
        return [await self._end(job_id) for job_id in self.accepted]

    async def _end(self, job_id: str) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            while True:
                answer = await self.http.get(f"/jobs/{job_id}?wait=30", timeout=WAIT_S)
                if answer.is_success and answer.json()["status"] not in ("queued", "running"):
                    record: dict[str, Any] = answer.json()
                    return record
                await asyncio.sleep(0.1)


async def assert_all_ended_once(service: Service, load: Load) -> None:
    """Wait until no job waits or runs; assert that each accepted job has ended exactly once."""

    async def is_idle() -> bool:
        return await service.queue.depth() == Depth(waiting=0, running=0)

    await eventually(is_idle)
    totals = await service.queue.totals()
    accepted = totals.pop(JobStatus.QUEUED)
    assert accepted == sum(totals.values()), totals
    assert totals[JobStatus.SUCCEEDED] >= len(load.accepted)


async def _grows(counted: Sized, by: int) -> None:
    goal = len(counted) + by

    async def has_grown() -> bool:
        return len(counted) >= goal

    await eventually(has_grown, WAIT_S)
