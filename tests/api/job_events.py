"""Helpers: jobs that a test runs by hand, and the events that clients receive."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.protocol import Delta, Failed, JobError, JobStatus, encode
from shared.queue.claims import ClaimedJob
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.token_log import TokenLog
from tests.echo_worker import FREE, LEASE_MS, finished
from tests.fakes_api import FakeService

LAST = "Last-Event-ID"


async def submit(service: FakeService, path: str = "/jobs", **fields: Any) -> str:
    response = await service.http.post(path, json={"prompt": "hello big world"} | fields)
    assert response.is_success
    return str(response.json()["id"])


async def run_job(service: FakeService, **fields: Any) -> str:
    job_id = await submit(service, **fields)
    await service.http.get(f"/jobs/{job_id}", params={"wait": 30})
    return job_id


async def run_response(service: FakeService) -> str:
    """Return the id of the job of a response that has ended."""
    response = await service.http.post("/v1/responses", json={"input": "hello"})
    assert response.is_success
    return str(response.json()["id"]).removeprefix("resp_")


async def events(
    service: FakeService, job_id: str, headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    async with asyncio.timeout(30):
        response = await service.http.get(f"/jobs/{job_id}/events", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


async def until_events_awaited(service: FakeService, job_id: str) -> None:
    """Wait until a request for the job's events has read all of them and waits for more."""
    backend = service.services.redis
    async with asyncio.timeout(30):
        while True:
            newest = await service.redis.xrevrange(
                service.keys.replies(backend.replica_id), count=1
            )
            is_heard = not newest or newest[0][0] == backend.replies._last_id
            subscriptions = backend.replies._subscriptions.get(job_id, ())
            if is_heard and any(one._events._getters for one in subscriptions):
                return
            await asyncio.sleep(0.005)


class JobWriter:
    """Runs one job: appends to its log and ends it."""

    def __init__(self, redis: Redis, keys: Keys, lease: ClaimedJob) -> None:
        self.job = lease.job
        self._lease = lease
        self._log = TokenLog(redis, keys)
        self._queue = JobQueue(redis, keys)
        self._words: list[str] = []

    async def write(self, *words: str) -> None:
        packed = [encode(Delta(text=word, token_ids=[1])) for word in words]
        index = len(self._words)
        self._words += words
        addition = (self.job.id, self._lease.fencing_token, index, packed)
        assert await self._log.append("w1", [addition]) == [len(self._words)]

    async def resend_from(self, index: int) -> None:
        words, self._words = self._words, self._words[:index]
        await self.write(*words[index:])

    async def is_cancelled(self) -> bool:
        fencing_tokens = {self.job.id: self._lease.fencing_token}
        renewal = await self._queue.renew("w1", fencing_tokens, lease_ms=LEASE_MS)
        return renewal.cancelled == [self.job.id]

    async def until_cancelled(self) -> None:
        for _ in range(3000):
            if await self.is_cancelled():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the job was not cancelled")

    async def finish(self) -> None:
        outcome = finished(self.job, self._words)
        assert await self._queue.finish(
            self._lease, outcome, fencing_token=self._lease.fencing_token
        )

    async def fail(self) -> None:
        error = JobError(message="no room")
        outcome = Failed(job_id=self.job.id, attempt=1, status=JobStatus.FAILED, error=error)
        assert await self._queue.finish(
            self._lease, outcome, fencing_token=self._lease.fencing_token
        )


async def claim_job(service: FakeService) -> JobWriter:
    """Claim the one queued job."""
    return await claim_from(service.redis, service.keys)


async def claim_from(redis: Redis, keys: Keys) -> JobWriter:
    claim = await JobQueue(redis, keys).claim("w1", FREE, lease_ms=LEASE_MS)
    return JobWriter(redis, keys, claim.jobs[0])


@asynccontextmanager
async def without_replies(service: FakeService) -> AsyncIterator[None]:
    """Drop the replies that enter the api's stream meanwhile."""
    backend = service.services.redis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.replies, "_deliver", lambda field, data: None)
        yield
        stream = await service.redis.xinfo_stream(service.keys.replies(backend.replica_id))
        await service.until(lambda: backend.replies._last_id == stream["last-generated-id"])


def texts(received: list[dict[str, Any]]) -> list[str]:
    return [event["delta"] for event in received if "delta" in event]


def events_of(text: str, name: str | None = None) -> list[dict[str, Any]]:
    """Return the data of each event of a name, or without one, with its id as `index`."""
    events = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            index = {"index": int(fields["id"])} if "id" in fields else {}
            if fields.get("event") == name:
                events.append(index | json.loads(fields["data"]))
    return events
