"""The calls of the interface, without I/O.

A call is a generator that yields requests and gets the answers. `Client` and `AsyncClient` drive
it: they send each request after its pause, and return what the generator returns.
"""

import math
import os
import time
import uuid
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx

from falconer.client.errors import (
    ApiError,
    InvalidRequest,
    JobFailed,
    WaitTimeout,
    decoded,
    error_of,
)
from falconer.client.models import JobInfo, JobPage, Prompt, RequestFields
from falconer.client.retries import Attempts, Retries
from shared.results import ChatResult

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "FALCONER_URL"
KEY_VARIABLE = "FALCONER_API_KEY"
ANSWER_S = 30.0  # until the answer to a request that waits for no job
CONNECT_S = 10.0
LATE_S = 10.0  # by which the answer to a poll may come after its time
MARGIN_S = 1.0  # by which the last answer may come after the timeout of a wait
LONG_POLL_S = 30.0  # below the idle timeout of common proxies
MAX_POLLS = 100  # at a time, of one client for asyncio; the pool of httpx is slow with more
CROWDED_POLL_S = 1.0  # while more calls wait than may poll at a time
EARLY_PAUSE_S = 0.5  # after an answer before its time, which a stopping replica gives
MAX_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    files: Mapping[str, Any] | None = None  # instead of a body
    data: Mapping[str, str] | None = None  # next to files
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    read_timeout_s: float = ANSWER_S
    connect_timeout_s: float = CONNECT_S
    pause_s: float = 0.0  # before it is sent
    turn_s: float | None = None  # by which a long poll must have had its turn

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `request` and `stream` of an httpx client."""
        return {
            "method": self.method,
            "url": self.path,
            "json": self.body,
            "files": self.files,
            "data": self.data,
            "params": self.params,
            "headers": self.headers,
            "timeout": httpx.Timeout(self.read_timeout_s, connect=self.connect_timeout_s),
        }


Answer: TypeAlias = httpx.Response | httpx.TransportError
Call: TypeAlias = Generator[ApiRequest, Answer, T]


def job_path(job_id: str, suffix: str = "") -> str:
    return f"/jobs/{quote(job_id, safe='')}{suffix}"


def poll(
    job_id: str, longest_s: float, left_s: float, pause_s: float = 0.0, turn_s: float | None = None
) -> ApiRequest:
    """Return the request for a job at its end, at the latest after the time left.

    A request with `turn_s` takes a turn; its answer is `httpx.PoolTimeout` if none came by then.
    """
    pause_s = min(pause_s, left_s)
    left_s -= pause_s
    wait_s = min(longest_s, left_s)
    return ApiRequest(
        method="GET",
        path=job_path(job_id),
        params={"wait": f"{wait_s:.3f}"},
        read_timeout_s=min(wait_s + LATE_S, left_s + MARGIN_S),
        connect_timeout_s=min(CONNECT_S, left_s + MARGIN_S),
        pause_s=pause_s,
        turn_s=None if turn_s is None else min(turn_s, left_s),
    )


def job_body(prompt: Prompt | None, fields: RequestFields) -> dict[str, Any]:
    """Return the body of a request for text."""
    if prompt is None:
        return {**fields}
    return {"prompt" if isinstance(prompt, str) else "messages": prompt, **fields}


def new_key() -> str:
    return uuid.uuid4().hex


def result_of(job: JobInfo) -> ChatResult:
    """Return the result of a job that has ended. Raises JobFailed."""
    if job.result is None:
        raise JobFailed(job)
    return job.result


def default_url() -> str:
    return os.environ.get(URL_VARIABLE) or DEFAULT_URL


def headers_with(api_key: str | None, headers: Mapping[str, str] | None) -> httpx.Headers:
    """Return the headers of every request; an `Authorization` among them replaces the key.

    Raises InvalidRequest for a key that no header can carry.
    """
    key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
    if key and not (key.isascii() and key.isprintable()):
        raise InvalidRequest("api_key: must be printable ASCII", field="api_key")
    merged = httpx.Headers({"Authorization": f"Bearer {key}"} if key else {})
    merged.update(headers)
    return merged


def checked_url(url: str) -> httpx.URL:
    """Return the base address. Raises InvalidRequest for an address that is not HTTP."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"url: {error}, got {url!r}", field="url") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest(
            f"url: must begin with http:// or https:// and a host, got {url!r}", field="url"
        )
    return parsed


class Calls:
    """All calls of one client; `retries` limits each of them."""

    def __init__(self, retries: Retries) -> None:
        self.retries = retries
        self._num_waiting = 0

    def submit(self, body: Mapping[str, Any], key: str) -> Call[JobInfo]:
        """Submit one job, however often the request must be repeated."""
        headers = {"Idempotency-Key": key}
        request = ApiRequest(method="POST", path="/jobs", body=body, headers=headers)
        return self._job(request)

    def get(self, job_id: str) -> Call[JobInfo]:
        return self._job(ApiRequest(method="GET", path=job_path(job_id)))

    def cancel(self, job_id: str) -> Call[JobInfo]:
        return self._job(ApiRequest(method="DELETE", path=job_path(job_id)))

    def abandon(self, job_id: str) -> Call[JobInfo | None]:
        """Cancel a job whose caller leaves; try once, and raise nothing."""
        try:
            return (yield from Calls(Retries(attempts=1)).cancel(job_id))
        except ApiError:
            return None

    def withdraw(self, body: Mapping[str, Any], key: str) -> Call[None]:
        """Cancel the job of an interrupted submission; try once, and raise nothing.

        A repeated submission finds the job. If there is none, it makes one and cancels it.
        """
        try:
            job = yield from Calls(Retries(attempts=1)).submit(body, key)
        except ApiError:
            return
        yield from self.abandon(job.id)

    def retry(self, job_id: str) -> Call[JobInfo]:
        """Retry a job. The service returns the same new job to a repeated request."""
        return self._job(ApiRequest(method="POST", path=job_path(job_id, "/retry")))

    def continue_(self, job_id: str, max_new_tokens: int) -> Call[JobInfo]:
        """Continue a job. Tried once: a repeated request would make another job."""
        return self._derived(job_id, "/continue", {"max_new_tokens": max_new_tokens})

    def fork(self, job_id: str, at: int, kwargs: Mapping[str, Any]) -> Call[JobInfo]:
        """Fork a job. Tried once, as `continue_`."""
        return self._derived(job_id, "/fork", {"at": at, "generate_kwargs": kwargs})

    def replay(self, job_id: str) -> Call[JobInfo]:
        """Replay a job. Tried once, as `continue_`."""
        return self._derived(job_id, "/replay", None)

    def _derived(self, job_id: str, route: str, body: Mapping[str, Any] | None) -> Call[JobInfo]:
        request = ApiRequest(method="POST", path=job_path(job_id, route), body=body)
        return Calls(Retries(attempts=1))._job(request)

    def wait(self, job_id: str, timeout_s: float | None) -> Call[JobInfo]:
        """Poll until the job ends. Raises WaitTimeout, or the error of too many failed polls."""
        self._num_waiting += 1
        try:
            return (yield from self._wait(job_id, timeout_s))
        finally:
            self._num_waiting -= 1

    def _wait(self, job_id: str, timeout_s: float | None) -> Call[JobInfo]:
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        attempts = Attempts(self.retries, deadline)
        pause_s = 0.0
        while True:
            started = time.monotonic()
            left_s = max(0.0, deadline - started)
            is_crowded = self._num_waiting > MAX_POLLS
            longest_s = CROWDED_POLL_S if is_crowded else LONG_POLL_S
            turn_s = CROWDED_POLL_S * self._num_waiting / MAX_POLLS
            answer = yield poll(job_id, longest_s, left_s, pause_s, turn_s)
            if isinstance(answer, httpx.PoolTimeout):  # earlier polls may last LONG_POLL_S
                answer = yield poll(job_id, 0.0, max(0.0, deadline - time.monotonic()))
            now = time.monotonic()
            if isinstance(answer, httpx.Response) and answer.is_success:
                job = decoded(answer.content, JobInfo)
                if job.status.is_terminal:
                    return job
                attempts.restart()
                pause_s = EARLY_PAUSE_S if now - started < min(longest_s, left_s) else 0.0
            else:
                error = error_of(answer)
                if now < deadline or not error.is_temporary:
                    pause_s = attempts.pause_s(error)
            if now >= deadline:
                message = f"job {job_id} did not end within {timeout_s:g} s"
                raise WaitTimeout(message, job_id=job_id)

    def page(self, status: str | None, cursor: str | None, limit: int) -> Call[JobPage]:
        """Return one page of the list, after the page that had `cursor`."""
        filters = {"status": status, "cursor": cursor, "limit": min(limit, MAX_PAGE)}
        params = {name: value for name, value in filters.items() if value is not None}
        response = yield from self.answer(ApiRequest(method="GET", path="/jobs", params=params))
        return decoded(response.content, JobPage)

    def _job(self, request: ApiRequest) -> Call[JobInfo]:
        response = yield from self.answer(request)
        return decoded(response.content, JobInfo)

    def answer(self, request: ApiRequest, accepted: Collection[int] = ()) -> Call[httpx.Response]:
        """Repeat a request until it succeeds, within the limits. Raises ApiError.

        A repeated request may also get an `accepted` status: the first one may have succeeded.
        """
        attempts = Attempts(self.retries)
        is_repeated = False
        while True:
            answer = yield request
            if isinstance(answer, httpx.Response) and (
                answer.is_success or (is_repeated and answer.status_code in accepted)
            ):
                return answer
            request = replace(request, pause_s=attempts.pause_s(error_of(answer)))
            is_repeated = True
