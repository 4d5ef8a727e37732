"""The operations on jobs that all routes share: submit, follow, list, cancel and retry."""

import copy
from contextlib import suppress

import structlog

from api.http.disconnect import ClientConnection
from api.jobs.admission import Admission, Admitted
from api.jobs.idempotency import digest_key
from api.jobs.job_handle import JobHandle
from api.jobs.pending_cancellations import (
    PendingCancellations,
    may_have_arrived,
    unanswered_enqueue,
    unanswered_retry,
)
from api.jobs.redis_services import REDIS_TIMEOUT_S, RedisServices, redis_timeout
from api.jobs.reuse import ReusableJobs
from api.schemas import ChatRequest
from api.settings import ApiSettings
from shared.access.api_keys import Caller
from shared.errors import ClientError, NotFound, ServiceUnavailable
from shared.protocol import ChatJob, JobRecord, JobStatus
from shared.queue.backlog import JobEstimate
from shared.queue.enqueued import Enqueued, IdempotencyKey, Source, no_such_job
from shared.queue.listing import Cursor, JobPage, TrailEntry

log = structlog.get_logger(__name__)


class JobClient:
    """Submit jobs for the routes and give access to the jobs of all replicas.

    Every method except `cancel_abandoned` raises ServiceUnavailable while Redis is unreachable.
    """

    def __init__(
        self,
        redis: RedisServices,
        admission: Admission,
        cancellations: PendingCancellations,
        settings: ApiSettings,
    ) -> None:
        self._redis = redis
        self._queue = redis.queue  # as the caller sees it
        self._caller = Caller()
        self._admission = admission
        self._cancellations = cancellations
        self._reusable = ReusableJobs(redis)
        self._max_queued = settings.max_queued
        self._max_queued_tokens = settings.max_queued_tokens

    def of(self, caller: Caller) -> "JobClient":
        """Return the client of one caller: it finds and submits the jobs of this caller."""
        view = copy.copy(self)
        view._caller, view._queue = caller, self._redis.queue.seen_by(caller.sees)
        return view

    async def admit(
        self, request: ChatRequest, client: ClientConnection, *, stream: bool
    ) -> Admitted:
        """Check a request; return its job, which is not enqueued. Raises what `submit` raises."""
        owner = self._caller.name
        return await self._admission.admit(request, client, stream=stream, owner=owner)

    async def submit(
        self,
        request: ChatRequest,
        client: ClientConnection,
        *,
        wants_events: bool,
        stream: bool = False,
        idempotency_key: str | None = None,
        admitted: Admitted | None = None,
        response: bytes = b"",
    ) -> JobHandle:
        """Check and enqueue a request; return the handle of its job, or of an earlier one's job.

        `admitted` is what `admit` returned, `response` is stored. Raises as `admit` before the
        enqueue. After a ServiceUnavailable, an accepted job is cancelled unless a key can find it.
        """
        key = digest_key(request, idempotency_key, self._caller.name)
        try:
            admitted = admitted or await self.admit(request, client, stream=stream)
        except ClientError:
            if (earlier := await self._find(key)) is None:
                raise
            return earlier
        model = admitted.model
        job, source, reused = await self._reusable.join(request.reuse, admitted.job)
        handle = JobHandle(self._redis, job.id, model.metrics)  # before the first event
        try:
            queued = await self._enqueue(Admitted(job, model), key, response, source, wants_events)
            await self._reusable.share(request.reuse, job, queued)
        except BaseException:
            handle.close()
            raise
        if queued.replayed:
            handle.close()
            return await self.follow(queued.job_id)
        record = record_of(queued, source, model=model.redis.name, owner=job.owner)
        handle.accepted(record, job.deadline_s, reused)
        if request.generate_kwargs.return_token_ids:
            handle.prompt_token_ids = job.token_ids
        return handle

    def _cancel_unfindable(self, job_id: str, key: IdempotencyKey | None) -> ServiceUnavailable:
        """Cancel a job that no client can find; return the error of its enqueue."""
        if key is None:
            self._cancellations.add(job_id)
        return unanswered_enqueue(job_id, has_key=key is not None)

    async def is_known(self, request: ChatRequest, idempotency_key: str | None) -> bool:
        """Return whether a job of this request and key exists. Raises ServiceUnavailable."""
        earlier = await self._find(digest_key(request, idempotency_key, self._caller.name))
        if earlier is not None:
            earlier.close()
        return earlier is not None

    async def estimate(
        self, request: ChatRequest, client: ClientConnection
    ) -> tuple[ChatJob, JobEstimate]:
        """Return the job of a request and what would become of it; enqueue nothing.

        Raises what `admit` raises. The error of a full queue is part of the estimate.
        """
        admitted = await self.admit(request, client, stream=request.stream)
        job = admitted.job
        async with redis_timeout():
            return job, await admitted.model.redis.queue.estimate(
                job, max_queued=self._max_queued, max_queued_tokens=self._max_queued_tokens
            )

    async def _find(self, key: IdempotencyKey | None) -> JobHandle | None:
        """Return the handle of an earlier request's job; the model may have changed since."""
        if key is None:
            return None
        async with redis_timeout():
            job_id = await self._queue.find_by_key(key)
        with suppress(NotFound):
            return None if job_id is None else await self.follow(job_id)
        return None

    async def _enqueue(
        self,
        admitted: Admitted,
        key: IdempotencyKey | None,
        response: bytes,
        source: Source | None,
        wants_events: bool,
    ) -> Enqueued:
        """Enqueue the job; cancel it if it may have arrived and no client can find it."""
        job = admitted.job
        try:
            async with redis_timeout():
                return await admitted.model.redis.queue.enqueue(
                    job,
                    reply_to=self._redis.replica_id if wants_events else None,
                    priority=job.priority,
                    max_queued=self._max_queued,
                    max_queued_tokens=self._max_queued_tokens,
                    idempotency_key=key,
                    source=source,
                    response=response,
                    within_s=REDIS_TIMEOUT_S,
                )
        except ServiceUnavailable as error:
            if may_have_arrived(error):
                raise self._cancel_unfindable(job.id, key) from error
            raise

    async def follow(self, job_id: str) -> JobHandle:
        """Return a handle of a job that any replica accepted. Raises NotFound."""
        handle = JobHandle(self._redis, job_id)
        try:
            async with redis_timeout():
                handle.record = await self._queue.watch(job_id, self._redis.replica_id)
            if handle.record is None:
                raise no_such_job(job_id)
        except BaseException:
            handle.close()
            raise
        return handle

    async def record(self, job_id: str) -> JobRecord:
        """Return the current record of a job. Raises NotFound."""
        async with redis_timeout():
            record = await self._queue.record(job_id)
        if record is None:
            raise no_such_job(job_id)
        return record

    async def trail(self, job_id: str) -> list[TrailEntry]:
        """Return the events of a job in order. Raises NotFound."""
        async with redis_timeout():
            trail = await self._queue.trail(job_id)
        if trail is None:
            raise no_such_job(job_id)
        return trail

    async def cancel(self, job_id: str) -> JobRecord:
        """Cancel a queued or running job; return its current record. Raises NotFound."""
        async with redis_timeout():
            record = await self._queue.cancel(job_id)
        if record is None:
            raise no_such_job(job_id)
        return record

    async def response(self, job_id: str) -> bytes | None:
        """Return what `submit` stored with the job; None without it, or after it has expired."""
        async with redis_timeout():
            return await self._queue.response(job_id)

    async def delete(self, job_id: str) -> None:
        """Cancel a job, and delete its result, tokens and stored response. Raises NotFound."""
        await self.cancel(job_id)
        async with redis_timeout():
            await self._queue.delete(job_id)

    async def retry(self, job_id: str) -> JobRecord:
        """Retry a job that failed, expired or was cancelled; return the record of the new job.

        A repeated call returns the same job. Raises NotFound, Conflict, QueueFull and WaitTooLong.
        After a ServiceUnavailable, Redis may have accepted the retry.
        """
        try:
            async with redis_timeout():
                enqueued = await self._queue.retry(
                    job_id,
                    max_queued=self._max_queued,
                    max_queued_tokens=self._max_queued_tokens,
                    within_s=REDIS_TIMEOUT_S,
                )
        except ServiceUnavailable as error:
            if may_have_arrived(error):
                raise unanswered_retry() from error
            raise
        if enqueued.replayed:
            return await self.record(enqueued.job_id)
        return record_of(enqueued, retry_of=job_id)

    async def page(self, status: JobStatus | None, limit: int, after: Cursor | None) -> JobPage:
        """Return a page of the jobs in one status, or in any; the newest first."""
        statuses = JobStatus if status is None else [status]
        async with redis_timeout():
            return await self._queue.page(statuses, limit=limit, after=after)

    async def purge(self) -> int:
        """Cancel all queued jobs; return their number."""
        batches, num_cancelled = self._queue.purge(), 0
        while True:
            async with redis_timeout():
                cancelled = await anext(batches, None)
            if cancelled is None:
                return num_cancelled
            num_cancelled += cancelled

    async def cancel_abandoned(self, job_id: str) -> None:
        """Cancel the job of a client that disconnected; during an outage of Redis, after it."""
        try:
            await self.cancel(job_id)
        except ServiceUnavailable:
            self._cancellations.add(job_id)
        except NotFound as error:
            log.info("abandoned job not found", job_id=job_id, error=error.message)


def record_of(
    enqueued: Enqueued,
    source: Source | None = None,
    *,
    retry_of: str | None = None,
    model: str | None = None,
    owner: str | None = None,
) -> JobRecord:
    """Return the record of a job that has just been accepted."""
    return JobRecord(
        id=enqueued.job_id,
        status=JobStatus.QUEUED,
        created_ms=enqueued.created_ms,
        position=enqueued.estimate.position,
        expected_start_s=enqueued.estimate.expected_start_s,
        lacks_worker=not enqueued.estimate.has_worker,
        retry_of=retry_of,
        origin=source.origin if source else None,
        model=model,
        owner=owner,
    )
