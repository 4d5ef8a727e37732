"""How the calls and the event log of the client meet failures, without a service."""

from itertools import repeat

import httpx
import pytest
from httpx_sse import ServerSentEvent

from falconer.client import Retries, Unavailable
from falconer.client.event_log import EventLog
from falconer.client.retries import Attempts

CUT = httpx.RemoteProtocolError("the connection was cut")
SILENT = httpx.ReadTimeout("no data")
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
