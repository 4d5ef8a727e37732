"""What time it is at Redis, as its answers told: so that a command can say when it is too late.

A little behind, by the time that the last answer took to get here.
"""

import time
from collections.abc import Callable

from redis.asyncio import Redis

STALE_S = 60.0  # clocks drift apart


class RedisClock:
    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._told_ms = 0.0
        self._told_at: float | None = None

    async def refresh(self, redis: Redis) -> None:
        """Ask, unless it was told lately."""
        if self._told_at is None or self._monotonic() - self._told_at > STALE_S:
            seconds, microseconds = await redis.time()
            self.tell(1000 * seconds + microseconds / 1000)

    def tell(self, now_ms: float) -> float:
        """Redis said just now that it was `now_ms` then; how much later that is than expected, s.

        By a second or more: its clock was set, another machine is master, or this one was asleep.
        """
        ahead_s = 0.0 if self._told_at is None else (now_ms - self.in_ms(0)) / 1000
        self._told_ms, self._told_at = now_ms, self._monotonic()
        return ahead_s

    def in_ms(self, seconds: float) -> int:
        """Redis' time in so many seconds; only once it was told."""
        assert self._told_at is not None, "nobody told the time"
        return round(self._told_ms + 1000 * (self._monotonic() - self._told_at + seconds))
