"""What each caller was promised, checked against what it saw. Knows no process and no Redis."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from shared.protocol import JobStatus
from tests.chaos.expectations import Expectations
from tests.chaos.history import Mishap, Sight, Story, Try
from tests.chaos.plans import Kind, Whim
from tests.chaos.told import contradictions, gaps, merged
from tests.chaos.weather import Weather

CANCELLED_CALL = 499  # what a call gets whose job somebody cancelled
MAY_BE_CANCELLED = (Whim.CANCEL, Whim.RETRY, Whim.LEAVE)


@dataclass(frozen=True, slots=True)
class Violation:
    promise: str
    what: str
    call_number: int | None = None


@dataclass(frozen=True, slots=True)
class Promises:
    """`weather` says what excuses what; `expected` what each ask yields undisturbed."""

    weather: Weather
    expected: Expectations

    def broken_by(self, story: Story) -> Iterator[Violation]:
        """Every promise that the story shows broken."""
        checks = (
            self._every_answer_is_allowed,
            self._nobody_is_stuck,
            _one_key_is_one_job,
            _one_end_for_each_job,
            _ends_have_their_reasons,
            self._texts_are_right,
            self._streams_are_whole,
        )
        for check in checks:
            promise = check.__name__.strip("_").replace("_", " ")
            for what in check(story):
                yield Violation(promise, what, story.plan.number)

    def _every_answer_is_allowed(self, story: Story) -> Iterator[str]:
        for each in story.tries:
            if (reason := self._objection(story, each)) is not None:
                yield f"{each}: {reason}"

    def _objection(self, story: Story, each: Try) -> str | None:
        replica, began, ended = each.replica, each.began, each.ended
        match each.status, each.mishap:
            case None, Mishap.HUNG:
                return None if self.weather.stood_still(began, ended) else "a call hangs"
            case None, Mishap.REFUSED | Mishap.BROKEN:
                excused = self.weather.was_ending(replica, began, ended)
                return None if excused else "the replica was well"
            case 503, _:
                return self._objection_to_503(each)
            case 504, _:
                excused = bool(self.weather.during(began, ended)) or has_deadline(story)
                return None if excused else "nothing was broken"
            case int() as status, _:
                return None if status in allowed_statuses(story) else "not promised"
            case _:
                return None

    def _objection_to_503(self, each: Try) -> str | None:
        where = each.replica, each.began, each.ended
        if self.weather.stood_still(each.began, each.ended):
            return None
        if not (self.weather.redis_was_away(*where) or self.weather.was_ending(*where)):
            return "Redis was there and the replica well"
        return None if each.retry_after else "no Retry-After"

    def _nobody_is_stuck(self, story: Story) -> Iterator[str]:
        if story.failure is not None:
            yield story.failure

    def _texts_are_right(self, story: Story) -> Iterator[str]:
        for sight in story.sights:
            if sight.result is not None:
                for what in self.expected.differences(story.plan.ask, sight.result):
                    yield f"{sight}: {what}"

    def _streams_are_whole(self, story: Story) -> Iterator[str]:
        for stream in story.streams:
            yield from (f"{stream}: {what}" for what in gaps(stream))
        for told in merged(story.streams):
            yield from self.expected.differences_of_stream(story.plan.ask, told)
            if told.is_whole and has_succeeded(story, told.job_id):
                yield from self.expected.rest_untold(story.plan.ask, told)
        yield from contradictions(story.streams)


def has_deadline(story: Story) -> bool:
    return story.plan.deadline_s is not None


def allowed_statuses(story: Story) -> set[int]:
    """Beside 503 and 504, which need a fault."""
    plan = story.plan
    if plan.kind is Kind.BAD:
        return {plan.bad_ask.status}
    allowed = {200, 202}
    match plan.whim:
        case Whim.CONFLICT:
            allowed.add(409)
        case Whim.DEADLINE:
            allowed.add(429)  # it would wait for longer than it has
        case Whim.CANCEL:
            allowed.add(CANCELLED_CALL)
    return allowed


def _one_key_is_one_job(story: Story) -> Iterator[str]:
    job_ids = [job_id for job_id in story.job_ids if job_id != story.retry_id]
    if story.plan.key is not None and len(job_ids) > 1:
        yield f"one key made the jobs {', '.join(job_ids)}"


def _one_end_for_each_job(story: Story) -> Iterator[str]:
    for job_id in story.job_ids:
        sights = [sight for sight in story.sights if sight.job_id == job_id]
        ends = [sight for sight in sights if sight.status.is_terminal]
        if not ends:
            yield f"job {job_id} has no end"
            continue
        yield from (f"{a}, but {b}" for a, b in pairwise(ends) if not is_same_end(a, b))
        first_end = min(end.ended for end in ends)
        for sight in sights:
            if sight.began > first_end and not sight.status.is_terminal:
                yield f"{sight} after its end"


def has_succeeded(story: Story, job_id: str) -> bool:
    return any(s.job_id == job_id and s.status is JobStatus.SUCCEEDED for s in story.sights)


def is_same_end(a: Sight, b: Sight) -> bool:
    return a.status is b.status and text_of(a.result) == text_of(b.result)


def text_of(result: dict[str, Any] | None) -> Any:
    return None if result is None else (result["Result"], result["usage"])


def _ends_have_their_reasons(story: Story) -> Iterator[str]:
    """Nobody cancels but the caller, nothing expires without a deadline, nothing fails."""
    whim = story.plan.whim
    for sight in story.sights:
        match sight.status:
            case JobStatus.CANCELLED if sight.job_id == story.retry_id:
                yield f"{sight}, and nobody cancelled the retry"
            case JobStatus.CANCELLED if whim not in MAY_BE_CANCELLED:
                yield f"{sight}, and nobody cancelled it"
            case JobStatus.EXPIRED if whim is not Whim.DEADLINE:
                yield f"{sight}, and it had no deadline"
            case JobStatus.FAILED:
                yield f"{sight}"
            case JobStatus.SUCCEEDED if sight.result is None:
                yield f"{sight} without its result"
