"""Estimate the clock of Redis, so that scripts can refuse commands that arrive too late."""

import time
from collections.abc import Callable

from redis.asyncio import Redis

STALE_S = 60.0  # clocks drift apart


class RedisClock:
    """Runs a little behind Redis, by the time that its last reading took to arrive."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_ms = 0.0  # between the clock of Redis and ours
        self._observed_at: float | None = None

    async def refresh(self, redis: Redis) -> None:
        """Read the clock of Redis if the last reading is older than STALE_S."""
        if self._observed_at is None or self._monotonic() - self._observed_at > STALE_S:
            seconds, microseconds = await redis.time()
            self.observe(1000 * seconds + microseconds / 1000)

    def observe(self, redis_ms: float) -> None:
        """Record a reading of the clock that has just arrived."""
        self._observed_at = self._monotonic()
        self._offset_ms = redis_ms - 1000 * self._observed_at

    def deadline_ms(self, seconds: float) -> int:
        """Return the time of Redis in so many seconds; needs a reading first."""
        assert self._observed_at is not None, "the clock was never read"
        return round(self._offset_ms + 1000 * (self._monotonic() + seconds))
