"""A job that this worker has leased, from its claim to its end."""

import asyncio
import time
from dataclasses import dataclass, field

from shared.protocol import ChatJob, Outcome
from shared.queue.claims import ClaimedJob, Lease


@dataclass(slots=True, eq=False)
class ActiveJob:
    """Mutable state of one run; only the event loop's thread may touch it."""

    claimed: ClaimedJob
    job: ChatJob  # the claimed one; with token ids and lengths once this worker has checked it
    fencing_token: int  # changes when this worker claims its own expired lease again
    runs_alone: bool
    attempt: int  # counts from 1
    deadline: float  # monotonic seconds
    finished_or_cancelled: asyncio.Event = field(default_factory=asyncio.Event)  # its generation
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # this worker is done with it
    run: asyncio.Task[Outcome] | None = None  # None before the run starts
    is_cancelled: bool = False  # by the client
    has_lost_lease: bool = False  # write nothing: another worker may own the job
    is_stopped: bool = False  # the run must end without an outcome
    outcome: Outcome | None = None

    @property
    def time_left_s(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    @property
    def may_generate(self) -> bool:
        """Return whether the run is neither done nor cancelled, nor late."""
        return not self.finished_or_cancelled.is_set() and self.time_left_s > 0

    @property
    def waited_s(self) -> float:
        """Return the seconds from the job's acceptance to this worker's claim."""
        return (self.claimed.started_ms - self.claimed.created_ms) / 1000

    def missed_lease_before(self, lease: Lease) -> bool:
        """Return whether the job had a lease between that of this run and the new one."""
        return lease.previous_fencing_token > self.fencing_token

    def use_lease(self, lease: Lease) -> None:
        """Continue under a new lease of this same worker."""
        if self.missed_lease_before(lease):  # another worker died while it ran the job
            self.attempt = lease.attempts + 1
        self.fencing_token = lease.fencing_token

    def cancel(self) -> None:
        """Cancel on behalf of the client; the run ends with an outcome."""
        self.is_cancelled = True
        self.finished_or_cancelled.set()

    def stop(self) -> None:
        """End the run without an outcome, whether or not it has started."""
        self.is_stopped = True
        if self.run is not None:
            self.run.cancel()
