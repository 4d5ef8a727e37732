"""The events of jobs on their way back: one Redis stream per api replica, read by one task.

Scripts write the stream: one entry with the new deltas of all jobs of a worker, one entry for each
terminal event. After a dropped connection the reader continues behind the last entry that it read.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.asyncio import Redis

from shared.protocol import Event, decode_events, decode_token_deltas
from shared.queue.keys import Keys
from shared.redis.retry import retry_until_reachable

BLOCK_S = 5.0  # the reader's client needs a longer socket timeout
ENTRIES_PER_READ = 100
TRIM_EVERY_S = 1.0
TERMINAL_EVENTS = b"events"  # field of an entry; every other field is named after a job

log = structlog.get_logger(__name__)


class Subscription:
    """The events of one job, in order, from the moment of subscribing."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def get(self, timeout_s: float | None) -> Event:
        """Return the next event. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            return await self._events.get()


class ReplyStream:
    """Read the stream of one replica and pass each event to the subscriptions of its job."""

    def __init__(self, redis: Redis, keys: Keys, replica_id: str) -> None:
        """Read with `redis`, a client of this reader only: its commands block for up to BLOCK_S.

        `replica_id` must be new in each process, so that the stream has no older entries.
        """
        self._redis = redis
        self._stream = keys.replies(replica_id)
        self._last_id: bytes = b"0"
        self._trimmed_id: bytes = b"0"
        self._trimmed_at = time.monotonic()
        self._subscriptions: dict[str, list[Subscription]] = {}

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Subscription]:
        """Subscribe to a job. The first events are lost unless this precedes the enqueue."""
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
        """Read until cancelled; continue after an outage of Redis."""
        while True:
            await retry_until_reachable(self._read_and_trim, log, "reply stream interrupted")

    async def _read_and_trim(self) -> None:
        await self._read()
        await self._trim()

    async def _read(self) -> None:
        reply = await self._redis.xread(
            {self._stream: self._last_id}, count=ENTRIES_PER_READ, block=int(BLOCK_S * 1000)
        )
        for _, entries in reply:
            for entry_id, fields in entries:
                self._last_id = entry_id
                for field, data in fields.items():
                    self._deliver(field, data)

    def _deliver(self, field: bytes, data: bytes) -> None:
        try:
            events = self._decode(field, data)
        except ValueError as error:
            # The job's record and log hold the event too.
            log.error("event unreadable: a worker of another version wrote it", error=str(error))
            return
        for event in events:
            for subscription in self._subscriptions.get(event.job_id, ()):
                subscription.put(event)

    def _decode(self, field: bytes, data: bytes) -> Sequence[Event]:
        """Decode one field of an entry, except the deltas of a job without a subscription."""
        if field == TERMINAL_EVENTS:
            return decode_events(data)
        job_id = field.decode()
        return [decode_token_deltas(job_id, data)] if job_id in self._subscriptions else []

    async def _trim(self) -> None:
        """Remove the entries that were read, so that no result outlives its ttl here."""
        due = time.monotonic() - self._trimmed_at >= TRIM_EVERY_S
        if due and self._trimmed_id != self._last_id:
            await self._redis.xtrim(self._stream, minid=_after(self._last_id), approximate=False)
            self._trimmed_id = self._last_id
            self._trimmed_at = time.monotonic()


def _after(entry_id: bytes) -> str:
    milliseconds, sequence = entry_id.decode().split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
