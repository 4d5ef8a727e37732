"""A request's handle on one job: its events without a gap or a repeat, and its outcome.

Events arrive on the reply stream of this replica. Deltas that did not arrive (the client came late,
Redis lost an entry) are read from the job's token log, and a lost terminal event from its record.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

from api.jobs.redis_services import RedisServices, redis_timeout
from api.metrics import Metrics
from shared.errors import ServiceUnavailable
from shared.protocol import (
    Delta,
    Event,
    Failed,
    JobError,
    JobRecord,
    JobStatus,
    Outcome,
    Succeeded,
    TokenDeltas,
)
from shared.queue.token_log import PAGE
from shared.redis.retry import backoff_delays

POLL_S = 5.0  # without an event for so long, the record and the log are read
DEADLINE_MARGIN_S = 0.05  # so long after its deadline, a job has expired by the clock of Redis too


class JobHandle:
    """Receive the events of a job from its creation until `close`."""

    def __init__(self, redis: RedisServices, job_id: str, metrics: Metrics | None = None) -> None:
        """Receive the events; count them in `metrics`, which only the submitting request passes."""
        self.job_id = job_id
        self.record: JobRecord | None = None  # as it was when the handle was made
        self._queue = redis.queue
        self._log = redis.token_log
        self._replica_id = redis.replica_id
        self._metrics = metrics
        self._opened_at = time.perf_counter()
        self._last_delta_at: float | None = None
        self._deadline: float | None = None
        self._stack = ExitStack()
        self._subscription = self._stack.enter_context(redis.replies.subscribe(job_id))

    def __enter__(self) -> "JobHandle":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def accepted(self, record: JobRecord, deadline_s: float | None) -> None:
        """Note that the job was enqueued, and that it expires `deadline_s` seconds from now."""
        self.record = record
        if deadline_s is not None:
            self._deadline = time.monotonic() + deadline_s + DEADLINE_MARGIN_S

    # -- events and outcome -----------------------------------------------------------------------

    async def outcome(self, timeout_s: float) -> Outcome | None:
        """Return how the job ended; None if it has not ended within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            event = await self._next_event(left_s)
            if event is not None and not isinstance(event, TokenDeltas):
                return event
        return None

    async def events(self, start: int = 0) -> AsyncIterator[Event | None]:
        """Yield the job's deltas from index `start` on, each once and in order, then its outcome.

        Yields None about every POLL_S while there is no news.
        """
        index = start  # of the next delta
        # Only the request that submits the job cannot have missed an event before this.
        timeout_s = 0.0 if self._metrics is None else POLL_S
        while True:
            event = await self._next_event(timeout_s)
            timeout_s = POLL_S
            async for page in self._logged(index, first_index(event)):
                if page is None:
                    yield None
                else:
                    yield self._timed(page)
                    index = page.end
            if event is None:
                yield None
                continue
            # Deltas behind a gap are dropped: Redis lost what precedes them, and the worker resends
            # both. `_logged` has just read all that the log has.
            deltas = event if isinstance(event, TokenDeltas) else sequences_of(event)
            if (news := deltas.since(index)) is not None:
                yield self._timed(news)
                index = news.end
            if not isinstance(event, TokenDeltas):
                yield event
                return

    async def ended_before(self, index: int) -> bool:
        """Return whether the terminal event's index is below `index`. Raises ServiceUnavailable."""
        outcome = None if self.record is None else self.record.outcome
        if outcome is None or index == 0:
            return False
        num_deltas = num_deltas_of(outcome)
        if num_deltas is None:
            async with redis_timeout():
                num_deltas = await self._log.length(self.job_id)
        return index > num_deltas

    async def _next_event(self, timeout_s: float) -> Event | None:
        """Return the next event, or the outcome in the record if its event was lost."""
        if self.record is not None and self.record.outcome is not None:
            return self._counted(self.record.outcome)
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            event = await self._received(min(left_s, self._silence_s()))
            event = event or await self._outcome_of_record()
            if event is not None:
                return self._counted(event)
        return None

    async def _received(self, timeout_s: float) -> Event | None:
        with suppress(TimeoutError):
            return await self._subscription.get(timeout_s)
        return None

    def _silence_s(self) -> float:
        """Return after how long without an event to read the record: at the deadline at the latest.

        Reading the record of an overdue job that no worker runs is what expires it.
        """
        left_s = math.inf if self._deadline is None else self._deadline - time.monotonic()
        return left_s if 0 < left_s < POLL_S else POLL_S

    async def _outcome_of_record(self) -> Outcome | None:
        """Read the outcome, and watch the job again: Redis may have lost the watcher."""
        try:
            async with redis_timeout():
                record = await self._queue.watch(self.job_id, self._replica_id)
        except ServiceUnavailable:
            return None  # the job and the wait continue
        return lost(self.job_id) if record is None else record.outcome

    async def _logged(self, start: int, end: float) -> AsyncIterator[TokenDeltas | None]:
        """Yield the log from `start` to `end` or beyond, None while Redis is unreachable."""
        delays = backoff_delays()
        while start < end:
            try:
                async with redis_timeout():
                    deltas = await self._log.read(self.job_id, start)
            except ServiceUnavailable:
                yield None
                await asyncio.sleep(next(delays))
                continue
            if deltas:
                yield TokenDeltas(job_id=self.job_id, index=start, deltas=deltas)
            if len(deltas) < PAGE:
                return
            start += len(deltas)

    # -- metrics -------------------------------------------------------------------------------

    def _counted(self, event: Event) -> Event:
        if self._metrics is not None and isinstance(event, Succeeded):
            self._metrics.note_succeeded(event)
        return event

    def _timed(self, news: TokenDeltas) -> TokenDeltas:
        """Observe when the deltas of a streamed response are sent."""
        if self._metrics is not None:
            for _ in news.deltas:
                now = time.perf_counter()
                if self._last_delta_at is None:
                    self._metrics.first_token.observe(now - self._opened_at)
                else:
                    self._metrics.inter_token.observe(now - self._last_delta_at)
                self._last_delta_at = now
        return news


def first_index(event: Event | None) -> float:
    """Return the number of deltas that precede an event; infinite if only the log knows."""
    if isinstance(event, TokenDeltas):
        return event.index
    num_deltas = None if event is None else num_deltas_of(event)
    return math.inf if num_deltas is None else num_deltas


def num_deltas_of(outcome: Outcome) -> int | None:
    """Return the number of deltas of an ended job; None if only the log knows."""
    if not isinstance(outcome, Succeeded):
        return None
    return len(sequences_of(outcome).deltas) if outcome.num_deltas is None else outcome.num_deltas


def sequences_of(outcome: Outcome) -> TokenDeltas:
    """Return one delta for each sequence of a job without a token log; else no delta."""
    deltas = []
    if isinstance(outcome, Succeeded) and outcome.num_deltas is None:
        deltas = [
            Delta(sequence=index, text=sequence.text, token_ids=sequence.token_ids or [])
            for index, sequence in enumerate(outcome.result.sequences)
        ]
    return TokenDeltas(job_id=outcome.job_id, index=0, deltas=deltas)


def lost(job_id: str) -> Failed:
    error = JobError(message="Redis no longer has the job")
    return Failed(job_id=job_id, attempt=0, status=JobStatus.EXPIRED, error=error)
