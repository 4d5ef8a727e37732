"""A short run of the harness, and tests that it detects violations."""

import time
from pathlib import Path

import pytest

from shared.protocol import JobStatus
from tests.chaos.checks.expected_results import ExpectedResults
from tests.chaos.checks.guarantees import Guarantees
from tests.chaos.harness.call_log import (
    Attempt,
    CallLog,
    Delta,
    Observation,
    StreamConnection,
    TransportError,
)
from tests.chaos.harness.fault_timeline import FaultTimeline
from tests.chaos.run import RunSettings, run
from tests.chaos.scenarios.call_plans import CallerAction, CallKind, CallPlan, draw_plans
from tests.chaos.scenarios.fault_schedule import Fault, FaultKind, Fleet, draw_schedule
from tests.chaos.scenarios.requests import draw_requests

FLEET = Fleet(num_apis=2, num_workers=2, lease_s=2.0)
REQUESTS = draw_requests(1, 10)
TEXT = " one two"


@pytest.mark.integration
async def test_a_short_run_violates_no_guarantee(tmp_path: Path) -> None:
    """The seed draws kills of a worker, a replica and Redis, a frozen worker and a black hole."""
    settings = RunSettings(seed=1283, num_jobs=60, num_faults=5, concurrency=12, fleet=FLEET)
    outcome = await run(settings, tmp_path)
    assert [f"{violation}" for violation in outcome.violations] == []
    assert len(outcome.timeline.intervals) == 5
    assert sum(log.end is not None for log in outcome.run_log.logs) > 40


def test_a_seed_draws_the_same_run_every_time() -> None:
    for seed in (1, 2):
        requests = draw_requests(seed, 10)
        assert requests == draw_requests(seed, 10)
        assert draw_plans(seed, 50, requests) == draw_plans(seed, 50, requests)
        assert draw_schedule(seed, 20, 50, FLEET) == draw_schedule(seed, 20, 50, FLEET)
    assert draw_requests(1, 10) != draw_requests(2, 10)


def test_a_schedule_of_eleven_faults_has_every_kind() -> None:
    schedule = draw_schedule(3, 11, 100, FLEET)
    assert {fault.kind for fault in schedule} == set(FaultKind)
    positions = [fault.after_jobs for fault in schedule]
    assert positions == sorted(positions)


def make_plan(
    kind: CallKind = CallKind.STREAM, action: CallerAction = CallerAction.NONE
) -> CallPlan:
    plans = draw_plans(1, 500, [request for request in REQUESTS if not request.is_beam])
    return next(plan for plan in plans if (plan.kind, plan.action) == (kind, action))


def make_result(text: str = TEXT) -> dict[str, object]:
    sequence = {"text": text, "finish_reason": "length", "token_count": 2, "token_ids": [1, 2]}
    return {"Result": text, "usage": {"total_tokens": 4}, "seed": 1, "sequences": [sequence]}


def make_log(plan: CallPlan | None = None) -> CallLog:
    """Return the log of a stream with two tokens and a terminal event, without violations."""
    log = CallLog(plan or make_plan())
    started = log.started
    log.attempts.append(Attempt("api-1", "POST /chat", started, started + 1, status=200))
    deltas = [Delta(0, 0, " one", (1,)), Delta(1, 0, " two", (2,))]
    log.streams.append(StreamConnection("j", "POST /chat", None, deltas, end_index=2))
    observe(log, JobStatus.SUCCEEDED, at=started + 1, result=make_result())
    return log


def observe(
    log: CallLog,
    status: JobStatus,
    *,
    at: float,
    result: dict[str, object] | None = None,
    job_id: str = "j",
) -> None:
    log.observations.append(Observation(job_id, status, at, at, "GET", result))


def violations(log: CallLog, timeline: FaultTimeline | None = None) -> list[str]:
    expected = ExpectedResults({log.plan.request.name: make_result()})
    return [
        found.what for found in Guarantees(timeline or FaultTimeline(), expected).violations_in(log)
    ]


def test_a_correct_log_has_no_violation() -> None:
    assert violations(make_log()) == []


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        ((0, 2), "id 2 where 1 was expected"),
        ((0, 0), "id 0 where 1 was expected"),
        ((1, 2), "id 1 where 0"),
    ],
)
def test_gaps_and_repeats_in_a_stream_are_violations(indices: tuple[int, int], said: str) -> None:
    log = make_log()
    texts = (" one", " two")
    log.streams[0].deltas = [
        Delta(index, 0, text, (1,)) for index, text in zip(indices, texts, strict=True)
    ]
    assert any(said in what for what in violations(log))


def test_a_resumed_stream_must_continue_after_the_last_event() -> None:
    log = make_log()
    log.streams[0].end_index = None
    first, second = log.streams[0].deltas
    log.streams[0].deltas = [first]
    log.streams.append(StreamConnection("j", "GET", after=0, deltas=[second], end_index=2))
    assert violations(log) == []
    log.streams[1].deltas = []
    assert any("was expected" in what for what in violations(log))


def test_a_different_text_than_without_faults_is_a_violation() -> None:
    log = make_log()
    observe(log, JobStatus.SUCCEEDED, at=log.started + 2, result=make_result(" else"))
    assert any("expected" in what for what in violations(log))


def test_two_terminal_states_of_one_job_are_a_violation() -> None:
    log = make_log(make_plan(action=CallerAction.CANCEL))
    observe(log, JobStatus.CANCELLED, at=log.started + 2)
    assert any("but" in what for what in violations(log))


def make_retried(kind: CallKind) -> CallLog:
    """Return the log of a job that its caller cancelled, and of its retry without an end."""
    log = CallLog(make_plan(kind, CallerAction.RETRY))
    observe(log, JobStatus.CANCELLED, at=log.started + 1)
    log.retry_id = "retry"
    observe(log, JobStatus.QUEUED, at=log.started + 2, job_id="retry")
    return log


def test_a_retry_is_a_new_job_with_exactly_one_terminal_event() -> None:
    log = make_retried(CallKind.POLL)
    assert violations(log) == ["job retry has no terminal state"]
    at = log.started + 3
    observe(log, JobStatus.SUCCEEDED, at=at, result=make_result(), job_id="retry")
    assert violations(log) == []
    observe(log, JobStatus.CANCELLED, at=at + 1, job_id="retry")
    assert any("but" in what for what in violations(log))
    assert any("no caller cancelled the retry" in what for what in violations(log))


def test_a_retried_job_keeps_its_terminal_state() -> None:
    log = make_retried(CallKind.POLL)
    observe(log, JobStatus.SUCCEEDED, at=log.started + 3, result=make_result(), job_id="retry")
    observe(log, JobStatus.QUEUED, at=log.started + 4)
    assert any("after its terminal state" in what for what in violations(log))


def test_the_events_of_a_retry_count_from_0() -> None:
    log = make_retried(CallKind.EVENTS)
    first = [Delta(0, 0, " one", (1,))]
    log.streams.append(StreamConnection("j", "GET", None, first, end_index=1))
    deltas = [Delta(0, 0, " one", (1,)), Delta(1, 0, " two", (2,))]
    log.streams.append(StreamConnection("retry", "GET", None, deltas, end_index=2))
    observe(log, JobStatus.SUCCEEDED, at=log.started + 3, result=make_result(), job_id="retry")
    assert violations(log) == []
    log.streams[1].deltas = deltas[1:]
    assert any("id 1 where 0 was expected" in what for what in violations(log))


def test_a_state_after_the_terminal_state_is_a_violation() -> None:
    log = make_log()
    observe(log, JobStatus.RUNNING, at=log.started + 2)
    assert any("after its terminal state" in what for what in violations(log))


def test_a_job_without_a_terminal_state_is_a_violation() -> None:
    log = make_log()
    log.observations.clear()
    assert any("has no terminal state" in what for what in violations(log))


def test_a_cancellation_without_a_cause_is_a_violation() -> None:
    log = make_log()
    log.observations.clear()
    observe(log, JobStatus.CANCELLED, at=log.started + 1)
    assert any("no caller cancelled" in what for what in violations(log))


def failing(
    *,
    status: int | None = None,
    error: TransportError | None = None,
    retry_after: str | None = None,
) -> CallLog:
    log = make_log()
    now = log.started
    log.attempts.append(Attempt("api-1", "GET /jobs/j", now, now + 1, status, error, retry_after))
    return log


def test_a_fault_excuses_only_errors_of_its_own_replica() -> None:
    own = Fault(0, FaultKind.CUT, "api-1", after_jobs=0, lasts_s=1, drops=False)
    other = Fault(1, FaultKind.CUT, "api-2", after_jobs=0, lasts_s=1, drops=False)
    for fault, num_violations in ((own, 0), (other, 1)):
        log, timeline = failing(status=503, retry_after="1"), FaultTimeline()
        with timeline.record(fault):
            assert len(violations(log, timeline)) == num_violations


@pytest.mark.parametrize("status", [500, 503, 504, 404, 422, 429])
def test_an_error_status_without_a_fault_is_a_violation(status: int) -> None:
    assert len(violations(failing(status=status, retry_after="1"))) == 1


@pytest.mark.parametrize(
    "error", [TransportError.BROKEN, TransportError.REFUSED, TransportError.TIMEOUT]
)
def test_a_transport_error_without_a_fault_is_a_violation(error: TransportError) -> None:
    assert len(violations(failing(error=error))) == 1


def test_a_503_must_have_retry_after() -> None:
    timeline = FaultTimeline()
    fault = Fault(0, FaultKind.REDIS_KILL, "redis", after_jobs=0, lasts_s=1, drops=False)
    with timeline.record(fault):
        log = failing(status=503)
        assert any("no Retry-After" in what for what in violations(log, timeline))


def test_two_jobs_of_one_key_are_a_violation() -> None:
    plan = next(
        p for p in draw_plans(1, 500, REQUESTS) if p.key is not None and not p.request.is_beam
    )
    log = make_log(plan)
    now = time.monotonic()
    log.observations.append(Observation("k", JobStatus.SUCCEEDED, now, now, "GET", make_result()))
    assert any("one key created the jobs" in what for what in violations(log))


def test_calls_have_only_actions_of_their_kind() -> None:
    for plan in draw_plans(5, 2000, REQUESTS):
        if plan.action in (CallerAction.REPEAT, CallerAction.CONFLICT):
            assert plan.key is not None
        if plan.action is CallerAction.DISCONNECT:
            assert plan.kind in (CallKind.SYNC, CallKind.STREAM) and plan.key is None
        assert plan.kind is not CallKind.INVALID or plan.action is CallerAction.NONE


def test_invalid_requests_are_extra_to_the_calls_that_submit_jobs() -> None:
    plans = draw_plans(6, 300, REQUESTS)
    assert sum(plan.submits_job for plan in plans) == 300
    assert len(plans) > 300
