"""Data of an enqueue: idempotency key, the earlier job it is made from, and the accepted job."""

from dataclasses import dataclass
from typing import Any

from shared.errors import Conflict, NotFound
from shared.origin import Origin, OriginKind
from shared.protocol import ChatJob
from shared.queue.backlog import QueueEstimate, decode_estimate, decode_refusal
from shared.queue.keys import JOB_TTL_S, RESULT_TTL_S


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The Idempotency-Key of a request; both fields are hex digests."""

    digest: str
    body_digest: str  # of the request: the key with another body is a conflict


@dataclass(frozen=True, slots=True)
class Source:
    """The job that a new job retries, was made from, or takes tokens of."""

    job_id: str
    kind: OriginKind | None  # None: a retry
    num_deltas: int  # of its token log, with which that of the new job begins

    @property
    def origin(self) -> Origin | None:
        return None if self.kind is None else Origin(self.kind, self.job_id)

    def script_args(self) -> tuple[str, str, str, int]:
        """Return the arguments of `enqueue.lua`: the job to retry, the origin, and the log."""
        if self.kind is None:
            return self.job_id, "", self.job_id, self.num_deltas
        return "", f"{self.kind} {self.job_id}", self.job_id, self.num_deltas


NO_SOURCE_ARGS = ("", "", "", 0)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """An accepted job."""

    job_id: str
    estimate: QueueEstimate
    created_ms: int
    replayed: bool  # an earlier command enqueued it: the same idempotency key, or the same retry


def decode_enqueued(
    reply: list[Any], source: Source | None, max_queued: int, max_queued_tokens: int
) -> Enqueued:
    """Decode the reply of `enqueue.lua`. Raises NotFound, QueueFull, WaitTooLong and Conflict."""
    if source and reply[0] == b"unknown":
        raise no_such_job(source.job_id)
    if reply[0] == b"refused":
        raise decode_refusal(reply, max_queued, max_queued_tokens)
    verdict, job_id, created_ms, estimate = reply
    if verdict == b"conflict":
        raise Conflict("Idempotency-Key was already used with a different request body")
    replayed = verdict == b"replayed"
    return Enqueued(job_id.decode(), decode_estimate(estimate), int(created_ms), replayed)


def no_such_job(job_id: str) -> NotFound:
    return NotFound(f"no job {job_id[:64]!r}; results are kept for their ttl only")


def times_ms(job: ChatJob) -> tuple[int, int]:
    """Return the deadline of a job, from now, and the ttl of its result."""
    deadline_s = JOB_TTL_S if job.deadline_s is None else job.deadline_s
    return round(1000 * deadline_s), 1000 * (job.ttl_s or RESULT_TTL_S)
