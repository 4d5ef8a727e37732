"""Decode the record of a job that scripts return."""

from typing import Any

from shared.protocol import JobRecord, JobStatus
from shared.queue.arq_format import decode_result
from shared.queue.backlog import QueueEstimate, decode_estimate


def decode_record(job_id: str, reply: list[Any] | None) -> JobRecord | None:
    """Decode the result of `read_record` in `job_state.lua`; None without such a job."""
    if reply is None:
        return None
    fields, prospects, result = reply
    status, created_ms, started_ms, finished_ms, worker, attempts, retry_of, retried_as = fields
    outlook: QueueEstimate | None = decode_estimate(prospects) if prospects else None
    return JobRecord(
        id=job_id,
        status=JobStatus(status.decode()),
        created_ms=int(created_ms),
        started_ms=int(started_ms) if started_ms else None,
        finished_ms=int(finished_ms) if finished_ms else None,
        attempts=int(attempts or 0),
        worker=worker.decode() if worker else None,
        position=outlook.position if outlook else None,
        expected_start_s=outlook.expected_start_s if outlook else None,
        lacks_worker=outlook is not None and not outlook.has_worker,
        retry_of=retry_of.decode() if retry_of else None,
        retried_as=retried_as.decode() if retried_as else None,
        outcome=decode_result(result).outcome if result else None,
    )
