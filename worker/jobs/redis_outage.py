"""When Redis was last away, or its clock ran ahead: who had the leases that ended has them first.

Their workers may well live, and could not renew. Knows no lease.
"""

import time
from collections.abc import Callable

SILENT_S = 2.0  # between two answers, though a worker asks every second: Redis was away
GRACE_S = 1.5  # after its return; a worker that lives has renewed by then


class OutageTracker:
    """Told of each answer and of each failure to get one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answered_at = clock()
        self._began_at: float | None = None  # of the latest absence; None: well over
        self._ended_at = self._answered_at

    def failed(self) -> None:
        if self._began_at is None:
            self._began_at = self._answered_at
        self._ended_at = self._clock()

    def answered(self) -> None:
        self._notice()
        self._answered_at = self._clock()

    def slept_through(self, seconds: float) -> None:
        """So much more time went by at Redis than here: leases ended though nobody was late."""
        began_at = self._answered_at if self._began_at is None else self._began_at
        self._began_at, self._ended_at = began_at - seconds, self._clock()

    @property
    def overdue_s(self) -> float:
        """For how long a lease must have been over now before another worker takes it."""
        self._notice()
        return 0.0 if self._began_at is None else self._clock() - self._began_at

    def _notice(self) -> None:
        """A call that hung for long and got its answer at last is an absence, too."""
        now = self._clock()
        if now - self._answered_at > SILENT_S:
            self.failed()
        elif now - self._ended_at > GRACE_S:
            self._began_at = None
