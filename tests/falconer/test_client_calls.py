"""The calls and the event log of the client, without I/O: which request follows which answer."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import msgspec
import pytest
from httpx_sse import ServerSentEvent

from falconer import ApiError, Retries, TooManyRequests, Unavailable, WaitTimeout
from falconer.client.calls import Answer, Call, Calls, new_key
from falconer.client.event_log import EventLog

JOB = {"id": "a1", "status": "queued", "created_at": "2026-11-30T10:00:00Z"}
DONE = JOB | {"status": "succeeded"}
BROKEN = httpx.ReadError("broken")


def answer(status: int, body: Any = JOB, **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=msgspec.json.encode(body), headers=fields)


def refusal(status: int, **headers: str) -> httpx.Response:
    return answer(status, {"detail": "not now"}, **headers)


def pauses(call: Call[Any], *answers: Answer) -> list[float]:
    """Return the pause before each request of a call that gets these answers."""
    found = [next(call).pause_s]
    try:
        for each in answers:
            found.append(call.send(each).pause_s)
    except StopIteration:
        pass
    return found


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_the_pause_before_a_repeat_is_retry_after(status: int) -> None:
    call = Calls(Retries()).get("a1")
    assert pauses(call, refusal(status, Retry_After="7"), answer(200)) == [0.0, 7.0]


def test_retry_after_may_be_a_date() -> None:
    due = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    [_, pause_s] = pauses(Calls(Retries()).get("a1"), refusal(503, Retry_After=due))
    assert 0 < pause_s <= 40
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=40), usegmt=True)
    assert pauses(Calls(Retries()).get("a1"), refusal(503, Retry_After=past)) == [0.0, 0.0]


def test_pauses_grow_without_retry_after_until_the_last_attempt() -> None:
    call = Calls(Retries(attempts=4)).get("a1")
    first, *rest = pauses(call, BROKEN, refusal(502, Retry_After="soon"), refusal(504))
    assert first == 0.0
    for pause_s, most_s in zip(rest, (0.1, 0.2, 0.4), strict=True):
        assert most_s / 2 <= pause_s <= most_s
    with pytest.raises(Unavailable, match="broken"):
        call.send(BROKEN)


def test_a_pause_beyond_the_total_time_raises_the_error_at_once() -> None:
    call = Calls(Retries(total_s=30)).get("a1")
    with pytest.raises(TooManyRequests) as caught:
        pauses(call, refusal(429, Retry_After="31"))
    assert (caught.value.retry_after, caught.value.message) == (31.0, "not now")


@pytest.mark.parametrize("status", [301, 400, 401, 404, 409, 413, 422, 500])
def test_other_statuses_are_not_repeated(status: int) -> None:
    with pytest.raises(ApiError) as caught:
        pauses(Calls(Retries()).get("a1"), refusal(status, Retry_After="1"))
    assert caught.value.status == status


def test_repeats_of_a_submission_have_the_same_key() -> None:
    call = Calls(Retries()).submit({"prompt": "Hello"}, new_key())
    first, second = next(call), call.send(BROKEN)
    assert first.headers == second.headers
    assert first.headers["Idempotency-Key"]
    other = next(Calls(Retries()).submit({"prompt": "Hello"}, new_key()))
    assert other.headers != first.headers
    assert next(Calls(Retries()).submit({}, "mine")).headers["Idempotency-Key"] == "mine"


def test_a_wait_polls_again_and_pauses_after_an_early_answer() -> None:
    """A stopping replica answers at once."""
    call = Calls(Retries()).wait("a1", None)
    assert pauses(call, answer(200), answer(200), answer(200, DONE)) == [0.0, 0.5, 0.5]


def test_a_wait_repeats_no_longer_than_its_timeout() -> None:
    with pytest.raises(Unavailable):
        pauses(Calls(Retries()).wait("a1", 2.0), refusal(503, Retry_After="3"))
    with pytest.raises(WaitTimeout, match="job a1 did not end within 0 s"):
        pauses(Calls(Retries()).wait("a1", 0.0), answer(200))


def test_a_page_of_a_proxy_is_quoted_in_the_error() -> None:
    page = httpx.Response(502, html="<h1>Bad Gateway</h1>")
    call = Calls(Retries(attempts=1)).get("a1")
    with pytest.raises(Unavailable, match="HTTP 502 Bad Gateway: <h1>Bad Gateway</h1>"):
        pauses(call, page)


def event(index: int | None, **data: Any) -> ServerSentEvent:
    event_id = "" if index is None else str(index)
    return ServerSentEvent(data=msgspec.json.encode(data).decode(), id=event_id)


def resumes_after(log: EventLog) -> str | None:
    request = log.next_request()
    assert request is not None
    return request.headers.get("Last-Event-ID")


def test_the_log_resumes_after_its_last_event_and_takes_each_once() -> None:
    log = EventLog("a1", None, Retries(attempts=2))
    assert resumes_after(log) is None
    for index in range(3):  # a new event starts the attempts again
        delta = log.take(event(index, sequence=0, delta="x"))
        assert delta is not None and delta.index == index
        log.connection_ended(BROKEN)
        assert resumes_after(log) == str(index)
        assert log.take(event(index, sequence=0, delta="x")) is None
    with pytest.raises(Unavailable):
        log.connection_ended(BROKEN)


def test_the_log_ignores_comments_and_other_kinds_of_events() -> None:
    log = EventLog("a1", None, Retries())
    assert log.take(ServerSentEvent(data="", id="4")) is None  # a comment behind an event
    assert log.take(ServerSentEvent(event="status", data='{"status": "queued"}')) is None
    assert resumes_after(log) is None


def test_the_log_is_complete_after_the_terminal_event_only() -> None:
    log = EventLog("a1", 7, Retries())
    log.take(event(None, id="a1", status="running", error={"message": "stopping"}))
    log.connection_ended(httpx.Response(200))
    assert resumes_after(log) == "7"
    log.take(event(8, id="a1", status="failed", error={"message": "no"}))
    log.connection_ended(BROKEN)
    assert log.next_request() is None


def test_the_log_is_complete_when_the_service_has_no_more_events() -> None:
    log = EventLog("a1", 7, Retries())
    log.connection_ended(httpx.Response(204))
    assert log.next_request() is None
