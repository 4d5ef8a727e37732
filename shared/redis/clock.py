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
        self._asked_at = 0.0

    async def refresh(self, redis: Redis, max_age_s: float = STALE_S) -> None:
        """Ask, unless it was told lately."""
        if self._told_at is None or self.now() - self._told_at > max_age_s:
            asked_at = self.now()
            seconds, microseconds = await redis.time()
            self.tell(1000 * seconds + microseconds / 1000, asked_at)

    def now(self) -> float:
        """Here, in s: when a question is sent."""
        return self._monotonic()

    def tell(self, now_ms: float, asked_at: float) -> float:
        """Redis was asked then, and said that it was `now_ms`.

        Returns how much more time went by at Redis than here since it was asked before, s. Answers
        that are late make it negative. Above zero: Redis' clock was set, another machine is master,
        or this one was asleep.
        """
        heard_at, ahead_s = self.now(), 0.0
        if self._told_at is not None:
            ahead_s = (now_ms - self._told_ms) / 1000 - (heard_at - self._asked_at)
        self._told_ms, self._told_at, self._asked_at = now_ms, heard_at, asked_at
        return ahead_s

    def in_ms(self, seconds: float) -> int:
        """Redis' time in so many seconds; only once it was told."""
        assert self._told_at is not None, "nobody told the time"
        return round(self._told_ms + 1000 * (self._monotonic() - self._told_at + seconds))
