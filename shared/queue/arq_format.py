"""Pack jobs and results in arq's format, with msgpack instead of pickle.

Of arq, Falconer uses its key names, the fields of its job and result values, and its client
`ArqRedis`: arq's own tools can read the queue, and no arq worker runs. Stock arq takes
`deserialize` as `job_deserializer`; it never runs code from Redis. The prompt is a field of the
record, not an argument of arq's job, and results do not repeat it.
"""

import time
from typing import Any

import msgspec

from shared.errors import JobFailed
from shared.protocol import (
    Failed,
    JobError,
    JobStatus,
    Outcome,
    Succeeded,
    encode,
    encode_events,
)

# 499 is nginx's "client closed request"; no client waits for it.
CANCELLED = JobError(message="the job was cancelled", status_code=499)
EXPIRED = JobError(message="the job's deadline passed before it was done", status_code=504)

FUNCTION = "chat"  # the function name that arq's tools show for every job


class ArqJob(msgspec.Struct, frozen=True, kw_only=True):
    job_try: int | None = msgspec.field(default=None, name="t")
    function: str = msgspec.field(default=FUNCTION, name="f")
    args: tuple[()] = msgspec.field(default=(), name="a")
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict, name="k")
    enqueued_ms: int = msgspec.field(name="et")


class ArqResult(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of `arq.jobs.serialize_result`; `r` is the terminal event."""

    job_try: int = msgspec.field(name="t")
    function: str = msgspec.field(default=FUNCTION, name="f")
    args: tuple[()] = msgspec.field(default=(), name="a")
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict, name="k")
    enqueued_ms: int = msgspec.field(name="et")
    success: bool = msgspec.field(name="s")
    outcome: Outcome = msgspec.field(name="r")
    started_ms: int = msgspec.field(name="st")
    finished_ms: int = msgspec.field(name="ft")
    queue: str = msgspec.field(name="q")
    id: str


def pack_job() -> bytes:
    """Pack a job that is enqueued now."""
    return encode(ArqJob(enqueued_ms=time.time_ns() // 1_000_000))


def pack_result(outcome: Outcome, *, queue: str, created_ms: int, started_ms: int) -> bytes:
    """Pack a terminal event as arq's result; arq's finish time is the start plus the run time."""
    run_ms = outcome.run_ms if isinstance(outcome, Succeeded) else 0
    return encode(
        ArqResult(
            job_try=outcome.attempt,
            enqueued_ms=created_ms,
            success=isinstance(outcome, Succeeded),
            outcome=outcome,
            started_ms=started_ms,
            finished_ms=started_ms + round(run_ms),
            queue=queue,
            id=outcome.job_id,
        )
    )


def decode_result(data: bytes) -> ArqResult:
    return msgspec.msgpack.decode(data, type=ArqResult)


def deserialize(data: bytes) -> dict[str, Any]:
    """Deserialize for arq; a job that did not succeed yields an exception, as arq expects."""
    value: dict[str, Any] = msgspec.msgpack.decode(data)
    if value.get("s") is False:
        value["r"] = JobFailed(msgspec.convert(value["r"], Failed).error.message)
    return value


def pack_cancelled(job_id: str, queue: str) -> tuple[bytes, bytes]:
    """Return the result and the events of a job that a client cancelled."""
    return _pack_end(job_id, queue, JobStatus.CANCELLED, CANCELLED)


def pack_expired(job_id: str, queue: str) -> tuple[bytes, bytes]:
    """Return the result and the events of a job that waited past its deadline."""
    return _pack_end(job_id, queue, JobStatus.EXPIRED, EXPIRED)


def _pack_end(job_id: str, queue: str, status: JobStatus, error: JobError) -> tuple[bytes, bytes]:
    outcome = Failed(job_id=job_id, attempt=0, status=status, error=error)
    now_ms = time.time_ns() // 1_000_000
    result = pack_result(outcome, queue=queue, created_ms=now_ms, started_ms=now_ms)
    return result, encode_events([outcome])
