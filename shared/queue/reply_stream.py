"""Events on their way back: one Redis stream per api replica, read by one task for all calls.

A stream keeps what a dropped connection would lose. Scripts write it: the new deltas of all of a
worker's jobs in one entry, a job's terminal event in one of its own.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.asyncio import Redis

from shared.protocol import Event, decode_events, decode_stretch
from shared.queue.keys import Keys
from shared.redis.client import UNREACHABLE
from shared.redis.retry import Backoff

BLOCK_S = 5.0  # the reader's client needs a socket timeout above this
ENTRIES_PER_READ = 100
TRIM_EVERY_S = 1.0
ENDS = b"events"  # the field of terminal events; any other is named after a job with new deltas

log = structlog.get_logger(__name__)


class Subscription:
    """The events of one job, in order, from the moment of subscribing."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def get(self, timeout_s: float | None) -> Event:
        """The next event; raises TimeoutError when none comes in time."""
        async with asyncio.timeout(timeout_s):
            return await self._events.get()


class ReplyStream:
    """Hands the events of one replica's stream to whoever subscribed to their jobs.

    `redis` is a client of its own that may block for BLOCK_S; `replica_id` is new in each process,
    so the stream holds nothing older than this reader.
    """

    def __init__(self, redis: Redis, keys: Keys, replica_id: str) -> None:
        self._redis = redis
        self._stream = keys.replies(replica_id)
        self._last_id: bytes = b"0"
        self._trimmed_id: bytes = b"0"
        self._trimmed_at = time.monotonic()
        self._subscriptions: dict[str, list[Subscription]] = {}

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Subscription]:
        """Subscribe before enqueueing, or the first events are missed."""
        subscription = Subscription()
        self._subscriptions.setdefault(job_id, []).append(subscription)
        try:
            yield subscription
        finally:
            remaining = self._subscriptions[job_id]
            remaining.remove(subscription)
            if not remaining:
                del self._subscriptions[job_id]

    async def run(self) -> None:
        """Read until cancelled; goes on where it was after Redis was away."""
        backoff = Backoff()
        while True:
            try:
                await self._read()
                await self._trim()
                backoff.reset()
            except UNREACHABLE as error:
                log.warning("replies interrupted", error=str(error) or type(error).__name__)
                await asyncio.sleep(backoff.next_s())

    async def _read(self) -> None:
        reply = await self._redis.xread(
            {self._stream: self._last_id}, count=ENTRIES_PER_READ, block=int(BLOCK_S * 1000)
        )
        for _, entries in reply:
            for entry_id, fields in entries:
                self._last_id = entry_id
                for name, data in fields.items():
                    self._deliver(name, data)

    def _deliver(self, name: bytes, data: bytes) -> None:
        try:
            events = self._decode(name, data)
        except ValueError as error:  # a worker of another version; record and log still tell
            log.error("unreadable reply", error=str(error))
            return
        for event in events:
            for subscription in self._subscriptions.get(event.job_id, ()):
                subscription.put(event)

    def _decode(self, name: bytes, data: bytes) -> Sequence[Event]:
        """Deltas of jobs that nobody asks for any more are not even looked at."""
        if name == ENDS:
            return decode_events(data)
        is_asked_for = name.partition(b" ")[0].decode() in self._subscriptions
        return [decode_stretch(name, data)] if is_asked_for else []

    async def _trim(self) -> None:
        """Results are kept no longer than needed: what was read is removed from the stream."""
        due = time.monotonic() - self._trimmed_at >= TRIM_EVERY_S
        if due and self._trimmed_id != self._last_id:
            await self._redis.xtrim(self._stream, minid=_after(self._last_id), approximate=False)
            self._trimmed_id = self._last_id
            self._trimmed_at = time.monotonic()


def _after(entry_id: bytes) -> str:
    milliseconds, sequence = entry_id.decode().split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
