"""Data of an enqueue: the idempotency key of its request, and the accepted job."""

from dataclasses import dataclass
from typing import Any

from shared.errors import Conflict, NotFound
from shared.queue.backlog import QueueEstimate, decode_estimate, decode_refusal


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The Idempotency-Key of a request; both fields are hex digests."""

    digest: str
    body_digest: str  # of the request: the key with another body is a conflict


@dataclass(frozen=True, slots=True)
class Enqueued:
    """An accepted job."""

    job_id: str
    estimate: QueueEstimate
    created_ms: int
    replayed: bool  # an earlier command enqueued it: the same idempotency key, or the same retry


def decode_enqueued(
    reply: list[Any], retry_of: str, max_queued: int, max_queued_tokens: int
) -> Enqueued:
    """Decode the reply of `enqueue.lua`. Raises NotFound, QueueFull, WaitTooLong and Conflict."""
    if reply[0] == b"unknown":
        raise no_such_job(retry_of)
    if reply[0] == b"refused":
        raise decode_refusal(reply, max_queued, max_queued_tokens)
    verdict, job_id, created_ms, estimate = reply
    if verdict == b"conflict":
        raise Conflict("Idempotency-Key was already used with a different request body")
    replayed = verdict == b"replayed"
    return Enqueued(job_id.decode(), decode_estimate(estimate), int(created_ms), replayed)


def no_such_job(job_id: str) -> NotFound:
    return NotFound(f"no job {job_id[:64]!r}; results are kept for their ttl only")
