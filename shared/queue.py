"""The queue: what the api does with a job, and what a worker does; each step one Lua script.

Holds no state and knows neither HTTP nor the engine. Errors of Redis pass through.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.arq_format import ArqJob, ArqResult
from shared.claims import Claim, Lease, Renewal, Room, decode_claim, first_attempt_alone
from shared.errors import Conflict, QueueFull
from shared.keys import JOB_TTL_S, PRIORITY_WINDOW_MS, RESULT_TTL_S, Keys
from shared.protocol import (
    ChatJob,
    Failed,
    Finished,
    JobError,
    JobRecord,
    JobStatus,
    Outcome,
    encode,
    encode_events,
)
from shared.records import decode_record
from shared.registry import Registry
from shared.scripts import Script, Scripts

# 499 is nginx's "client closed request"; no caller waits for it.
CANCELLED = JobError(message="the job was cancelled", status_code=499)
EXPIRED = JobError(message="the job's deadline passed before it was done", status_code=504)
MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Hex digests of the Idempotency-Key and of the body it came with."""

    key_digest: str
    body_digest: str


@dataclass(frozen=True, slots=True)
class Enqueued:
    """`replayed`: the job was there already, under the same idempotency key."""

    job_id: str
    position: int
    created_ms: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Depth:
    waiting: int
    running: int


class JobQueue:
    """One queue in one Redis."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._keys = keys
        self._redis = redis
        self._scripts = Scripts(redis, keys)

    async def enqueue(
        self,
        job: ChatJob,
        *,
        reply_to: str | None,
        priority: int = 0,
        max_queued: int,
        idempotency: Idempotency | None = None,
    ) -> Enqueued:
        """Accept a job in one round trip; `reply_to` is the api replica that waits for it.

        Each step of `priority` puts it PRIORITY_WINDOW_MS ahead. Raises QueueFull, and Conflict
        when the idempotency key came with another body.
        """
        verdict, job_id, position, created_ms = await self._scripts.run(
            Script.ENQUEUE,
            job.id,
            encode(job),
            encode(ArqJob(enqueued_ms=time.time_ns() // 1_000_000)),
            job.cost_rows,
            job.cost_tokens,
            priority * PRIORITY_WINDOW_MS,
            round(1000 * (JOB_TTL_S if job.deadline_s is None else min(job.deadline_s, JOB_TTL_S))),
            1000 * (job.ttl_s or RESULT_TTL_S),
            reply_to or "",
            max_queued,
            idempotency.key_digest if idempotency else "",
            idempotency.body_digest if idempotency else "",
        )
        if verdict == b"full":
            raise await self._queue_full(max_queued)
        if verdict == b"conflict":
            raise Conflict("Idempotency-Key was already used with a different request body")
        return Enqueued(job_id.decode(), position, int(created_ms), verdict == b"replayed")

    async def _queue_full(self, max_queued: int) -> QueueFull:
        """Come back when about a tenth of the queue has drained, at the workers' measured rate."""
        workers = await Registry(self._redis, self._keys).workers()
        jobs_per_s = sum(worker.jobs_per_s for worker in workers)
        drain_s = max_queued / 10 / jobs_per_s if jobs_per_s > 0 else MAX_RETRY_AFTER_S
        return QueueFull(
            f"the queue is full: {max_queued} jobs are waiting",
            retry_after_s=max(1, min(MAX_RETRY_AFTER_S, math.ceil(drain_s))),
        )

    async def record(self, job_id: str) -> JobRecord | None:
        return await self.watch(job_id, "")

    async def watch(self, job_id: str, replica_id: str) -> JobRecord | None:
        """The record as of now; if it has not ended, its terminal event goes to the replica too.

        A job that no worker has when its deadline is over expires by this.
        """
        expired = self._pack_end(job_id, JobStatus.EXPIRED, EXPIRED)
        reply = await self._scripts.run(Script.WATCH, job_id, replica_id, *expired)
        return decode_record(job_id, reply)

    async def cancel(self, job_id: str) -> JobRecord | None:
        """End a waiting job, have a running one stopped; the record as of now, None if unknown."""
        return await self._cancel(job_id, may_arrive=False)

    async def withdraw(self, job_id: str) -> None:
        """Cancel a job that may have been accepted, or may be yet: its enqueueing comes to naught.

        For one whose enqueueing got no answer and whose caller was told that it failed.
        """
        await self._cancel(job_id, may_arrive=True)

    async def _cancel(self, job_id: str, *, may_arrive: bool) -> JobRecord | None:
        cancelled = self._pack_end(job_id, JobStatus.CANCELLED, CANCELLED)
        reply = await self._scripts.run(Script.CANCEL, job_id, *cancelled, int(may_arrive))
        return decode_record(job_id, reply)

    def _pack_end(self, job_id: str, status: JobStatus, error: JobError) -> tuple[bytes, bytes]:
        """Result and events of a job that no worker ends."""
        outcome = Failed(job_id=job_id, attempt=0, status=status, error=error)
        now_ms = time.time_ns() // 1_000_000
        result = self._pack_result(outcome, created_ms=now_ms, started_ms=now_ms)
        return result, encode_events([outcome])

    async def depth(self) -> Depth:
        waiting, running = await self._scripts.run(Script.DEPTH)
        return Depth(waiting, running)

    async def totals(self) -> dict[JobStatus, int]:
        """Jobs accepted (queued), and jobs that ended, by status; since Redis was empty."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._keys.totals)
            (totals,) = await pipe.execute()
        return {JobStatus(status.decode()): int(count) for status, count in totals.items()}

    async def claim(
        self, worker_id: str, room: Room, *, lease_ms: int, max_attempts: int = 3
    ) -> Claim:
        """Lease what fits and is this worker's fair share: expired leases first, then in order.

        A job's last attempt runs alone: had it killed its workers, it takes no one along.
        """
        reply = await self._scripts.run(
            Script.CLAIM,
            worker_id,
            lease_ms,
            room.rows,
            room.tokens,
            room.running,
            first_attempt_alone(max_attempts),
            max_attempts,
        )
        return decode_claim(worker_id, max_attempts, reply)

    async def begin(self, worker_id: str, job_id: str, *, fence: int, lease_ms: int) -> bool:
        """Say that a claimed job's run begins; False when it is another's by now, or has ended.

        Only from now on does the death of its worker count as an attempt.
        """
        return bool(await self._scripts.run(Script.BEGIN, job_id, worker_id, fence, lease_ms))

    async def renew(self, worker_id: str, fences: Mapping[str, int], *, lease_ms: int) -> Renewal:
        """Extend all leases of a worker, given as job id → fence, in one call."""
        args = [part for lease in fences.items() for part in lease]
        lost, cancelled = await self._scripts.run(Script.RENEW, worker_id, lease_ms, *args)
        return Renewal([id_.decode() for id_ in lost], [id_.decode() for id_ in cancelled])

    async def finish(
        self, lease: Lease, outcome: Outcome, *, fence: int, is_dead_letter: bool = False
    ) -> bool:
        """Write how a job ended and tell its watchers; False when it is no longer this worker's.

        `fence` counts, not the lease's own: the worker may have claimed the job again meanwhile.
        """
        written = await self._scripts.run(
            Script.FINISH,
            outcome.job_id,
            lease.worker_id,
            fence,
            outcome.status if isinstance(outcome, Failed) else JobStatus.SUCCEEDED,
            outcome.attempt,
            self._pack_result(outcome, created_ms=lease.created_ms, started_ms=lease.started_ms),
            encode_events([outcome]),
            int(is_dead_letter),
        )
        return bool(written)

    async def release(self, worker_id: str, fences: Mapping[str, int]) -> int:
        """Hand jobs back to their old place in the queue, no attempt burnt; returns how many."""
        args = [part for lease in fences.items() for part in lease]
        released = await self._scripts.run(Script.RELEASE, worker_id, *args)
        return int(released)

    def _pack_result(self, outcome: Outcome, *, created_ms: int, started_ms: int) -> bytes:
        run_ms = outcome.run_ms if isinstance(outcome, Finished) else 0
        return encode(
            ArqResult(
                job_try=outcome.attempt,
                enqueued_ms=created_ms,
                success=isinstance(outcome, Finished),
                outcome=outcome,
                started_ms=started_ms,
                finished_ms=started_ms + round(run_ms),
                queue=self._keys.queue,
                id=outcome.job_id,
            )
        )
