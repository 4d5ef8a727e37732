"""Read a job's server-sent events over HTTP, and resume after interruptions."""

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT_S = 120.0


@dataclass
class EventReader:
    """The events that one client received."""

    ids: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)  # data, in order
    job_id: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.events) and "status" in self.events[-1]

    @property
    def end(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return self.events[: -1 if self.is_over else None]

    def text(self, sequence: int) -> str:
        return "".join(d["delta"] for d in self.deltas if d["sequence"] == sequence)

    def token_ids(self, sequence: int) -> list[int]:
        return [i for d in self.deltas if d["sequence"] == sequence for i in d["token_ids"]]

    async def chat(self, url: str, body: dict[str, Any]) -> None:
        """Read the whole stream of a new job."""
        async with (
            httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http,
            http.stream("POST", f"{url}/chat", json=body | {"stream": True}) as response,
        ):
            assert response.status_code == 200, await response.aread()
            self.job_id = response.headers["Location"].removeprefix("/jobs/")
            await self._take(response, None)

    async def follow(self, url: str, job_id: str, at_most: int | None = None) -> int:
        """Read up to `at_most` events of the job after the last one, and return the HTTP status."""
        headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        async with (
            httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http,
            http.stream("GET", f"{url}/jobs/{job_id}/events", headers=headers) as response,
        ):
            if response.status_code == 200:
                await self._take(response, at_most)
            return response.status_code

    async def follow_with_interruptions(
        self, urls: list[str], job_id: str, chance: random.Random
    ) -> None:
        """Read to the terminal event over many short connections to random replicas."""
        while not self.is_over:
            at_most = chance.randint(1, 100)
            assert await self.follow(chance.choice(urls), job_id, at_most) == 200

    async def _take(self, response: httpx.Response, at_most: int | None) -> None:
        left = at_most
        async for event_id, data in parsed(response.aiter_lines()):
            self.ids.append(event_id)
            self.events.append(data)
            left = None if left is None else left - 1
            if left == 0:
                return


async def parsed(lines: AsyncIterator[str]) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """Yield id and data of the events without a name."""
    event_id, name = 0, ""
    async for line in lines:
        if line.startswith("id: "):
            event_id = int(line.removeprefix("id: "))
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and not name:
            yield event_id, json.loads(line.removeprefix("data: "))
        elif not line:
            name = ""
