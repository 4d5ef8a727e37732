"""Every failure Falconer names, in one tree.

FalconerError
├── SettingsError           a wrong setting: the start stops with one line
├── BrokenChatTemplate      it cannot be parsed; carries `line` where one is to blame
├── ClientError             the caller can mend it; carries `field` where one is to blame
│   ├── BadRequest            400  a value that cannot be served (no prompt, too long)
│   ├── InvalidParameter      422  a parameter outside its range, or unknown
│   ├── NotFound              404  no such job
│   ├── ModelNotFound         404  no such model or adapter
│   ├── Conflict              409  idempotency key reused with another body; nothing to retry
│   ├── PayloadTooLarge       413
│   ├── UnsupportedMediaType  415  the body is not JSON in UTF-8, or its coding is unknown
│   ├── QueueFull             429  carries `retry_after_s`
│   └── WaitTooLong           429  its deadline would pass first; carries `retry_after_s`
├── ServiceUnavailable      503  Redis is out of reach, or a part is busy; carries `retry_after_s`
└── WaitTimeout             504  the synchronous wait ended first; carries `job_id`
"""

from collections.abc import Mapping


class FalconerError(Exception):
    """Base of all; `message` is fit for the caller to read."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(FalconerError):
    pass


class BrokenChatTemplate(FalconerError):
    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


class ClientError(FalconerError):
    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class BadRequest(ClientError):
    pass


class InvalidParameter(ClientError):
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
    """`headers` of the answer name what is accepted."""

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
    """What the caller of a failed request gets; 500 for what no caller should see."""
    return HTTP_STATUS.get(type(error), 500)
