"""Pops a Redis list for ever: how a worker hears of ready jobs and of cancellations.

Knows no meaning of what it pops.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from redis.asyncio import Redis

from shared.redis.client import UNREACHABLE
from shared.redis.retry import Backoff

BLOCK_S = 5  # the listener's client needs a socket timeout above this

log = structlog.get_logger(__name__)


class ListConsumer:
    """Hands each element to `handle`, also after Redis was away; pauses when told to.

    `redis` is a client of its own that may block for BLOCK_S.
    """

    def __init__(self, redis: Redis, key: str, handle: Callable[[str], None]) -> None:
        self._redis = redis
        self._key = key
        self._handle = handle
        self._wanted = asyncio.Event()
        self._wanted.set()

    def listen(self, wanted: bool) -> None:
        """Whether to go on popping; a pop that is under way still counts."""
        if wanted:
            self._wanted.set()
        else:
            self._wanted.clear()

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            await self._wanted.wait()
            try:
                popped = await self._pop()
                backoff.reset()
            except UNREACHABLE as error:
                log.warning("listening interrupted", key=self._key, error=str(error))
                await asyncio.sleep(backoff.next_s())
                continue
            if popped is not None:
                self._handle(popped[1].decode())

    async def _pop(self) -> list[bytes] | None:
        """Key and element; None when there was none for BLOCK_S."""
        popped = self._redis.blpop([self._key], timeout=BLOCK_S)
        return await cast(Awaitable[list[bytes] | None], popped)  # redis-py types it as maybe not
