"""Errors of the client, and how a response becomes one.

FalconerError
└── ApiError               any other status, or a response that is not Falconer's
    ├── InvalidRequest     400, 413, 415, 422: `field` must change
    ├── AccessDenied       401, 403: no valid API key, or not that of an admin
    ├── NotFound           404: no such job, model or adapter
    ├── Conflict           409: key used with another body; nothing to retry
    ├── TooManyRequests    429: the queue is full; `retry_after` seconds help
    ├── Unavailable        502, 503, 504, or no response: `status` is None
    ├── JobFailed          the job failed, expired or was cancelled; carries `job`
    ├── BatchFailed        the file of a batch was invalid; `errors` has a text per line
    └── WaitTimeout        the job or batch did not end within the `timeout` of the caller
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx
import msgspec

from falconer.client.models import JobInfo
from shared.errors import FalconerError

T = TypeVar("T")

MAX_SHOWN = 200  # characters of a response that is not Falconer's
FIELD = re.compile(r"([\w.-]+): ")  # begins the detail of an error that one field caused


class ApiError(FalconerError):
    """A request without the wanted result."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        field: str | None = None,
        retry_after: float | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; None without a response
        self.field = field  # of the request, such as `generate_kwargs.top_k`
        self.retry_after = retry_after  # seconds
        self.job_id = job_id

    @property
    def is_temporary(self) -> bool:
        """Return whether the same request may succeed later."""
        return isinstance(self, TooManyRequests | Unavailable)


class InvalidRequest(ApiError):
    pass


class AccessDenied(ApiError):
    pass


class NotFound(ApiError):
    pass


class Conflict(ApiError):
    pass


class TooManyRequests(ApiError):
    pass


class Unavailable(ApiError):
    pass


class WaitTimeout(ApiError):
    pass


class JobFailed(ApiError):
    """Error with the `job` in its final state. `status` is what `/chat` returns for it."""

    def __init__(self, job: JobInfo) -> None:
        error = job.error
        reason = f": {error.message}" if error else ""
        super().__init__(
            f"job {job.id} {VERBS.get(job.status, job.status)}{reason}",
            status=error.status_code if error else None,
            field=error.field if error else None,
            job_id=job.id,
        )
        self.job = job


class BatchFailed(ApiError):
    """A batch without results, because its file was invalid or was deleted."""

    def __init__(self, batch_id: str, errors: list[str]) -> None:
        rest = f"; {len(errors) - 1} more errors" if errors[1:] else ""
        super().__init__(f"batch {batch_id} failed: {errors[0]}{rest}")
        self.batch_id = batch_id
        self.errors = errors


VERBS = {"cancelled": "was cancelled"}
BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class OpenAIError(msgspec.Struct):
    message: str
    param: str | None = None


class ErrorBody(msgspec.Struct):
    """The body of an error; below `/v1` it has an `error` and no `detail`."""

    detail: str = ""
    error: OpenAIError | None = None
    id: str | None = None  # of the job


def error_of(answer: httpx.Response | httpx.TransportError) -> ApiError:
    """Return the error of an unsuccessful response, or of a connection without one."""
    if isinstance(answer, httpx.TransportError):
        return Unavailable(unreachable(answer))
    status = answer.status_code
    try:
        body = msgspec.json.decode(answer.content, type=ErrorBody)
    except msgspec.DecodeError:  # of a proxy, perhaps
        shown = answer.text[:MAX_SHOWN].strip()
        body = ErrorBody(f"HTTP {status} {answer.reason_phrase}" + f": {shown}" * bool(shown))
    if not (body.detail or body.error):
        body.detail = f"HTTP {status} {answer.reason_phrase}"
    found = FIELD.match(body.detail)
    error = body.error or OpenAIError(body.detail, found[1] if found else None)
    return BY_STATUS.get(status, ApiError)(
        error.message,
        status=status,
        field=error.param,
        retry_after=retry_after_of(answer),
        job_id=body.id,
    )


def unreachable(error: httpx.TransportError) -> str:
    """Return why no response came, with the address of the service if the error has it."""
    address = "the service"
    with suppress(RuntimeError):  # the error has no request
        url = error.request.url
        address = f"{url.scheme}://{url.netloc.decode()}"
    return f"no answer from {address}: {error or type(error).__name__}"


def retry_after_of(response: httpx.Response) -> float | None:
    """Return the seconds of `Retry-After`, which may also be a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        due = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (due.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def decoded(content: str | bytes, kind: type[T]) -> T:
    """Decode a JSON text of the service. Raises ApiError for another content."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(f"the answer is not Falconer's: {error}") from error
