"""Make new jobs from the tokens of jobs that succeeded."""

import uuid

import msgspec

from api.http.disconnect import ClientConnection
from api.jobs.admission import Admission
from api.jobs.job_client import record_of, unanswered_enqueue
from api.jobs.pending_cancellations import PendingCancellations, may_have_arrived
from api.jobs.redis_services import REDIS_TIMEOUT_S, RedisServices, redis_timeout
from api.settings import ApiSettings
from shared.errors import Conflict, ServiceUnavailable
from shared.protocol import (
    INHERITED_SINCE,
    ChatJob,
    JobRecord,
    JobStatus,
    Origin,
    OriginKind,
    Succeeded,
)
from shared.queue.enqueued import Enqueued, Source, no_such_job


class DerivedJobs:
    """Continue ended jobs; every method raises ServiceUnavailable without Redis."""

    def __init__(
        self,
        redis: RedisServices,
        admission: Admission,
        cancellations: PendingCancellations,
        settings: ApiSettings,
    ) -> None:
        self._redis = redis
        self._admission = admission
        self._cancellations = cancellations
        self._max_queued = settings.max_queued
        self._max_queued_tokens = settings.max_queued_tokens

    async def continue_job(
        self, job_id: str, max_new_tokens: int, client: ClientConnection
    ) -> JobRecord:
        """Enqueue the job's request with so many more tokens; return the record of the new job.

        Raises NotFound, Conflict where the job cannot be continued, and what `admit` raises.
        """
        ended, outcome = await self._ended(job_id)
        job, source = continued(ended, outcome, max_new_tokens)
        job = await self._admission.admit_again(job, client)
        enqueued = await self._enqueue(job, source)
        origin = Origin(OriginKind.CONTINUE, job_id)
        return msgspec.structs.replace(record_of(enqueued), origin=origin)

    async def _ended(self, job_id: str) -> tuple[ChatJob, Succeeded]:
        async with redis_timeout():
            record = await self._redis.queue.record(job_id)
            job = await self._redis.queue.ended_job(job_id)
        if record is None:
            raise no_such_job(job_id)
        if not isinstance(record.outcome, Succeeded):
            advice = "; retry it" if record.status.is_terminal else ""
            raise Conflict(f"status must be {JobStatus.SUCCEEDED}, not {record.status}{advice}")
        if job is None:
            raise without_tokens(record.outcome)
        return job, record.outcome

    async def _enqueue(self, job: ChatJob, source: Source) -> Enqueued:
        try:
            async with redis_timeout():
                return await self._redis.queue.enqueue(
                    job,
                    reply_to=None,
                    priority=job.priority,
                    max_queued=self._max_queued,
                    max_queued_tokens=self._max_queued_tokens,
                    source=source,
                    within_s=REDIS_TIMEOUT_S,
                )
        except ServiceUnavailable as error:
            if not may_have_arrived(error):
                raise
            self._cancellations.add(job.id)
            raise unanswered_enqueue(job.id, has_key=False) from error


def without_tokens(outcome: Succeeded) -> Conflict:
    """Return the error for a job that succeeded and has no token log."""
    if outcome.num_deltas == 0:
        field = "generate_kwargs.num_beams"
        return Conflict("must be 1: a beam search has no tokens before its end", field=field)
    return Conflict("the job must have a token log: submit it as a stream or with POST /jobs")


def continued(job: ChatJob, outcome: Succeeded, max_new_tokens: int) -> tuple[ChatJob, Source]:
    """Return the longer request, and the deltas of the job that it begins with.

    The last token is generated again: its delta has the end of the text, and a forced last token
    moves. The deltas of several sequences alternate; all of their tokens are generated again.
    Raises Conflict if no sequence has reached its length, or a worker chose the length.
    """
    if job.max_new_tokens is None or outcome.num_deltas is None:
        raise Conflict("the job must be accepted after a worker has registered its model")
    sequences = outcome.result.sequences
    if all(sequence.token_count < job.max_new_tokens for sequence in sequences):
        raise Conflict("the text is complete: it ends with a stop token or stop string")
    num_deltas = outcome.num_deltas - 1 if len(sequences) == 1 else 0
    total = job.max_new_tokens + max_new_tokens
    longer = msgspec.structs.replace(
        job,
        id=uuid.uuid4().hex,
        version=max(job.version, INHERITED_SINCE),
        generate_kwargs=job.generate_kwargs | {"max_new_tokens": total},
        max_new_tokens=total,
        inherited_deltas=num_deltas,
    )
    return longer, Source(outcome.job_id, OriginKind.CONTINUE, num_deltas)
