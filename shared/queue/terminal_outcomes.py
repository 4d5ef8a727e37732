"""Pack the outcomes of cancelled and expired jobs, for the scripts that end them."""

import time

from shared.protocol import Failed, JobError, JobStatus, encode_events
from shared.queue.arq_format import pack_result

# 499 is nginx's "client closed request"; no client waits for it.
CANCELLED = JobError(message="the job was cancelled", status_code=499)
EXPIRED = JobError(message="the job's deadline passed before it was done", status_code=504)


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
