"""Make new jobs from the tokens of jobs that succeeded."""

import copy

import msgspec

from api.http.disconnect import ClientConnection
from api.jobs.admission import Admission
from api.jobs.derivation import Derived, continued, forked, replayed, without_tokens
from api.jobs.idempotency import digest_fields
from api.jobs.job_client import record_of
from api.jobs.pending_cancellations import (
    PendingCancellations,
    may_have_arrived,
    unanswered_enqueue,
)
from api.jobs.redis_services import REDIS_TIMEOUT_S, RedisServices, redis_timeout
from api.jobs.served_models import ServedModel, ServedModels
from api.settings import ApiSettings
from shared.access.api_keys import Caller
from shared.errors import Conflict, ServiceUnavailable
from shared.origin import OriginKind
from shared.protocol import ChatJob, Delta, JobRecord, JobStatus, Succeeded
from shared.queue.enqueued import Enqueued, IdempotencyKey, Source, no_such_job
from shared.queue.token_log import PAGE
from shared.request.parameters import GenerateKwargs


class DerivedJobs:
    """Continue, fork and replay ended jobs.

    Each of these methods returns the record of the new job, or of the job that the same call with
    the same `idempotency_key` made. It raises NotFound, Conflict if the job does not allow it, what
    `admit` raises, and ServiceUnavailable without Redis.
    """

    def __init__(
        self,
        redis: RedisServices,
        models: ServedModels,
        admission: Admission,
        cancellations: PendingCancellations,
        settings: ApiSettings,
    ) -> None:
        self._redis = redis
        self._queue = redis.queue  # as the caller sees it
        self._caller = Caller()
        self._models = models
        self._admission = admission
        self._cancellations = cancellations
        self._max_queued = settings.max_queued
        self._max_queued_tokens = settings.max_queued_tokens

    def of(self, caller: Caller) -> "DerivedJobs":
        """Return the same for one caller, whose jobs it finds and makes."""
        view = copy.copy(self)
        view._caller, view._queue = caller, self._redis.queue.seen_by(caller.sees)
        return view

    async def continue_job(
        self,
        job_id: str,
        max_new_tokens: int,
        client: ClientConnection,
        idempotency_key: str | None = None,
    ) -> JobRecord:
        """Enqueue the job's request with so many more tokens."""
        key = digest_fields(
            (OriginKind.CONTINUE, job_id, max_new_tokens), idempotency_key, self._caller.name
        )
        if (known := await self._find(key)) is not None:
            return known
        model, ended, outcome = await self._ended(job_id)
        return await self._submit(model, continued(ended, outcome, max_new_tokens), client, key)

    async def fork(
        self,
        job_id: str,
        at: int,
        kwargs: GenerateKwargs,
        client: ClientConnection,
        idempotency_key: str | None = None,
    ) -> JobRecord:
        """Enqueue another ending of the job, from its token `at` on."""
        changes = kwargs.model_dump(exclude_unset=True)
        key = digest_fields(
            (OriginKind.FORK, job_id, at, changes), idempotency_key, self._caller.name
        )
        if (known := await self._find(key)) is not None:
            return known
        model, ended, outcome = await self._ended(job_id)
        return await self._submit(model, forked(ended, outcome, at, kwargs), client, key)

    async def replay(
        self, job_id: str, client: ClientConnection, idempotency_key: str | None = None
    ) -> JobRecord:
        """Enqueue the job's request again, to compare the tokens."""
        key = digest_fields((OriginKind.REPLAY, job_id), idempotency_key, self._caller.name)
        if (known := await self._find(key)) is not None:
            return known
        model, ended, outcome = await self._ended(job_id)
        derived = replayed(ended, outcome, await self._log(job_id))
        return await self._submit(model, derived, client, key)

    async def _find(self, key: IdempotencyKey | None) -> JobRecord | None:
        """Return the record of the job that the same call made, also after the old one expired."""
        if key is None:
            return None
        async with redis_timeout():
            job_id = await self._queue.find_by_key(key)
            return None if job_id is None else await self._queue.record(job_id)

    async def _log(self, job_id: str) -> list[Delta]:
        async with redis_timeout():
            deltas = page = await self._redis.token_log.read(job_id, 0)
            while len(page) == PAGE:
                page = await self._redis.token_log.read(job_id, len(deltas))
                deltas = deltas + page
        return deltas

    async def _submit(
        self,
        model: ServedModel,
        derived: Derived,
        client: ClientConnection,
        key: IdempotencyKey | None,
    ) -> JobRecord:
        job, source = derived
        owned = msgspec.structs.replace(job, owner=self._caller.name)
        job = await self._admission.admit_again(model, owned, client)
        await self._check_adapter(model, job)
        queued = await self._enqueue(model, job, source, key)
        if queued.replayed and (known := await self._find(key)) is not None:
            return known
        return record_of(queued, source, model=model.redis.name, owner=job.owner)

    async def _check_adapter(self, model: ServedModel, job: ChatJob) -> None:
        """Raise Conflict if the adapter was loaded again since; its worker checks that too."""
        if job.adapter is None or job.adapter_version is None:
            return
        async with redis_timeout():
            loaded = (await model.redis.adapters.read()).find(job.adapter)
        if job.adapter_version != (loaded.version if loaded else job.adapter):
            raise Conflict("it was loaded again since the job ran", field="adapter")

    async def _ended(self, job_id: str) -> tuple[ServedModel, ChatJob, Succeeded]:
        async with redis_timeout():
            record = await self._queue.record(job_id)
            job = await self._queue.ended_job(job_id)
        if record is None:
            raise no_such_job(job_id)
        if not isinstance(record.outcome, Succeeded):
            advice = "; retry it" if record.status.is_terminal else ""
            raise Conflict(f"status must be {JobStatus.SUCCEEDED}, not {record.status}{advice}")
        if job is None:
            raise without_tokens(record.outcome)
        if (model := self._models.of_job(record.model)) is None:
            raise Conflict(f"the model {record.model} is not served any more")
        return model, job, record.outcome

    async def _enqueue(
        self, model: ServedModel, job: ChatJob, source: Source, key: IdempotencyKey | None
    ) -> Enqueued:
        try:
            async with redis_timeout():
                return await model.redis.queue.enqueue(
                    job,
                    reply_to=None,
                    priority=job.priority,
                    max_queued=self._max_queued,
                    max_queued_tokens=self._max_queued_tokens,
                    idempotency_key=key,
                    source=source,
                    within_s=REDIS_TIMEOUT_S,
                )
        except ServiceUnavailable as error:
            if not may_have_arrived(error):
                raise
            if key is None:
                self._cancellations.add(job.id)
            raise unanswered_enqueue(job.id, has_key=key is not None) from error
