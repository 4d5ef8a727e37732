"""How the calls and the event log of the client meet failures, without a service."""

from itertools import repeat
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent

from falconer.client import JobInfo, NotFound, Retries, Unavailable, WaitTimeout
from falconer.client.batch_calls import BatchCalls
from falconer.client.calls import Answer, ApiRequest, Call, Calls
from falconer.client.event_log import EventLog
from falconer.client.retries import Attempts

CUT = httpx.RemoteProtocolError("the connection was cut")
SILENT = httpx.ReadTimeout("no data")
RUNNING_BATCH = {
    "id": "1",
    "status": "in_progress",
    "endpoint": "/v1/completions",
    "completion_window": "24h",
    "input_file_id": "file-1",
    "created_at": 1,
    "expires_at": 2,
}
DELTA = '{"sequence": 0, "delta": "a"}'


class Clock:
    """A clock that tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fail(log: EventLog, clock: Clock, *, after_s: float, error: httpx.TransportError) -> None:
    """Accept the next connection of a log, and end it after some seconds."""
    assert log.next_request() is not None
    log.connection_opened()
    clock.now_s += after_s
    log.connection_ended(error)


def test_the_time_before_the_first_failure_does_not_count(clock: Clock) -> None:
    attempts = Attempts(Retries(total_s=60.0))
    clock.now_s += 600.0
    assert attempts.pause_s(Unavailable("no answer")) > 0
    clock.now_s += 59.0
    assert attempts.pause_s(Unavailable("no answer")) > 0
    clock.now_s += 1.0
    with pytest.raises(Unavailable):
        attempts.pause_s(Unavailable("no answer"))


def test_a_stream_resumes_after_a_long_time_in_the_queue(clock: Clock) -> None:
    log = EventLog("1", None, Retries())
    for after_s in (600.0, 3.0, 3.0):
        fail(log, clock, after_s=after_s, error=CUT)


def test_a_stream_survives_any_number_of_cuts_of_lasting_connections(clock: Clock) -> None:
    log = EventLog("1", None, Retries())
    for after_s in repeat(60.0, 50):
        fail(log, clock, after_s=after_s, error=CUT)


@pytest.mark.parametrize(("after_s", "error"), [(1.0, CUT), (45.0, SILENT)])
def test_a_stream_that_only_fails_ends(
    clock: Clock, after_s: float, error: httpx.TransportError
) -> None:
    log = EventLog("1", None, Retries())
    with pytest.raises(Unavailable):
        for _ in range(10):
            fail(log, clock, after_s=after_s, error=error)


@pytest.mark.parametrize("data", [DELTA, '{"status": "running"}'])
def test_each_event_of_a_stream_ends_the_row_of_failures(clock: Clock, data: str) -> None:
    log = EventLog("1", None, Retries(attempts=2))
    for index in range(20):
        log.take(ServerSentEvent(data=data, id=str(index)))
        fail(log, clock, after_s=1.0, error=CUT)


def wait(clock: Clock, timeout_s: float | None, *answers: Answer | None) -> JobInfo:
    """Run a wait that gets these answers, each None after the read timeout of its request."""
    call = Calls(Retries()).wait("1", timeout_s)
    request = next(call)
    try:
        for answer in answers:
            clock.now_s += request.pause_s + (request.read_timeout_s if answer is None else 0.0)
            request = call.send(SILENT if answer is None else answer)
    except StopIteration as end:
        job: JobInfo = end.value
        return job
    pytest.fail("the wait needs more answers")


def job_with(status: str) -> httpx.Response:
    body = {"id": "1", "status": status, "created_at": "2026-01-01T00:00:00Z"}
    return httpx.Response(200, json=body)


def test_a_wait_repeats_a_poll_without_an_answer(clock: Clock) -> None:
    job = wait(clock, None, None, None, job_with("running"), None, None, job_with("cancelled"))
    assert job.status == "cancelled"


def test_a_wait_ends_after_too_many_polls_without_an_answer(clock: Clock) -> None:
    with pytest.raises(Unavailable):
        wait(clock, None, *repeat(None, 10))


@pytest.mark.parametrize("timeout_s", [0.0, 1.0, 25.0, 31.0, 35.0, 75.0])
def test_a_wait_without_answers_ends_soon_after_its_timeout(clock: Clock, timeout_s: float) -> None:
    started = clock.now_s
    with pytest.raises(WaitTimeout, match=f"job 1 did not end within {timeout_s:g} s"):
        wait(clock, timeout_s, *repeat(None, 10))
    assert clock.now_s - started <= timeout_s + 1.0


def longest_phase_s(request: ApiRequest) -> float:
    return max(request.arguments["timeout"].as_dict().values())


def test_each_phase_of_a_poll_ends_soon_after_the_timeout(clock: Clock) -> None:
    request = next(Calls(Retries()).wait("1", 1.0))
    assert longest_phase_s(request) <= 2.0
    assert request.params == {"wait": "1.000"}


def test_each_look_at_a_batch_ends_soon_after_the_timeout(clock: Clock) -> None:
    call: Call[Any] = BatchCalls(Calls(Retries())).wait("1", 1.0)
    assert longest_phase_s(next(call)) <= 2.0
    clock.now_s += 0.5
    second = call.send(httpx.Response(200, json=RUNNING_BATCH))
    assert second.pause_s + longest_phase_s(second) <= 1.5
    clock.now_s += 1.5
    with pytest.raises(WaitTimeout):
        call.send(SILENT)


@pytest.mark.parametrize("answer", [CUT, httpx.Response(503)])
def test_a_failure_before_the_timeout_is_raised_as_it_is(clock: Clock, answer: Answer) -> None:
    with pytest.raises(Unavailable):
        wait(clock, 0.01, answer)


def test_a_missing_job_is_not_found_after_the_timeout_too(clock: Clock) -> None:
    with pytest.raises(NotFound):
        wait(clock, 0.0, httpx.Response(404, json={"detail": "no such job"}))
