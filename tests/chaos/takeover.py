"""How long the jobs of a worker that was killed or frozen wait for their next one."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.protocol import JobStatus
from shared.queue.keys import LEASED, Keys
from shared.redis.client import UNREACHABLE

WATCH_S = 60.0
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Takeover:
    """One job that changed hands; `waited_s` is None where that took longer than was watched."""

    job_id: str
    struck: float  # monotonic
    waited_s: float | None


@dataclass(frozen=True, slots=True)
class Leased:
    job_id: str
    fence: int


class TakeoverWatch:
    """Looks past all links, so that it sees what is, not what a link lets through."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.takeovers: list[Takeover] = []
        self._redis = redis
        self._keys = keys

    async def jobs_of(self, worker_id: str) -> list[Leased]:
        """What the worker has leased at this moment; nothing where Redis does not say."""
        with suppress(*UNREACHABLE):
            ids = await self._redis.zrangebyscore(self._keys.queue, LEASED, "+inf")
            fields = [await self._fields(job_id.decode()) for job_id in ids]
            return [
                Leased(job_id.decode(), int(fence))
                for job_id, (worker, fence, _, _) in zip(ids, fields, strict=True)
                if fence is not None and worker == worker_id.encode()
            ]
        return []

    async def watch(self, leased: list[Leased]) -> None:
        """Until each has been taken over or has ended."""
        struck, struck_ms = time.monotonic(), 1000 * time.time()
        waiting = {job.job_id: job.fence for job in leased}
        while waiting and time.monotonic() - struck < WATCH_S:
            for job_id, fence in list(waiting.items()):
                with suppress(*UNREACHABLE):
                    started_ms = await self._started_anew(job_id, fence)
                    if started_ms is not None:
                        waited_s = (started_ms - struck_ms) / 1000
                        self.takeovers.append(Takeover(job_id, struck, waited_s))
                    if started_ms is not None or await self._has_ended(job_id):
                        del waiting[job_id]
            await asyncio.sleep(LOOK_EVERY_S)
        self.takeovers += [Takeover(job_id, struck, None) for job_id in waiting]

    async def _started_anew(self, job_id: str, fence: int) -> int | None:
        """When a later lease began, Unix ms."""
        _, latest, _, started_ms = await self._fields(job_id)
        is_anew = latest is not None and int(latest) > fence and started_ms is not None
        return int(started_ms) if is_anew and started_ms else None

    async def _has_ended(self, job_id: str) -> bool:
        _, _, status, _ = await self._fields(job_id)
        return status is None or JobStatus(status.decode()).is_terminal

    async def _fields(self, job_id: str) -> list[bytes | None]:
        names = ["worker", "fencing_token", "status", "started_ms"]
        return await read_fields(self._redis, self._keys.record(job_id), names)


async def read_fields(redis: Redis, key: str, names: list[str]) -> list[bytes | None]:
    """HMGET; redis-py types its commands as if they might not be awaited."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hmget(key, names)
        (fields,) = await pipe.execute()
    return list(fields)
