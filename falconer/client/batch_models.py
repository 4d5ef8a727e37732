"""Files and batches as the service returns them, and the files that clients send."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from falconer.client.errors import InvalidRequest
from shared.batches.status import BatchStatus

CHAT_COMPLETIONS = "/v1/chat/completions"
MAX_FIRST_LINE = 16 * 1024 * 1024  # bytes


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A stored file. Times are Unix seconds."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int


class RequestCounts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0  # with an answer
    failed: int = 0  # with an error


class BatchUsage(msgspec.Struct, frozen=True):
    """The tokens of all lines with an answer."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class LineError(msgspec.Struct, frozen=True):
    """Why a line makes its file invalid."""

    code: str
    message: str
    line: int | None = None  # from 1
    param: str | None = None


class LineErrors(msgspec.Struct, frozen=True):
    data: list[LineError]


class BatchInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as the service described it. Times are Unix seconds."""

    id: str
    status: BatchStatus
    endpoint: str
    completion_window: str
    input_file_id: str
    output_file_id: str | None = None  # both once the batch has ended, if they have lines
    error_file_id: str | None = None
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage = BatchUsage()
    model: str | None = None
    metadata: Mapping[str, str] | None = None
    errors: LineErrors | None = None


class LineResponse(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str  # the id of the job, or of its first one
    body: dict[str, Any]


class NoResponse(msgspec.Struct, frozen=True):
    """Why a line has no response, for example `batch_expired`."""

    code: str
    message: str


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one line: the response of its route, or the error why there is none."""

    custom_id: str
    response: LineResponse | None = None
    error: NoResponse | None = None

    @property
    def body(self) -> dict[str, Any] | None:
        """Return the answer; None for a line that failed."""
        if self.response is None or self.response.status_code >= 400:
            return None
        return self.response.body


class FilePage(msgspec.Struct, frozen=True):
    data: list[FileInfo]
    has_more: bool = False


class BatchPage(msgspec.Struct, frozen=True):
    data: list[BatchInfo]
    has_more: bool = False


# A file on disk, a stored file, or requests: `custom_id`, `body`, and `url` unless it is the
# endpoint of the batch.
BatchSource = Path | FileInfo | Iterable[Mapping[str, Any]]


class BatchHandle:
    """A batch by its id. `info` is its state when the service last described it."""

    def __init__(self, info: BatchInfo) -> None:
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def status(self) -> BatchStatus:
        return self.info.status


@contextmanager
def jsonl_file(
    source: Path | Iterable[Mapping[str, Any]], endpoint: str | None
) -> Iterator[BinaryIO]:
    """Open the file of a batch; write requests into a temporary file first."""
    if isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as error:
            message = f"file: {source} must be readable: {error.strerror}"
            raise InvalidRequest(message, field="file") from error
        with file:
            yield file
        return
    with tempfile.TemporaryFile() as written:
        for request in source:
            line = {"method": "POST", "url": endpoint or CHAT_COMPLETIONS, **request}
            written.write(msgspec.json.encode(line) + b"\n")
        written.seek(0)
        yield written


def endpoint_of(file: BinaryIO) -> str:
    """Return the `url` of a file's first request, that of chats if it has none."""
    for line in iter(lambda: file.readline(MAX_FIRST_LINE), b""):
        if line.strip():
            try:
                request = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
            except msgspec.DecodeError:
                break  # the service names each wrong line
            url = request.get("url") if isinstance(request, dict) else None
            return url if isinstance(url, str) else CHAT_COMPLETIONS
    return CHAT_COMPLETIONS
