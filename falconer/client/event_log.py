"""The events of one job, read over any number of connections, without I/O."""

import time

import httpx
import msgspec
from httpx_sse import ServerSentEvent

from falconer.client.calls import Answer, ApiRequest, job_path
from falconer.client.errors import ApiError, Unavailable, decoded, error_of
from falconer.client.models import TextDelta
from falconer.client.retries import Attempts, Retries
from shared.protocol import JobStatus

SILENCE_S = 45.0  # the service sends a comment every 15 s
LASTING_S = 20.0  # a connection cut after it did not fail; a proxy may limit its duration


class EventData(msgspec.Struct):
    """The data of an event, a delta unless it has a `status`."""

    status: JobStatus | None = None
    sequence: int = 0
    delta: str = ""
    token_ids: list[int] = []


class EventLog:
    """The position in the events of a job; each delta is taken once."""

    def __init__(self, job_id: str, after: int | None, retries: Retries) -> None:
        self._job_id = job_id
        self._last_id = -1 if after is None else after
        self._attempts = Attempts(retries)
        self._pause_s = 0.0
        self._opened_at: float | None = None
        self._is_complete = False

    def next_request(self) -> ApiRequest | None:
        """Return the request for the rest of the events, or None after the terminal event."""
        if self._is_complete:
            return None
        self._opened_at = None
        headers = {"Accept": "text/event-stream"}
        if self._last_id >= 0:
            headers["Last-Event-ID"] = str(self._last_id)
        return ApiRequest(
            method="GET",
            path=job_path(self._job_id, "/events"),
            headers=headers,
            read_timeout_s=SILENCE_S,
            pause_s=self._pause_s,
        )

    def connection_opened(self) -> None:
        """Note that the service accepted the request."""
        self._opened_at = time.monotonic()

    def take(self, event: ServerSentEvent) -> TextDelta | None:
        """Return the delta of an event, if it is a new one."""
        if event.event != "message" or not event.data:  # a comment has no data
            return None
        data = decoded(event.data, EventData)
        if data.status is not None:  # `running` in the last event of a replica that stops
            self._is_complete = data.status.is_terminal
            self._attempts.restart()
            return None
        index = decoded(event.id, int)
        if index <= self._last_id:
            return None
        self._last_id = index
        self._attempts.restart()
        return TextDelta(
            index=index, sequence=data.sequence, text=data.delta, token_ids=data.token_ids
        )

    def connection_ended(self, answer: Answer) -> None:
        """Plan the next connection, unless the events are complete. Raises ApiError."""
        if self._is_complete:
            return
        if isinstance(answer, httpx.Response) and answer.status_code == httpx.codes.NO_CONTENT:
            self._is_complete = True  # the last index was the terminal event's
        else:
            if self._has_lasted(answer):
                self._attempts.restart()
            self._pause_s = self._attempts.pause_s(self._error_of(answer))

    def _has_lasted(self, answer: Answer) -> bool:
        """Return whether the connection served a while, and did not end in silence."""
        if self._opened_at is None or isinstance(answer, httpx.TimeoutException):
            return False
        return time.monotonic() - self._opened_at >= LASTING_S

    def _error_of(self, answer: Answer) -> ApiError:
        if isinstance(answer, httpx.Response) and answer.is_success:
            return Unavailable("the stream ended before the job", job_id=self._job_id)
        return error_of(answer)
