"""A job this worker has leased, from claim to end. Plain data; its fields are set on the loop."""

import asyncio
import time
from dataclasses import dataclass, field

from shared.protocol import ChatJob, Outcome
from shared.queue.claims import ClaimedJob, Lease


@dataclass(slots=True, eq=False)
class ActiveJob:
    """`rows` and `tokens` are what it may take up in the engine.

    `deadline` is monotonic time. `attempt` counts from 1. `fence` changes when the worker claims
    its own expired lease again. `changed` wakes the task: its tokens are there or a caller
    cancelled it. `is_lost`: another worker has it by now, nothing may be written. `is_stopped`: end
    it without an outcome.
    """

    claimed: ClaimedJob
    fence: int
    rows: int
    tokens: int
    runs_alone: bool
    attempt: int
    deadline: float
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False
    is_lost: bool = False
    is_stopped: bool = False
    outcome: Outcome | None = None

    @property
    def job(self) -> ChatJob:
        return self.claimed.job

    @property
    def time_left_s(self) -> float:
        """Until its deadline; negative once that has passed."""
        return self.deadline - time.monotonic()

    def is_outdated_by(self, lease: Lease) -> bool:
        """Return whether the job's log may have tokens of another worker, since this run began."""
        return self.job.stream and lease.earlier_fence > self.fence

    def take_over(self, lease: Lease) -> None:
        """Go on under a new lease of this very worker."""
        if lease.earlier_fence > self.fence:  # another worker died of it meanwhile
            self.attempt = lease.attempts + 1
        self.fence = lease.fence

    def cancel(self) -> None:
        """A caller wants no more of it."""
        self.is_cancelled = True
        self.changed.set()
