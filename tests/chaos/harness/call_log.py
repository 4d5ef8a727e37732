"""Logs of a run's calls as plain data: HTTP attempts, observed job states and streams.

All times are monotonic seconds of the harness.
"""

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shared.protocol import JobStatus
from tests.chaos.scenarios.call_plans import CallPlan


class TransportError(StrEnum):
    """Reason why an attempt has no response."""

    REFUSED = "connection refused"
    BROKEN = "connection broken"
    TIMEOUT = "no response within its timeout"
    DISCONNECTED = "the caller disconnected"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP request, with either a status or a transport error."""

    replica: str
    what: str  # method and path
    started: float
    ended: float
    status: int | None = None
    error: TransportError | None = None
    retry_after: str | None = None
    detail: str = ""

    def __str__(self) -> str:
        result = self.status if self.status is not None else self.error
        took_s = self.ended - self.started
        return f"{self.what} at {self.replica}: {result} {self.detail} ({took_s:.2f} s)"


@dataclass(frozen=True, slots=True)
class Observation:
    """State of a job as a response showed it."""

    job_id: str
    status: JobStatus
    started: float  # of the request
    ended: float  # of the response
    via: str
    result: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.via} shows {self.job_id[:8]} {self.status}"


@dataclass(frozen=True, slots=True)
class Delta:
    """One token event of a stream."""

    index: int
    sequence: int
    text: str
    token_ids: tuple[int, ...] | None

    def agrees_with(self, other: "Delta") -> bool:
        """Return whether both are the same token; only some streams contain token ids."""
        if self.token_ids is not None and other.token_ids is not None:
            return self == other
        return (self.sequence, self.text) == (other.sequence, other.text)


@dataclass(slots=True)
class StreamConnection:
    """Events that one connection received."""

    job_id: str
    via: str
    after: int | None  # the Last-Event-ID that the reader sent
    deltas: list[Delta] = field(default_factory=list)
    end_index: int | None = None  # id of the terminal event, if received

    @property
    def last_index(self) -> int | None:
        """Return the event id from which the next connection resumes."""
        return self.deltas[-1].index if self.deltas else self.after

    def __str__(self) -> str:
        ids = [delta.index for delta in self.deltas]
        events = f"ids {ids[0]}..{ids[-1]}" if ids else "nothing"
        end = "" if self.end_index is None else f", end {self.end_index}"
        return f"{self.via} after {self.after}: {events}{end}"


@dataclass(slots=True)
class CallLog:
    """Everything that one call sent and received."""

    plan: CallPlan
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    streams: list[StreamConnection] = field(default_factory=list)
    is_outcome_unknown: bool = False  # a transport error hid the response
    failure: str | None = None  # why the caller gave up
    disconnected_at: float | None = None
    retry_id: str | None = None  # the job that retries the first one

    @property
    def job_ids(self) -> list[str]:
        """Return the ids of the call's jobs without repeats."""
        observed = [observation.job_id for observation in self.observations]
        streamed = [stream.job_id for stream in self.streams]
        return list(dict.fromkeys(observed + streamed))

    @property
    def end(self) -> Observation | None:
        """Return the first observed terminal state of the call's job, or of its retry."""
        ends = (
            each
            for each in self.observations
            if each.status.is_terminal and self.retry_id in (None, each.job_id)
        )
        return next(ends, None)

    def lines(self) -> list[str]:
        """Return the log in order of time, to diagnose a violation."""
        events: list[tuple[float, str]] = [
            *((each.started, str(each)) for each in self.attempts),
            *((each.ended, str(each)) for each in self.observations),
        ]
        lines = [f"+{at - self.started:7.2f} s  {what}" for at, what in sorted(events)]
        return [f"call {self.plan.number}: {self.plan}", *lines, *map(str, self.streams)]


@dataclass(slots=True)
class RunLog:
    logs: list[CallLog] = field(default_factory=list)

    def open(self, plan: CallPlan) -> CallLog:
        log = CallLog(plan)
        self.logs.append(log)
        return log
