"""Check the log of each call against the guarantees of the service."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shared.protocol import JobStatus
from tests.chaos.checks.expected_results import ExpectedResults
from tests.chaos.checks.stream_trace import contradictions, gaps, merged
from tests.chaos.harness.call_log import Attempt, CallLog, Observation, TransportError
from tests.chaos.harness.fault_timeline import FaultTimeline
from tests.chaos.scenarios.call_plans import CallerAction, CallKind

CANCELLED_CALL = 499  # status of a call whose job was cancelled
MAY_BE_CANCELLED = (CallerAction.CANCEL, CallerAction.RETRY, CallerAction.DISCONNECT)


@dataclass(frozen=True, slots=True)
class Violation:
    """A violated guarantee."""

    guarantee: str
    what: str
    call_number: int | None = None


@dataclass(frozen=True, slots=True)
class Guarantees:
    """Guarantees about single calls."""

    timeline: FaultTimeline  # faults excuse some errors
    expected: ExpectedResults

    def violations_in(self, log: CallLog) -> Iterator[Violation]:
        """Yield the violations that the log shows."""
        checks = (
            self._every_response_is_allowed,
            self._every_call_finishes,
            _one_key_is_one_job,
            _every_job_ends_once,
            _every_terminal_state_has_a_cause,
            self._results_are_correct,
            self._streams_are_complete,
        )
        for check in checks:
            guarantee = check.__name__.strip("_").replace("_", " ")
            for what in check(log):
                yield Violation(guarantee, what, log.plan.number)

    def _every_response_is_allowed(self, log: CallLog) -> Iterator[str]:
        for each in log.attempts:
            if (reason := self._objection(log, each)) is not None:
                yield f"{each}: {reason}"

    def _objection(self, log: CallLog, each: Attempt) -> str | None:
        replica, started, ended = each.replica, each.started, each.ended
        match each.status, each.error:
            case None, TransportError.TIMEOUT:
                return (
                    None
                    if self.timeline.machine_stalled(started, ended)
                    else "the call got no response"
                )
            case None, TransportError.REFUSED | TransportError.BROKEN:
                excused = self.timeline.was_down(replica, started, ended)
                return None if excused else "the replica was up"
            case 503, _:
                return self._objection_to_503(each)
            case 504, _:
                excused = bool(self.timeline.overlapping(started, ended)) or has_deadline(log)
                return None if excused else "no fault was active"
            case int() as status, _:
                return None if status in allowed_statuses(log) else "unexpected status"
            case _:
                return None

    def _objection_to_503(self, each: Attempt) -> str | None:
        where = each.replica, each.started, each.ended
        if self.timeline.machine_stalled(each.started, each.ended):
            return None
        if not (self.timeline.redis_was_unreachable(*where) or self.timeline.was_down(*where)):
            return "Redis was reachable and the replica up"
        return None if each.retry_after else "no Retry-After"

    def _every_call_finishes(self, log: CallLog) -> Iterator[str]:
        if log.failure is not None:
            yield log.failure

    def _results_are_correct(self, log: CallLog) -> Iterator[str]:
        for observation in log.observations:
            if observation.result is not None:
                for what in self.expected.differences(log.plan.request, observation.result):
                    yield f"{observation}: {what}"

    def _streams_are_complete(self, log: CallLog) -> Iterator[str]:
        for stream in log.streams:
            yield from (f"{stream}: {what}" for what in gaps(stream))
        for trace in merged(log.streams):
            yield from self.expected.differences_of_stream(log.plan.request, trace)
            if trace.is_whole and has_succeeded(log, trace.job_id):
                yield from self.expected.missing_deltas(log.plan.request, trace)
        yield from contradictions(log.streams)


def has_deadline(log: CallLog) -> bool:
    return log.plan.deadline_s is not None


def allowed_statuses(log: CallLog) -> set[int]:
    """Return the statuses that need no fault."""
    plan = log.plan
    if plan.kind is CallKind.INVALID:
        return {plan.invalid_request.status}
    allowed = {200, 202}
    match plan.action:
        case CallerAction.CONFLICT:
            allowed.add(409)
        case CallerAction.DEADLINE:
            allowed.add(429)  # the expected wait exceeds its deadline
        case CallerAction.CANCEL:
            allowed.add(CANCELLED_CALL)
    return allowed


def _one_key_is_one_job(log: CallLog) -> Iterator[str]:
    job_ids = [job_id for job_id in log.job_ids if job_id != log.retry_id]
    if log.plan.key is not None and len(job_ids) > 1:
        yield f"one key created the jobs {', '.join(job_ids)}"


def _every_job_ends_once(log: CallLog) -> Iterator[str]:
    for job_id in log.job_ids:
        observations = [each for each in log.observations if each.job_id == job_id]
        ends = [observation for observation in observations if observation.status.is_terminal]
        if not ends:
            yield f"job {job_id} has no terminal state"
            continue
        yield from (f"{a}, but {b}" for a, b in pairwise(ends) if not is_same_terminal_state(a, b))
        first_end = min(end.ended for end in ends)
        for observation in observations:
            if observation.started > first_end and not observation.status.is_terminal:
                yield f"{observation} after its terminal state"


def has_succeeded(log: CallLog, job_id: str) -> bool:
    return any(s.job_id == job_id and s.status is JobStatus.SUCCEEDED for s in log.observations)


def is_same_terminal_state(a: Observation, b: Observation) -> bool:
    return a.status is b.status and text_of(a.result) == text_of(b.result)


def text_of(result: dict[str, Any] | None) -> Any:
    return None if result is None else (result["Result"], result["usage"])


def _every_terminal_state_has_a_cause(log: CallLog) -> Iterator[str]:
    """Only callers cancel jobs, only deadlines expire them, and no job fails."""
    action = log.plan.action
    for observation in log.observations:
        match observation.status:
            case JobStatus.CANCELLED if observation.job_id == log.retry_id:
                yield f"{observation}, but no caller cancelled the retry"
            case JobStatus.CANCELLED if action not in MAY_BE_CANCELLED:
                yield f"{observation}, but no caller cancelled it"
            case JobStatus.EXPIRED if action is not CallerAction.DEADLINE:
                yield f"{observation}, but it had no deadline"
            case JobStatus.FAILED:
                yield f"{observation}"
            case JobStatus.SUCCEEDED if observation.result is None:
                yield f"{observation} without its result"
