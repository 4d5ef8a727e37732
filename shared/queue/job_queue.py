"""The job queue in Redis: each change of its state is one Lua script, which may be repeated.

Errors of Redis pass through.
"""

import uuid
from collections.abc import Mapping

import msgspec

from shared.errors import ClientError, Conflict, NotFound
from shared.protocol import (
    ChatJob,
    JobStatus,
    Outcome,
    encode,
    encode_events,
)
from shared.queue.arq_format import pack_job, pack_result
from shared.queue.backlog import Depth, JobEstimate, decode_job_estimate
from shared.queue.claims import (
    Claim,
    FreeCapacity,
    Lease,
    Renewal,
    StartResult,
    decode_claim,
    run_alone_from,
)
from shared.queue.enqueued import (
    NO_SOURCE_ARGS,
    Enqueued,
    IdempotencyKey,
    Source,
    decode_enqueued,
    no_such_job,
    times_ms,
)
from shared.queue.job_records import JobRecords
from shared.queue.keys import JOB_TTL_S, PRIORITY_WINDOW_MS
from shared.queue.scripts import Script

NO_LIMIT = 2**53
NO_KEY = IdempotencyKey("", "")


class JobQueue(JobRecords):
    """The queue of one model. Jobs of every model of the service are found by their ids."""

    async def enqueue(
        self,
        job: ChatJob,
        *,
        reply_to: str | None,
        priority: int = 0,
        max_queued: int,
        max_queued_tokens: int = NO_LIMIT,
        idempotency_key: IdempotencyKey | None = None,
        source: Source | None = None,
        response: bytes = b"",
        within_s: float = JOB_TTL_S,
    ) -> Enqueued:
        """Add a job to the queue in one round trip, with the request of its `response`, if any.

        `reply_to` is the api replica that wants the job's events. A step of `priority` is a head
        start of PRIORITY_WINDOW_MS. Raises QueueFull, WaitTooLong, Conflict for a key with another
        body, NotFound without the job of `source`, and TimeoutError later than `within_s` from now.
        """
        key = idempotency_key or NO_KEY
        reply = await self._scripts.run_within(
            within_s,
            Script.ENQUEUE,
            job.id,
            encode(job),
            pack_job(),
            job.cost_rows,
            job.cost_tokens,
            priority * PRIORITY_WINDOW_MS,
            *times_ms(job),
            reply_to or "",
            max_queued,
            max_queued_tokens,
            *(key.digest, key.body_digest),
            *(source.script_args() if source else NO_SOURCE_ARGS),
            response,
            encode(job.metadata) if job.metadata else "",
            job.owner or "",
        )
        return decode_enqueued(reply, source, max_queued, max_queued_tokens)

    async def estimate(
        self, job: ChatJob, *, max_queued: int, max_queued_tokens: int = NO_LIMIT
    ) -> JobEstimate:
        """Return what would become of the job if it were enqueued now; enqueue nothing."""
        reply = await self._scripts.run(
            Script.ESTIMATE,
            job.cost_tokens,
            job.priority * PRIORITY_WINDOW_MS,
            times_ms(job)[0],
            max_queued,
            max_queued_tokens,
        )
        return decode_job_estimate(reply, max_queued, max_queued_tokens)

    async def find_by_key(self, key: IdempotencyKey) -> str | None:
        """Return the id of the job that this key and body created; its record may have expired."""
        noted: bytes | None = await self._redis.get(self._keys.idempotency(key.digest))
        job_id, _, body_digest = (noted or b"").decode().partition(" ")
        return job_id if body_digest == key.body_digest else None

    async def retry(
        self,
        job_id: str,
        *,
        max_queued: int,
        max_queued_tokens: int = NO_LIMIT,
        within_s: float = JOB_TTL_S,
    ) -> Enqueued:
        """Enqueue a copy of a job that failed, expired or was cancelled, under a new id.

        A job has one retry: a repeated call returns it, `replayed`. The idempotency key of the job
        finds the retry from then on. Raises NotFound, Conflict where there is nothing to retry, and
        QueueFull, WaitTooLong and TimeoutError as `enqueue`.
        """
        ended = await self.ended_job(job_id)
        if ended is None:
            raise await self._nothing_to_retry(job_id)
        job = msgspec.structs.replace(ended, id=uuid.uuid4().hex)
        try:
            return await self.enqueue(
                job,
                reply_to=None,
                priority=job.priority,
                max_queued=max_queued,
                max_queued_tokens=max_queued_tokens,
                source=Source(job_id, None, job.inherited_deltas),
                within_s=within_s,
            )
        except NotFound:
            raise await self._nothing_to_retry(job_id) from None

    async def _nothing_to_retry(self, job_id: str) -> ClientError:
        record = await self.record(job_id)
        if record is None:
            return no_such_job(job_id)
        is_failure = record.status.is_terminal and record.status is not JobStatus.SUCCEEDED
        reason = "its data is gone" if is_failure else f"it is {record.status}"
        return Conflict(f"the job cannot be retried: {reason}")

    async def depth(self) -> Depth:
        waiting, running = await self._scripts.run(Script.DEPTH)
        return Depth(waiting, running)

    async def totals(self) -> dict[JobStatus, int]:
        """Return the number of jobs ever accepted (queued), and ended in each other status."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._keys.totals)
            (totals,) = await pipe.execute()
        return {JobStatus(status.decode()): int(count) for status, count in totals.items()}

    async def claim(
        self,
        worker_id: str,
        free: FreeCapacity,
        *,
        lease_ms: int,
        max_attempts: int = 3,
    ) -> Claim:
        """Lease jobs up to the worker's capacity and fair share: expired leases first.

        The last attempt of a job runs alone: if the job kills its worker, no other job suffers.
        After an outage of Redis, expired leases stay with their workers for 1.5 s.
        """
        reply = await self._scripts.run(
            Script.CLAIM,
            worker_id,
            lease_ms,
            free.rows,
            free.kv_tokens,
            free.running,
            run_alone_from(max_attempts),
            max_attempts,
        )
        return decode_claim(worker_id, max_attempts, reply)

    async def start(
        self, worker_id: str, job_id: str, *, fencing_token: int, lease_ms: int, attempts: int = 0
    ) -> StartResult:
        """Start or continue the run of a claimed job, after `attempts` runs whose workers died.

        From now on the death of the worker counts as an attempt.
        """
        return StartResult(
            await self._scripts.run(
                Script.START, job_id, worker_id, fencing_token, lease_ms, attempts
            )
        )

    async def renew(
        self, worker_id: str, fencing_tokens: Mapping[str, int], *, lease_ms: int
    ) -> Renewal:
        """Extend all leases of a worker; `fencing_tokens` maps job ids to fencing tokens."""
        args = [part for lease in fencing_tokens.items() for part in lease]
        lost, cancelled = await self._scripts.run(Script.RENEW, worker_id, lease_ms, *args)
        return Renewal([id_.decode() for id_ in lost], [id_.decode() for id_ in cancelled])

    async def finish(
        self, lease: Lease, outcome: Outcome, *, fencing_token: int, is_dead_letter: bool = False
    ) -> bool:
        """Write the outcome of a job and send it to the subscribers; False if the lease is lost.

        `fencing_token` overrides the token of `lease`: the worker may have claimed the job again.
        """
        times = {"created_ms": lease.created_ms, "started_ms": lease.started_ms}
        written = await self._scripts.run(
            Script.FINISH,
            outcome.job_id,
            lease.worker_id,
            fencing_token,
            outcome.status,
            outcome.attempt,
            pack_result(outcome, queue=self._keys.queue, **times),
            encode_events([outcome]),
            int(is_dead_letter),
        )
        return bool(written)

    async def release(self, worker_id: str, fencing_tokens: Mapping[str, int]) -> int:
        """Return jobs to their earlier place, without counting an attempt; return how many."""
        args = [part for lease in fencing_tokens.items() for part in lease]
        return int(await self._scripts.run(Script.RELEASE, worker_id, *args))
