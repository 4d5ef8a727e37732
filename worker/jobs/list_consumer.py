"""Consume a Redis list: wake-ups for ready jobs, or cancellations."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from redis.asyncio import Redis

from shared.redis.retry import retry_until_reachable

BLOCK_S = 5  # the consumer's client needs a longer socket timeout

log = structlog.get_logger(__name__)


class ListConsumer:
    """Passes each element of a list to `handle`; continues after an outage of Redis.

    `redis` is a client of its own that may block for BLOCK_S.
    """

    def __init__(self, redis: Redis, key: str, handle: Callable[[str], None]) -> None:
        self._redis = redis
        self._key = key
        self._handle = handle
        self._enabled = asyncio.Event()
        self._enabled.set()

    def enable(self, is_enabled: bool) -> None:
        """Continue or pause; a pop that is under way is still handled."""
        if is_enabled:
            self._enabled.set()
        else:
            self._enabled.clear()

    async def run(self) -> None:
        """Consume until cancelled."""
        bound = log.bind(key=self._key)
        while True:
            popped = await retry_until_reachable(self._pop, bound, "list consumer interrupted")
            if popped is not None:
                self._handle(popped[1].decode())

    async def _pop(self) -> list[bytes] | None:
        """Return key and element, or None if the list stayed empty for BLOCK_S."""
        await self._enabled.wait()
        popped = self._redis.blpop([self._key], timeout=BLOCK_S)
        return await cast(Awaitable[list[bytes] | None], popped)  # redis-py types it as maybe not
