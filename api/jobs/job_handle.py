"""One call's hold on one job: its events as they come, its record when events fail to come."""

import math
import time
from contextlib import ExitStack, suppress

from api.jobs.redis_services import Backend, within_reach
from api.metrics import Metrics
from shared.errors import ServiceUnavailable
from shared.protocol import (
    Delta,
    Event,
    Failed,
    Finished,
    JobError,
    JobRecord,
    JobStatus,
    Outcome,
    TokenDeltas,
)

POLL_S = 5.0  # how often the record is read while no event comes
MARGIN_S = 0.05  # after its deadline a job has expired by the clock of Redis too


class JobHandle:
    """Subscribed from its creation until `close`; `record` is the job as it was then.

    With `metrics`, what it sees is counted: for the call that submitted the job, and no other.
    """

    def __init__(self, backend: Backend, job_id: str, metrics: Metrics | None = None) -> None:
        self.job_id = job_id
        self.record: JobRecord | None = None
        self._queue = backend.queue
        self._log = backend.token_log
        self._replica_id = backend.replica_id
        self._metrics = metrics
        self._opened_at = time.perf_counter()
        self._deadline: float | None = None
        self._failure: Failed | None = None  # heard, and not confirmed yet
        self._stack = ExitStack()
        self._subscription = self._stack.enter_context(backend.replies.subscribe(job_id))

    def __enter__(self) -> "JobHandle":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    @property
    def first_event_id(self) -> int:
        """Of the job's latest life when this ticket was made: those of earlier ones were told."""
        return 0 if self.record is None else self.record.first_event_id

    def accepted(self, record: JobRecord, deadline_s: float | None) -> None:
        """The job is in the queue, as in `record`; it expires in `deadline_s` from now."""
        self.record = record
        if deadline_s is not None:
            self._deadline = time.monotonic() + deadline_s + MARGIN_S

    async def outcome(self, timeout_s: float) -> Outcome | None:
        """How the job ended; None if it has not in this time."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            event = await self.next_event(left_s)
            if isinstance(event, Finished | Failed):
                return event
        return None

    async def next_event(self, timeout_s: float) -> Event | None:
        """The next event, or the outcome out of the record should the event be lost."""
        if (known := as_outcome(self.record)) is not None:
            return self._noted(known)
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            event = await self._heard(min(left_s, self._quiet_s()))
            if isinstance(event, Failed):
                self._failure = event
            if event is None or self._is_doubtful(event):
                event = await self._outcome_of_record()
            if event is not None:
                return self._noted(event)
        return None

    def _is_doubtful(self, event: Event) -> bool:
        """An end that a retry may have undone, or tokens of another life of the job: late in
        coming, or this life is over. (Workers of older versions name none.)"""
        if isinstance(event, TokenDeltas):
            return event.first_event_id != self.first_event_id
        return isinstance(event, Failed)

    async def _heard(self, timeout_s: float) -> Event | None:
        with suppress(TimeoutError):
            return await self._subscription.get(timeout_s)
        return None

    def _quiet_s(self) -> float:
        """How long to wait for an event before the record is read: not beyond the deadline.

        Where no worker has the job by then, reading its record is what ends it.
        """
        left_s = math.inf if self._deadline is None else self._deadline - time.monotonic()
        return left_s if 0 < left_s < POLL_S else POLL_S

    async def _outcome_of_record(self) -> Outcome | None:
        """Watches anew: Redis may have forgotten that this replica does.

        It has the last word on failures: one that was heard may be the end of an earlier life, late
        in coming, of a job that was retried since. A life that a later one has followed is over, by
        what was heard. Without Redis nothing is said until it is back.
        """
        try:
            async with within_reach():
                record = await self._queue.watch(self.job_id, self._replica_id)
        except ServiceUnavailable:
            return None  # the job is safe; the wait goes on
        if record is None or record.first_event_id > self.first_event_id:
            return self._failure or gone(self.job_id)
        self._failure = None
        return as_outcome(record)

    def _noted(self, event: Event) -> Event:
        if self._metrics is not None and isinstance(event, Finished):
            self._metrics.note_finished(event)
        return event

    def note_first_token(self) -> None:
        """The caller is about to be told the first piece of text."""
        if self._metrics is not None:
            self._metrics.first_token.observe(time.perf_counter() - self._opened_at)

    def note_gap(self, seconds: float) -> None:
        """The caller is about to be told another piece, so long after the one before."""
        if self._metrics is not None:
            self._metrics.inter_token.observe(seconds)

    @property
    def is_submitter(self) -> bool:
        """Whether this call brought the job: then no event of it can have been missed."""
        return self._metrics is not None

    async def logged(self, start: int) -> list[Delta]:
        """A page of the log, empty once the job was retried; raises ServiceUnavailable."""
        async with within_reach():
            return await self._log.read_life(self.job_id, self.first_event_id, start)

    async def log_length(self) -> int:
        """Raises ServiceUnavailable."""
        async with within_reach():
            return await self._log.length(self.job_id)


def gone(job_id: str) -> Failed:
    error = JobError(message="the job is gone: Redis no longer has it, or it was retried")
    return Failed(job_id=job_id, attempt=0, status=JobStatus.EXPIRED, error=error)


def as_outcome(record: JobRecord | None) -> Outcome | None:
    """The terminal event that a finished job's record amounts to."""
    if record is None or not record.status.is_terminal:
        return None
    if record.result is None or record.batch is None:
        unknown = JobError(message=f"the job has {record.status} and its result is gone")
        return Failed(
            job_id=record.id,
            attempt=record.attempts,
            status=record.status,
            error=record.error or unknown,
            batch=record.batch,
        )
    started_ms = record.started_ms or record.created_ms
    return Finished(
        job_id=record.id,
        attempt=record.attempts,
        result=record.result,
        batch=record.batch,
        queue_ms=started_ms - (record.queued_ms or record.created_ms),
        run_ms=(record.finished_ms or started_ms) - started_ms,
        num_deltas=record.num_deltas,
    )
