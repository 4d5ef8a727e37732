"""Data of a claim: a worker's free capacity, the leased jobs, and the dead letters."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from shared.errors import UnreadableJob
from shared.protocol import ChatJob, decode_job


@dataclass(frozen=True, slots=True)
class FreeCapacity:
    """What a worker can take in addition to its jobs."""

    rows: int  # of a batch
    kv_tokens: int
    running: int  # jobs that the worker has leased


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to run a job and to write its outcome."""

    worker_id: str
    fencing_token: int  # each lease of a job has a higher one
    previous_fencing_token: int  # of the lease before this one; 0 at first
    attempts: int  # runs that died with their workers
    created_ms: int
    started_ms: int  # time of this claim


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob(Lease):
    job: ChatJob
    time_left_s: float  # from the claim to the deadline, by the clock of Redis


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Lease):
    """A job that the worker must end without running it."""

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    jobs: list[ClaimedJob]
    dead_letters: list[DeadLetter]
    lacks_capacity: bool  # a ready job does not fit into the worker
    blocked_rows: int  # of that job, if it is of no batch; else 0
    blocked_tokens: int
    is_after_outage: bool  # expired leases stay with their workers for a moment: renew them now


class StartResult(IntEnum):
    """Whether the run of a claimed job may start."""

    NO = 0  # another worker owns the lease, or the job has ended
    YES = 1
    CANCELLED = 2  # yes, but a client has cancelled the job


@dataclass(frozen=True, slots=True)
class Renewal:
    lost: list[str]  # jobs that another worker leased, or that have ended
    cancelled: list[str]  # jobs that a client cancelled


def decode_claim(worker_id: str, max_attempts: int, reply: list[Any]) -> Claim:
    """Decode the reply of `claim.lua`; a job that cannot be decoded becomes a dead letter."""
    lacks_capacity, leased, is_after_outage, blocked_rows, blocked_tokens = reply
    jobs = [_decode_leased(worker_id, max_attempts, fields) for fields in leased]
    return Claim(
        jobs=[job for job in jobs if isinstance(job, ClaimedJob)],
        dead_letters=[job for job in jobs if isinstance(job, DeadLetter)],
        lacks_capacity=bool(lacks_capacity),
        blocked_rows=blocked_rows,
        blocked_tokens=blocked_tokens,
        is_after_outage=bool(is_after_outage),
    )


def _decode_leased(worker_id: str, max_attempts: int, fields: list[Any]) -> ClaimedJob | DeadLetter:
    job_id, payload, attempts, fencing_token, previous_fencing_token = fields[:5]
    created_ms, started_ms, time_left_ms = fields[5:]
    lease: dict[str, Any] = {
        "worker_id": worker_id,
        "fencing_token": fencing_token,
        "previous_fencing_token": previous_fencing_token,
        "attempts": attempts,
        "created_ms": int(created_ms),
        "started_ms": int(started_ms),
    }
    job = _job_or_reason(payload, attempts, max_attempts)
    if isinstance(job, str):
        return DeadLetter(job_id=job_id.decode(), reason=job, **lease)
    return ClaimedJob(job=job, time_left_s=int(time_left_ms) / 1000, **lease)


def _job_or_reason(payload: bytes | None, attempts: int, max_attempts: int) -> ChatJob | str:
    """Return the job, or the reason why no worker can run it."""
    if attempts >= max_attempts:
        return f"the worker running this job died {attempts} times; given up"
    if payload is None:
        return "the job's data has expired: it waited for too long, or Redis lost it"
    try:
        return decode_job(payload)
    except UnreadableJob as error:
        return error.message


def run_alone_from(max_attempts: int) -> int:
    """Return the number of counted attempts from which on a job runs alone: on its last one."""
    return max(1, max_attempts - 1)
