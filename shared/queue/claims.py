"""What a worker asks of the queue and what it gets: jobs with their leases, and hopeless ones.

Plain data, and its decoding from what `claim.lua` returns.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from shared.errors import UnreadableJob
from shared.protocol import ChatJob, decode_job


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker could still take. `running` counts the jobs it has."""

    rows: int
    tokens: int
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to run a job and to end it; `attempts` counts the runs that died before.

    Each lease of a job has a higher fence; `earlier_fence` is that of the one before, 0 at first.
    """

    worker_id: str
    fence: int
    earlier_fence: int
    attempts: int
    created_ms: int
    started_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob(Lease):
    """`time_left_s`: until its deadline, at the moment of the claim, by the clock of Redis."""

    job: ChatJob
    rows: int
    tokens: int
    time_left_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Lease):
    """A job that this worker must end without running it, and why."""

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    jobs: list[ClaimedJob]
    hopeless: list[DeadLetter]
    is_stalled: bool  # a job is ready that the worker has no capacity for
    is_after_outage: bool  # expired leases stay with their workers for a moment: renew them now


class StartResult(IntEnum):
    """Whether a claimed job's run may begin: not if it is another's by now, or has ended."""

    NO = 0
    YES = 1
    CANCELLED = 2  # and a caller wants no more of it


@dataclass(frozen=True, slots=True)
class Renewal:
    """Jobs that another worker has by now or that ended, and jobs that a caller cancelled."""

    lost: list[str]
    cancelled: list[str]


def decode_claim(worker_id: str, max_attempts: int, reply: list[Any]) -> Claim:
    """`reply`: what `claim.lua` returned to this worker. One bad job does not harm the others."""
    is_stalled, leased, is_after_outage = reply
    jobs = [_decode_leased(worker_id, max_attempts, fields) for fields in leased]
    return Claim(
        jobs=[job for job in jobs if isinstance(job, ClaimedJob)],
        hopeless=[job for job in jobs if isinstance(job, DeadLetter)],
        is_stalled=bool(is_stalled),
        is_after_outage=bool(is_after_outage),
    )


def _decode_leased(worker_id: str, max_attempts: int, fields: list[Any]) -> ClaimedJob | DeadLetter:
    job_id, payload, rows, tokens, attempts, fence, earlier_fence = fields[:7]
    created_ms, started_ms, time_left_ms = fields[7:]
    lease: dict[str, Any] = {
        "worker_id": worker_id,
        "fence": fence,
        "earlier_fence": earlier_fence,
        "attempts": attempts,
        "created_ms": int(created_ms),
        "started_ms": int(started_ms),
    }
    job = _job_or_reason(payload, attempts, max_attempts)
    if isinstance(job, str):
        return DeadLetter(job_id=job_id.decode(), reason=job, **lease)
    return ClaimedJob(
        job=job,
        rows=rows,
        tokens=tokens,
        time_left_s=int(time_left_ms) / 1000,
        **lease,
    )


def _job_or_reason(payload: bytes | None, attempts: int, max_attempts: int) -> ChatJob | str:
    """The job, or why nobody can run it."""
    if attempts >= max_attempts:
        return f"the worker running this job died {attempts} times; given up"
    if payload is None:
        return "the job's data is gone: it waited for too long, or Redis lost it"
    try:
        return decode_job(payload)
    except UnreadableJob as error:
        return error.message


def first_attempt_alone(max_attempts: int) -> int:
    """How many attempts a job has behind it when it must run alone: the last one it may have."""
    return max(1, max_attempts - 1)
