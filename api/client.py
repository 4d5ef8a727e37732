"""Submit a job, follow it, cancel it: the one path that every route uses; knows no HTTP."""

import asyncio
import secrets
import time
import uuid
from hashlib import sha256

import msgspec
import structlog

from api.backend import Backend, within_reach
from api.metrics import Metrics
from api.model_watch import CheckedModel, ModelWatch
from api.schemas import ChatRequest
from api.settings import ApiSettings
from api.ticket import Ticket
from shared.errors import FalconerError, InvalidParameter, NotFound
from shared.prompt import Prepared, check_prompt
from shared.protocol import ChatJob, JobRecord, JobStatus, Prompt
from shared.queue import Idempotency

LONG_TEXT = 8_000  # characters; tokenizing more would hold up other calls

log = structlog.get_logger(__name__)


class ChatClient:
    def __init__(
        self, backend: Backend, models: ModelWatch, settings: ApiSettings, metrics: Metrics
    ) -> None:
        self._backend = backend
        self._models = models
        self._settings = settings
        self._metrics = metrics

    async def submit(
        self,
        request: ChatRequest,
        *,
        is_awaited: bool,
        stream: bool = False,
        idempotency_key: str | None = None,
    ) -> Ticket:
        """Check the request against the model and enqueue it; the ticket follows the job.

        Events come only to a job that `is_awaited`. Raises a ClientError before anything is
        enqueued, ServiceUnavailable without Redis.
        """
        job = await self._to_job(request, stream=stream)
        ticket = Ticket(self._backend, job.id, self._metrics)  # first, or events are missed
        try:
            async with within_reach():
                enqueued = await self._backend.queue.enqueue(
                    job,
                    reply_to=self._backend.replica_id if is_awaited else None,
                    priority=request.priority,
                    max_queued=self._settings.max_queued,
                    idempotency=idempotency(request, idempotency_key),
                )
        except BaseException:
            ticket.close()
            raise
        if enqueued.replayed:
            ticket.close()
            return await self.follow(enqueued.job_id)
        self._metrics.jobs.labels(JobStatus.QUEUED).inc()
        ticket.record = JobRecord(
            id=job.id,
            status=JobStatus.QUEUED,
            created_ms=enqueued.created_ms,
            position=enqueued.position,
        )
        return ticket

    async def follow(self, job_id: str) -> Ticket:
        """A ticket for a job that some replica accepted earlier; raises NotFound."""
        ticket = Ticket(self._backend, job_id)
        try:
            async with within_reach():
                ticket.record = await self._backend.queue.watch(job_id, self._backend.replica_id)
            if ticket.record is None:
                raise no_such_job(job_id)
        except BaseException:
            ticket.close()
            raise
        return ticket

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

    async def cancel_abandoned(self, job_id: str) -> None:
        """Its caller went away and nobody hears of a failure, so it is only logged."""
        try:
            await self.cancel(job_id)
        except FalconerError as error:
            log.warning("abandoned job not cancelled", job_id=job_id, error=error.message)

    async def _to_job(self, request: ChatRequest, *, stream: bool) -> ChatJob:
        self._check_ttl(request)
        prompt, model = request.to_prompt(), self._models.current
        prepared = None
        if model is None:
            check_prompt(prompt)
        else:
            prepared = await prepare(model, prompt, request)
        kwargs = request.generate_kwargs
        deadline_ms = None
        if request.deadline_s is not None:
            deadline_ms = round((time.time() + request.deadline_s) * 1000)
        return ChatJob(
            id=uuid.uuid4().hex,
            prompt=prompt,
            generate_kwargs=kwargs.model_dump(exclude_unset=True),
            seed=secrets.randbits(32) if kwargs.seed is None else kwargs.seed,
            return_full_text=request.return_full_text,
            clean_up_tokenization_spaces=request.clean_up_tokenization_spaces,
            stream=stream,
            card_hash=model.card_hash if model else None,
            token_ids=prepared.token_ids if prepared else None,
            max_new_tokens=prepared.max_new_tokens if prepared else None,
            deadline_ms=deadline_ms,
            ttl_s=request.ttl_s,
        )

    def _check_ttl(self, request: ChatRequest) -> None:
        limit = self._settings.max_ttl_s
        if request.ttl_s is not None and request.ttl_s > limit:
            reason = f"should be at most {limit} seconds, got {request.ttl_s}"
            raise InvalidParameter(reason, field="ttl_s")


async def prepare(model: CheckedModel, prompt: Prompt, request: ChatRequest) -> Prepared:
    """In a thread only where the text is long; the hop costs more than a short prompt."""
    texts = [prompt.text or "", prompt.prefix or "", *(m.content for m in prompt.messages or ())]
    if sum(map(len, texts)) > LONG_TEXT:
        return await asyncio.to_thread(model.encoder.prepare, prompt, request.generate_kwargs)
    return model.encoder.prepare(prompt, request.generate_kwargs)


def idempotency(request: ChatRequest, key: str | None) -> Idempotency | None:
    """Digests of the key and of what the request says, whatever its spelling."""
    if key is None:
        return None
    body = msgspec.json.encode(request.model_dump(exclude_unset=True), order="deterministic")
    return Idempotency(sha256(key.encode()).hexdigest(), sha256(body).hexdigest())


def no_such_job(job_id: str) -> NotFound:
    return NotFound(f"no job {job_id[:64]!r}; results are kept for their ttl only")
