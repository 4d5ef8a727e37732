"""Compute how much of the engine active jobs may use, and how much a claim may add.

Sums upper bounds, so that tokenized jobs fit without preemption; other jobs count 0 tokens until
their worker tokenizes them.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.queue.claims import Claim, ClaimedJob, FreeCapacity, run_alone_from
from worker.jobs.active_job import ActiveJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Limits of one worker's engine."""

    rows: int  # of a batch
    kv_tokens: int  # of the KV cache, at most
    max_attempts: int  # of a job

    def to_active_job(self, claimed: ClaimedJob) -> ActiveJob:
        """Return the job with its deadline; its last attempt runs alone."""
        return ActiveJob(
            claimed=claimed,
            job=claimed.job,
            fencing_token=claimed.fencing_token,
            runs_alone=claimed.attempts >= run_alone_from(self.max_attempts),
            attempt=claimed.attempts + 1,
            deadline=time.monotonic() + claimed.time_left_s,
        )

    def remaining_after(self, active: Collection[ActiveJob]) -> FreeCapacity:
        """Return what is left if every active job grows to its full size."""
        rows = self.rows - sum(one.job.cost_rows for one in active)
        return FreeCapacity(
            rows=0 if any(one.runs_alone for one in active) else rows,
            kv_tokens=self.kv_tokens - sum(one.job.cost_tokens for one in active),
            running=len(active),
        )


def giving_way(claim: Claim, free: FreeCapacity, active: Sequence[ActiveJob]) -> list[ActiveJob]:
    """Return the jobs of batches to release for a job of no batch, which lacks their capacity.

    The latest come first. None gives way if the job would not fit without all of them either.
    """
    rows, kv_tokens = free.rows, free.kv_tokens
    chosen: list[ActiveJob] = []
    batch_jobs = [one for one in active if one.job.gives_way]
    for one in sorted(batch_jobs, key=lambda one: (not one.is_stopped, -one.claimed.started_ms)):
        if rows >= claim.blocked_rows and kv_tokens >= claim.blocked_tokens:
            break
        rows, kv_tokens = rows + one.job.cost_rows, kv_tokens + one.job.cost_tokens
        chosen.append(one)
    fits = rows >= claim.blocked_rows and kv_tokens >= claim.blocked_tokens
    return [one for one in chosen if fits and not one.is_stopped] if claim.blocked_rows else []
