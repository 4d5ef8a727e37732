"""Tokens on their way to the api: one stream entry per engine step and api replica.

Knows events and replicas, not what is in them.
"""

import asyncio

import structlog
from redis.asyncio import Redis

from shared.backoff import Backoff
from shared.connection import UNREACHABLE
from shared.keys import Keys
from shared.protocol import Delta, Event
from shared.replies import write_events

log = structlog.get_logger(__name__)


class Outbox:
    """Collects deltas and writes them in the order they came, all that there are at a time."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._bundles: dict[str, list[Event]] = {}
        self._filled = asyncio.Event()
        self._next_write = asyncio.Event()  # set once what is in `_bundles` has been written
        self._last_put = asyncio.Event()  # the same, of the write that takes the latest delta
        self._last_put.set()

    def put(self, replica_id: str, delta: Delta) -> None:
        self._bundles.setdefault(replica_id, []).append(delta)
        self._last_put = self._next_write
        self._filled.set()

    async def written(self) -> None:
        """Wait until everything put so far is in Redis: a terminal event must not overtake it.

        What others put meanwhile is not waited for: they may never stop.
        """
        await self._last_put.wait()

    async def run(self) -> None:
        """Write until cancelled; keeps what it could not write while Redis was away."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            bundles, self._bundles = self._bundles, {}
            written, self._next_write = self._next_write, asyncio.Event()
            await self._write(bundles)
            written.set()

    async def _write(self, bundles: dict[str, list[Event]]) -> None:
        backoff = Backoff()
        while True:
            try:
                return await write_events(self._redis, self._keys, bundles)
            except UNREACHABLE as error:
                log.warning("deltas wait for Redis", error=str(error))
                await asyncio.sleep(backoff.next_s())
