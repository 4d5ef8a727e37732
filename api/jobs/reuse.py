"""Find a job of the same request, whose tokens a new job can take.

The job that is found is a hint: the worker of the new job takes the tokens if it can, and generates
them otherwise. So neither the end nor the loss of one job affects the other.
"""

from contextlib import suppress
from hashlib import sha256
from typing import Literal

import msgspec

from api.jobs.redis_services import RedisServices, redis_timeout
from api.schemas import Reuse
from shared.errors import InvalidParameter, ServiceUnavailable
from shared.origin import OriginKind
from shared.protocol import ChatJob, JobStatus
from shared.queue.enqueued import Enqueued, Source
from shared.request.parameters import GenerateKwargs

# What else decides about the tokens is in `card_hash`, `adapter`, `token_ids` and the lengths.
LEFT_OUT = {"seed", "max_length", "max_new_tokens"}


def check_reuse(reuse: Reuse, kwargs: GenerateKwargs) -> None:
    """Raise InvalidParameter if another run of the request may have other tokens, or no log."""
    if reuse == "never":
        return
    if kwargs.num_beams > 1:
        reason = "must be never with num_beams > 1: a beam search has no tokens before its end"
        raise InvalidParameter(reason, field="reuse")
    if kwargs.do_sample and kwargs.seed is None:
        reason = "must be never without generate_kwargs.seed, unless do_sample is false"
        raise InvalidParameter(reason, field="reuse")


def request_digest(job: ChatJob) -> str | None:
    """Digest the owner and what decides about the tokens; None while no model is registered."""
    if job.token_ids is None:
        return None
    kwargs = {name: value for name, value in job.generate_kwargs.items() if name not in LEFT_OUT}
    seed = job.seed if kwargs.get("do_sample", True) else None
    parts = [job.card_hash, job.adapter, job.token_ids, job.max_new_tokens, seed, kwargs]
    if job.owner is not None:
        parts.append(job.owner)  # whose own jobs share tokens
    return sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


# A job, the other one whose tokens it takes, and whether that one runs or has finished.
Joined = tuple[ChatJob, Source | None, Literal["running", "finished"] | None]


class ReusableJobs:
    """The jobs that share their tokens, each found by the digest of its request."""

    def __init__(self, redis: RedisServices) -> None:
        self._redis = redis

    async def join(self, reuse: Reuse, job: ChatJob) -> Joined:
        """Return the job, which takes the tokens of another one if there is any.

        Raises ServiceUnavailable.
        """
        digest = None if reuse == "never" else request_digest(job)
        if digest is None:
            return job, None, None
        async with redis_timeout():
            job_id = await self._redis.token_log.shared_by(digest)
            record = None if job_id is None else await self._redis.queue.record(job_id)
        if record is None:
            return job, None, None
        is_finished = record.status is JobStatus.SUCCEEDED
        if record.status.is_terminal and not (is_finished and reuse == "finished"):
            return job, None, None
        source = Source(record.id, OriginKind.REUSE, num_deltas=0)
        joined = msgspec.structs.replace(job, joined_to=record.id)
        return joined, source, "finished" if is_finished else "running"

    async def share(self, reuse: Reuse, job: ChatJob, enqueued: Enqueued) -> None:
        """Let later requests take the tokens of a new job that takes none itself.

        Without Redis they generate their own.
        """
        if reuse == "never" or job.joined_to or enqueued.replayed:
            return
        digest = request_digest(job)
        if digest is not None:
            with suppress(ServiceUnavailable):
                async with redis_timeout():
                    await self._redis.token_log.share(digest, job.id)
