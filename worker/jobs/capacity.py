"""How much of the engine the held jobs may take up, and what is left for a claim.

Arithmetic on upper bounds, so that what was claimed fits without anybody being preempted.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass

from shared.queue.claims import ClaimedJob, Room, first_attempt_alone
from worker.jobs.active_job import ActiveJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine holds in all: rows of a batch, tokens of KV cache."""

    rows: int
    tokens: int
    max_attempts: int

    def hold(self, claimed: ClaimedJob) -> ActiveJob:
        """The job with what it may take up; on its last attempt it wants the engine alone."""
        return ActiveJob(
            claimed=claimed,
            fence=claimed.fence,
            rows=claimed.rows,
            tokens=claimed.tokens,
            runs_alone=claimed.attempts >= first_attempt_alone(self.max_attempts),
            attempt=claimed.attempts + 1,
            deadline=time.monotonic() + claimed.time_left_s,
        )

    def room(self, held: Collection[ActiveJob]) -> Room:
        """What is left if every held job grows to its full size."""
        rows = self.rows - sum(job.rows for job in held)
        return Room(
            rows=0 if any(job.runs_alone for job in held) else rows,
            tokens=self.tokens - sum(job.tokens for job in held),
            running=len(held),
        )
