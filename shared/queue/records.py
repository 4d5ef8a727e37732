"""From what the scripts return of a job to the JobRecord that callers see."""

from typing import Any

from shared.protocol import Failed, Finished, JobRecord, JobStatus, Outcome
from shared.queue.arq_format import decode_result
from shared.queue.backlog import QueueEstimate, decode_estimate


def decode_record(job_id: str, reply: list[Any] | None) -> JobRecord | None:
    """`reply`: what `read_record` of `job_state.lua` returns; None where there is no such job."""
    if reply is None:
        return None
    fields, prospects, result = reply
    status, created_ms, queued_ms, started_ms, finished_ms, worker, attempts, first_event = fields
    outlook: QueueEstimate | None = decode_estimate(prospects) if prospects else None
    outcome: Outcome | None = decode_result(result).outcome if result else None
    return JobRecord(
        id=job_id,
        status=JobStatus(status.decode()),
        created_ms=int(created_ms),
        queued_ms=int(queued_ms) if queued_ms else None,
        started_ms=int(started_ms) if started_ms else None,
        finished_ms=int(finished_ms) if finished_ms else None,
        attempts=int(attempts or 0),
        worker=worker.decode() if worker else None,
        position=outlook.position if outlook else None,
        expected_start_s=outlook.expected_start_s if outlook else None,
        lacks_worker=outlook is not None and not outlook.has_worker,
        batch=outcome.batch if outcome else None,
        result=outcome.result if isinstance(outcome, Finished) else None,
        error=outcome.error if isinstance(outcome, Failed) else None,
        num_deltas=outcome.num_deltas if isinstance(outcome, Finished) else None,
        first_event_id=int(first_event or 0),
    )
