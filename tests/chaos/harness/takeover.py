"""Measure how long the jobs of a killed or frozen worker wait for the next worker."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.protocol import JobStatus
from shared.queue.keys import LEASE_SCORE_BASE, Keys
from shared.redis.client import UNREACHABLE

WATCH_S = 60.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Takeover:
    """A job that another worker took over."""

    job_id: str
    lost_at: float  # monotonic time at which the worker was killed or frozen
    waited_s: float | None  # None: longer than WATCH_S


@dataclass(frozen=True, slots=True)
class LeasedJob:
    job_id: str
    fencing_token: int


class TakeoverWatch:
    """Watches the job records over a connection that only faults of Redis affect."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.takeovers: list[Takeover] = []
        self._redis = redis
        self._keys = keys

    async def jobs_of(self, worker_id: str) -> list[LeasedJob]:
        """Return the jobs that the worker leases now, or none if Redis does not answer."""
        with suppress(*UNREACHABLE):
            ids = await self._redis.zrangebyscore(self._keys.queue, LEASE_SCORE_BASE, "+inf")
            fields = [await self._fields(job_id.decode()) for job_id in ids]
            return [
                LeasedJob(job_id.decode(), int(fencing_token))
                for job_id, (worker, fencing_token, _, _) in zip(ids, fields, strict=True)
                if fencing_token is not None and worker == worker_id.encode()
            ]
        return []

    async def watch(self, leased: list[LeasedJob]) -> None:
        """Wait until each job was taken over, renewed or ended, at most WATCH_S.

        A worker that thaws before its leases expire renews them: it did not lose these jobs.
        """
        lost_at, lost_ms = time.monotonic(), 1000 * time.time()
        waiting = {job.job_id: job for job in leased}
        leases: dict[str, float] = {}
        while waiting and time.monotonic() - lost_at < WATCH_S:
            await asyncio.sleep(POLL_S)  # before the first read, renewals on their way arrive
            for job in list(waiting.values()):
                with suppress(*UNREACHABLE):
                    started_ms = await self._restarted_ms(job)
                    if started_ms is not None:
                        waited_s = (started_ms - lost_ms) / 1000
                        self.takeovers.append(Takeover(job.job_id, lost_at, waited_s))
                    if started_ms is not None or await self._is_kept_or_ended(job, leases):
                        del waiting[job.job_id]
        self.takeovers += [Takeover(job_id, lost_at, None) for job_id in waiting]

    async def _restarted_ms(self, job: LeasedJob) -> int | None:
        """Return when a run under a later lease started in Unix ms, or None."""
        _, latest, _, started_ms = await self._fields(job.job_id)
        is_restarted = latest is not None and int(latest) > job.fencing_token
        return int(started_ms) if is_restarted and started_ms else None

    async def _is_kept_or_ended(self, job: LeasedJob, leases: dict[str, float]) -> bool:
        """Return whether the job has ended or its lease ends later than in an earlier call."""
        _, _, status, _ = await self._fields(job.job_id)
        if status is None or JobStatus(status.decode()).is_terminal:
            return True
        lease = await self._redis.zscore(self._keys.queue, job.job_id)
        return lease is not None and lease > leases.setdefault(job.job_id, lease)

    async def _fields(self, job_id: str) -> list[bytes | None]:
        names = ["worker", "fencing_token", "status", "started_ms"]
        return await read_fields(self._redis, self._keys.record(job_id), names)


async def read_fields(redis: Redis, key: str, names: list[str]) -> list[bytes | None]:
    """HMGET in a pipeline, because redis-py types the plain command as not awaitable."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hmget(key, names)
        (fields,) = await pipe.execute()
    return list(fields)
