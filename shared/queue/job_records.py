"""The jobs of all models, found by their ids: their records, and what is stored next to them.

A view of one owner finds no other job: for it, another owner's job is an unknown one.
"""

import copy
from collections.abc import AsyncIterator, Iterable
from typing import Self

from redis.asyncio import Redis

from shared.protocol import ChatJob, JobRecord, JobStatus, decode_job
from shared.queue.arq_format import pack_cancelled, pack_expired
from shared.queue.keys import Keys
from shared.queue.listing import (
    TRAIL_FIELDS,
    Cursor,
    JobPage,
    TrailEntry,
    decode_page,
    decode_record,
    decode_trail,
)
from shared.queue.scripts import Script, Scripts

PURGED_AT_ONCE = 100  # jobs; Redis runs no other command meanwhile


class JobRecords:
    """The jobs of all owners."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._keys = keys
        self._redis = redis
        self._scripts = Scripts(redis, keys)
        self._owner = ""  # of the jobs that are found; empty: of all owners

    def seen_by(self, owner: str | None) -> Self:
        """Return a view that finds the jobs of this owner only; None: of all owners."""
        view = copy.copy(self)
        view._owner = owner or ""
        return view

    async def record(self, job_id: str) -> JobRecord | None:
        return await self.watch(job_id, "")

    async def watch(self, job_id: str, replica_id: str) -> JobRecord | None:
        """Return the record, None if unknown; subscribe the replica to the job's events.

        A job without a worker expires here if its deadline has passed.
        """
        expired = pack_expired(job_id, self._keys.queue)
        reply = await self._scripts.run(Script.WATCH, job_id, self._owner, replica_id, *expired)
        return decode_record(job_id, reply)

    async def cancel(self, job_id: str) -> JobRecord | None:
        """Cancel a job, if need be by its worker; return the record as of now, None if unknown."""
        end = pack_cancelled(job_id, self._keys.queue)
        return decode_record(
            job_id, await self._scripts.run(Script.CANCEL, job_id, self._owner, *end)
        )

    async def trail(self, job_id: str) -> list[TrailEntry] | None:
        """Return the events of a job in order, None if its record is unknown or has expired."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hmget(self._keys.record(job_id), TRAIL_FIELDS)
            (values,) = await pipe.execute()
        return decode_trail(values, self._owner)

    async def purge(self) -> AsyncIterator[int]:
        """Cancel the jobs of all models that wait now; yield the number of each batch."""
        until_ms, ends = b"", list[str | bytes]()
        while True:
            cancelled, until_ms, waiting = await self._scripts.run(
                Script.PURGE, PURGED_AT_ONCE, until_ms, *ends
            )
            yield cancelled
            if not waiting:
                return
            ids = [id_.decode() for id_ in waiting]
            packed = [(id_, *pack_cancelled(id_, self._keys.queue)) for id_ in ids]
            ends = [part for end in packed for part in end]

    async def page(
        self, statuses: Iterable[JobStatus], *, limit: int, after: Cursor | None = None
    ) -> JobPage:
        """Return jobs in these statuses, the newest first; at most LISTED_MAX finished jobs."""
        seen = ("", "") if after is None else (after.created_ms, after.job_id)
        args = (limit, *seen, self._owner, *statuses)
        return decode_page(await self._scripts.run(Script.LIST_JOBS, *args))

    async def ended_job(self, job_id: str) -> ChatJob | None:
        """Return an ended job that can be retried, or that has a token log; None for others."""
        payload: bytes | None = await self._redis.get(self._keys.retry_payload(job_id))
        job = None if payload is None else decode_job(payload)
        return None if job is None or self._owner not in ("", job.owner) else job

    async def response(self, job_id: str) -> bytes | None:
        """Return the request that `/v1/responses` stored with the job, as long as its result."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.get(self._keys.response(job_id))
            pipe.hget(self._keys.record(job_id), "owner")
            request, owner = await pipe.execute()
        return request if self._owner in ("", (owner or b"").decode()) else None

    async def delete(self, job_id: str) -> None:
        """Delete the stored request, result and tokens of a job, which should be cancelled.

        If the job has not ended, its result expires at its end. A repeated call changes nothing.
        """
        await self._scripts.run(Script.DELETE, job_id)
