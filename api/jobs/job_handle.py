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
from api.metrics import ModelMetrics
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
from shared.registry.worker_registry import LoadingWorker

POLL_S = 5.0  # without an event for so long, the record and the log are read
DEADLINE_MARGIN_S = 0.05  # so long after its deadline, a job has expired by the clock of Redis too


class JobHandle:
    """Receive the events of a job from its creation until `close`."""

    def __init__(
        self, redis: RedisServices, job_id: str, metrics: ModelMetrics | None = None
    ) -> None:
        """Receive the events, and count them in `metrics`.

        Only the request that submits the job passes `metrics`, so that each job counts once.
        """
        self.job_id = job_id
        self.record: JobRecord | None = None  # as last read while the job had not ended
        self.prompt_token_ids: list[int] | None = None  # of a job that this replica tokenized
        self.loading: LoadingWorker | None = None  # the next worker, while the job lacks one
        self.reused: str | None = None  # whose tokens the job takes: `running` or `finished`
        self._queue = redis.queue
        self._registries = {model.name: model.registry for model in redis.models}
        self._log = redis.token_log
        self._replica_id = redis.replica_id
        self._metrics = metrics
        self._may_have_missed_events = metrics is None  # the job existed before this handle
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

    def accepted(
        self, record: JobRecord, deadline_s: float | None, reused: str | None = None
    ) -> None:
        """Record that the job was enqueued, and that it expires `deadline_s` seconds from now."""
        self.record = record
        self.reused = reused
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
        timeout_s = 0.0 if self._may_have_missed_events else POLL_S
        while True:
            event = await self._next_event(timeout_s)
            timeout_s = POLL_S
            async for page in self._read_log(index, num_deltas_before(event)):
                if page is None:
                    yield None
                else:
                    yield self._observe_times(page)
                    index = page.end
            if event is None:
                yield None
                continue
            # Deltas behind a gap are dropped: Redis lost what precedes them, and the worker resends
            # both. `_read_log` has just yielded the whole log.
            deltas = event if isinstance(event, TokenDeltas) else deltas_without_log(event)
            if (news := deltas.since(index)) is not None:
                yield self._observe_times(news)
                index = news.end
            if not isinstance(event, TokenDeltas):
                yield event
                return

    async def watch_loading(self) -> None:
        """Read how far the next worker is, if the job waits for a worker."""
        record, self.loading = self.record, None
        registry = None if record is None else self._registries.get(record.model)
        if record is not None and record.lacks_worker and registry is not None:
            with suppress(ServiceUnavailable):  # the job and the wait continue
                async with redis_timeout():
                    self.loading = next(iter(await registry.loading()), None)

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
            return self._count_success(self.record.outcome)
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            event = await self._receive(min(left_s, self._poll_delay_s()))
            event = event or await self._outcome_of_record()
            if event is not None:
                return self._count_success(event)
        return None

    async def _receive(self, timeout_s: float) -> Event | None:
        with suppress(TimeoutError):
            return await self._subscription.get(timeout_s)
        return None

    def _poll_delay_s(self) -> float:
        """Return for how many seconds to wait for an event before the record is read.

        At the deadline the record is read at once: that read expires a job without a worker.
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
        if record is None:
            return lost_job(self.job_id)
        if record.outcome is None:
            self.record = record
        return record.outcome

    async def _read_log(self, start: int, end: float) -> AsyncIterator[TokenDeltas | None]:
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

    def _count_success(self, event: Event) -> Event:
        if self._metrics is not None and isinstance(event, Succeeded):
            self._metrics.record_succeeded(event)
        return event

    def _observe_times(self, news: TokenDeltas) -> TokenDeltas:
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


def num_deltas_before(event: Event | None) -> float:
    """Return the number of deltas that precede an event; infinite if only the log knows."""
    if isinstance(event, TokenDeltas):
        return event.index
    num_deltas = None if event is None else num_deltas_of(event)
    return math.inf if num_deltas is None else num_deltas


def num_deltas_of(outcome: Outcome) -> int | None:
    """Return the number of deltas of an ended job; None if only the log knows."""
    if not isinstance(outcome, Succeeded):
        return None
    if outcome.num_deltas is None:
        return len(outcome.result.sequences)
    return outcome.num_deltas


def deltas_without_log(outcome: Outcome) -> TokenDeltas:
    """Return the deltas of a job without a token log, one for each sequence; else no delta."""
    deltas = []
    if isinstance(outcome, Succeeded) and outcome.num_deltas is None:
        deltas = [
            Delta(sequence=index, text=sequence.text, token_ids=sequence.token_ids or [])
            for index, sequence in enumerate(outcome.result.sequences)
        ]
    return TokenDeltas(job_id=outcome.job_id, index=0, deltas=deltas)


def lost_job(job_id: str) -> Failed:
    """Return the outcome of a job whose record Redis no longer has."""
    error = JobError(message="Redis no longer has the job")
    return Failed(job_id=job_id, attempt=0, status=JobStatus.EXPIRED, error=error)
