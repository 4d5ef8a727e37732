"""All errors of `shared`, which api and worker have in common, and their HTTP status codes.

`worker.engine` and `worker.model` import none of them and define their own errors.

    FalconerError
    ├── SettingsError           a setting is wrong: the process exits with this one line
    ├── BrokenChatTemplate      the template cannot be parsed; carries `line` if one is at fault
    ├── UnreadableJob           the payload is no job, or of a newer protocol version
    ├── JobFailed               raised by stock arq's `Job.result()` for a job without a result
    ├── ClientError             the client can correct it; carries `field` if one is at fault
    │   ├── BadRequest            400  a value that cannot be served (no prompt, too long)
    │   ├── InvalidParameter      422  a parameter outside its range, or unknown
    │   ├── Unauthorized          401  no valid API key; carries `headers`
    │   ├── Forbidden             403  the API key is no admin's; carries `headers`
    │   ├── NotFound              404  no such job
    │   ├── ModelNotFound         404  no such model or adapter
    │   ├── Conflict              409  idempotency key used with another body; nothing to retry
    │   ├── PayloadTooLarge       413
    │   ├── UnsupportedMediaType  415  the body is not JSON in UTF-8, or its coding is unknown
    │   ├── QueueFull             429  carries `retry_after_s`
    │   └── WaitTooLong           429  the deadline would pass first; carries `retry_after_s`
    ├── ServiceUnavailable      503  Redis is unreachable, or a part busy; carries `retry_after_s`
    └── WaitTimeout             504  the synchronous wait ended first; carries `job_id`
"""

from collections.abc import Mapping


class FalconerError(Exception):
    """Base class; the client may read `message`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(FalconerError):
    pass


class BrokenChatTemplate(FalconerError):
    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class UnreadableJob(FalconerError):
    pass


class JobFailed(FalconerError):
    pass


class ClientError(FalconerError):
    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.code = code  # below `/v1`, to distinguish errors of one status


class BadRequest(ClientError):
    pass


class InvalidParameter(ClientError):
    pass


class Unauthorized(ClientError):
    """Error with `headers` of the response, which name the scheme."""

    def __init__(self, message: str, *, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class Forbidden(Unauthorized):
    pass


class NotFound(ClientError):
    pass


class ModelNotFound(ClientError):
    pass


class Conflict(ClientError):
    pass


class PayloadTooLarge(ClientError):
    pass


class UnsupportedMediaType(ClientError):
    """Error with `headers` of the response, which name the accepted types."""

    def __init__(
        self, message: str, *, headers: Mapping[str, str], field: str | None = None
    ) -> None:
        super().__init__(message, field=field)
        self.headers = headers


class QueueFull(ClientError):
    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WaitTooLong(ClientError):
    def __init__(self, message: str, *, field: str, retry_after_s: int) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class ServiceUnavailable(FalconerError):
    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WaitTimeout(FalconerError):
    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


HTTP_STATUS: dict[type[FalconerError], int] = {
    BadRequest: 400,
    InvalidParameter: 422,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    ModelNotFound: 404,
    Conflict: 409,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    QueueFull: 429,
    WaitTooLong: 429,
    ServiceUnavailable: 503,
    WaitTimeout: 504,
}


def status_code(error: FalconerError) -> int:
    """Return the HTTP status of an error; 500 for errors that are not meant for clients."""
    return HTTP_STATUS.get(type(error), 500)
