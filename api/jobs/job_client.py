"""Submit jobs, follow, list, cancel and retry them: the one path of all routes; knows no HTTP."""

from contextlib import suppress
from hashlib import sha256

import msgspec
import structlog

from api.http.disconnect import Client
from api.jobs.admission import Admission
from api.jobs.job_handle import JobHandle
from api.jobs.redis_services import OUT_OF_REACH, REACH_S, RETRY_AFTER_S, Backend, within_reach
from api.jobs.withdrawals import Withdrawals, may_have_arrived
from api.metrics import Metrics
from api.schemas import ChatRequest
from api.settings import ApiSettings
from shared.errors import ClientError, NotFound, ServiceUnavailable
from shared.protocol import ChatJob, JobRecord, JobStatus
from shared.queue.job_queue import Enqueued, IdempotencyKey, no_such_job
from shared.queue.listing import Cursor, JobPage

log = structlog.get_logger(__name__)


class ChatClient:
    def __init__(
        self,
        backend: Backend,
        admission: Admission,
        withdrawals: Withdrawals,
        metrics: Metrics,
        settings: ApiSettings,
    ) -> None:
        self._backend = backend
        self._admission = admission
        self._withdrawals = withdrawals
        self._metrics = metrics
        self._max_queued = settings.max_queued
        self._max_queued_tokens = settings.max_queued_tokens

    async def submit(
        self,
        request: ChatRequest,
        client: Client,
        *,
        wants_events: bool,
        stream: bool = False,
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """Check the request against the model and enqueue it; the handle is on the job, or on the
        one that the same call brought earlier, under its idempotency key.

        Events reach only a handle that `wants_events`. Raises a ClientError, ClientDisconnected or
        ServerStopping before anything is enqueued, ServiceUnavailable without Redis: a job that
        Redis may hold all the same is taken back, unless the caller may come again with its
        idempotency key.
        """
        key = digest_key(request, idempotency_key)
        try:
            job = await self._admission.admit(request, client, stream=stream)
        except ClientError:
            if (earlier := await self._earlier(key)) is None:
                raise
            return earlier
        handle = JobHandle(self._backend, job.id, self._metrics)  # first, or events are missed
        try:
            enqueued = await self._enqueue(job, key, wants_events=wants_events)
        except BaseException as error:
            handle.close()
            if may_have_arrived(error):
                if idempotency_key is None:
                    self._withdrawals.add(job.id)
                raise unanswered(job.id, idempotency_key) from error
            raise
        if enqueued.replayed:
            handle.close()
            return await self.follow(enqueued.job_id)
        handle.accepted(record_of(enqueued), job.deadline_s)
        return handle

    async def _earlier(self, key: IdempotencyKey | None) -> JobHandle | None:
        """For the job of a call that came before, whatever has become of the model since."""
        if key is None:
            return None
        async with within_reach():
            job_id = await self._backend.queue.find_by_key(key)
        with suppress(NotFound):
            return None if job_id is None else await self.follow(job_id)
        return None

    async def _enqueue(
        self, job: ChatJob, key: IdempotencyKey | None, *, wants_events: bool
    ) -> Enqueued:
        async with within_reach():
            return await self._backend.queue.enqueue(
                job,
                reply_to=self._backend.replica_id if wants_events else None,
                priority=job.priority,
                max_queued=self._max_queued,
                max_queued_tokens=self._max_queued_tokens,
                idempotency_key=key,
                within_s=REACH_S,
            )

    async def follow(self, job_id: str) -> JobHandle:
        """Return a handle on a job that any replica accepted earlier. Raises NotFound."""
        handle = JobHandle(self._backend, job_id)
        try:
            async with within_reach():
                handle.record = await self._backend.queue.watch(job_id, self._backend.replica_id)
            if handle.record is None:
                raise no_such_job(job_id)
        except BaseException:
            handle.close()
            raise
        return handle

    async def record(self, job_id: str) -> JobRecord:
        """The job as of now; raises NotFound."""
        async with within_reach():
            record = await self._backend.queue.record(job_id)
        if record is None:
            raise no_such_job(job_id)
        return record

    async def cancel(self, job_id: str) -> JobRecord:
        """Stop a job wherever it is; the record as of now. Raises NotFound."""
        async with within_reach():
            record = await self._backend.queue.cancel(job_id)
        if record is None:
            raise no_such_job(job_id)
        return record

    async def retry(self, job_id: str) -> JobRecord:
        """Retry a job that failed, expired or was cancelled; returns the record of the new job.

        Repeating the call returns the same job. Raises NotFound, Conflict, and ServiceUnavailable
        if Redis does not answer: it may have accepted the retry.
        """
        try:
            async with within_reach():
                enqueued = await self._backend.queue.retry(
                    job_id,
                    max_queued=self._max_queued,
                    max_queued_tokens=self._max_queued_tokens,
                    within_s=REACH_S,
                )
        except ServiceUnavailable as error:
            if may_have_arrived(error):
                raise retry_unanswered() from error
            raise
        if enqueued.replayed:
            return await self.record(enqueued.job_id)
        return record_of(enqueued, retry_of=job_id)

    async def page(self, status: JobStatus | None, limit: int, after: Cursor | None) -> JobPage:
        """Jobs of one status or of all, the newest first."""
        statuses = JobStatus if status is None else [status]
        async with within_reach():
            return await self._backend.queue.page(statuses, limit=limit, after=after)

    async def purge(self) -> int:
        """Cancel all that waits; returns how many jobs that were."""
        batches, num_cancelled = self._backend.queue.purge(), 0
        while True:
            async with within_reach():
                cancelled = await anext(batches, None)
            if cancelled is None:
                return num_cancelled
            num_cancelled += cancelled

    async def cancel_abandoned(self, job_id: str) -> None:
        """Its caller went away and hears of no failure: without Redis it is cancelled later."""
        try:
            await self.cancel(job_id)
        except ServiceUnavailable:
            self._withdrawals.add(job_id)
        except NotFound as error:
            log.info("an abandoned job is gone", job_id=job_id, error=error.message)


def digest_key(request: ChatRequest, idempotency_key: str | None) -> IdempotencyKey | None:
    """Digest the key and the fields of the request; their order and spelling do not matter."""
    if idempotency_key is None:
        return None
    body = msgspec.json.encode(request.model_dump(exclude_unset=True), order="deterministic")
    return IdempotencyKey(
        sha256(idempotency_key.encode()).hexdigest(), body_digest=sha256(body).hexdigest()
    )


def unanswered(job_id: str, idempotency_key: str | None) -> ServiceUnavailable:
    """No answer says whether Redis took the job, and none can be had in time."""
    if idempotency_key is not None:
        outlook = "the same Idempotency-Key finds the job, should it have been accepted"
    else:
        outlook = f"job {job_id} may have been accepted: it is cancelled unless it ends before"
    return ServiceUnavailable(f"{OUT_OF_REACH}; {outlook}", retry_after_s=RETRY_AFTER_S)


def retry_unanswered() -> ServiceUnavailable:
    outlook = "the same request finds the retry, should it have been accepted"
    return ServiceUnavailable(f"{OUT_OF_REACH}; {outlook}", retry_after_s=RETRY_AFTER_S)


def record_of(enqueued: Enqueued, *, retry_of: str | None = None) -> JobRecord:
    """Return the record of a job that has just been accepted."""
    return JobRecord(
        id=enqueued.job_id,
        status=JobStatus.QUEUED,
        created_ms=enqueued.created_ms,
        position=enqueued.outlook.position,
        expected_start_s=enqueued.outlook.expected_start_s,
        lacks_worker=not enqueued.outlook.has_worker,
        retry_of=retry_of,
    )
