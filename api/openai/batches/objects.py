"""The objects of `/v1/files` and `/v1/batches`, as OpenAI's interface shows them."""

from typing import Any, Generic, Literal, Self, TypeVar

import msgspec

from shared.batches.batches import Batch
from shared.batches.files import StoredFile
from shared.batches.status import BatchStatus

T = TypeVar("T")


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file; times are Unix seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None

    @classmethod
    def of(cls, file: StoredFile) -> Self:
        return cls(
            id=file.id,
            bytes=file.num_bytes,
            created_at=file.created_at,
            expires_at=file.expires_at,
            filename=file.filename,
            purpose=file.purpose,
        )


class DeletedFile(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the deletion of a file."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a line makes the file of a batch invalid."""

    code: str
    line: int | None  # from 1
    message: str
    param: str | None = None


class LineErrorList(msgspec.Struct, frozen=True, kw_only=True):
    """The first errors of a file."""

    object: Literal["list"] = "list"
    data: list[LineError]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of lines: of the file, with an answer, and with an error."""

    total: int
    completed: int
    failed: int


class CachedTokens(msgspec.Struct, frozen=True, kw_only=True):
    cached_tokens: int


class ReasoningTokens(msgspec.Struct, frozen=True, kw_only=True):
    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of all lines with an answer."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch; times are Unix seconds, null before they come."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: LineErrorList | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        spec, counts = batch.spec, batch.counts
        has_ended = batch.status in (BatchStatus.COMPLETED, BatchStatus.EXPIRED)
        has_ended = has_ended or batch.status is BatchStatus.CANCELLED
        errors = batch.errors and msgspec.json.decode(batch.errors, type=list[LineError])
        return cls(
            id=spec.id,
            endpoint=spec.endpoint,
            model=batch.model,
            errors=LineErrorList(data=errors) if errors else None,
            input_file_id=spec.input_file_id,
            completion_window=spec.completion_window,
            status=batch.status,
            output_file_id=spec.output_file_id if has_ended and counts.get("completed") else None,
            error_file_id=spec.error_file_id if has_ended and counts.get("failed") else None,
            created_at=spec.created_at,
            expires_at=spec.expires_at,
            request_counts=RequestCounts(
                total=counts.get("total", 0),
                completed=counts.get("completed", 0),
                failed=counts.get("failed", 0),
            ),
            usage=usage_of(counts),
            metadata=spec.metadata,
            **times_of(batch),
        )


def times_of(batch: Batch) -> dict[str, Any]:
    """Return when the batch got each status, None for a status that it did not get."""
    statuses = [status for status in BatchStatus if status is not BatchStatus.VALIDATING]
    return {f"{status}_at": batch.times.get(f"{status}_at") for status in statuses}


def usage_of(counts: dict[str, int]) -> BatchUsage:
    num_input, num_output = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
    return BatchUsage(
        input_tokens=num_input,
        input_tokens_details=CachedTokens(cached_tokens=counts.get("cached_tokens", 0)),
        output_tokens=num_output,
        output_tokens_details=ReasoningTokens(),
        total_tokens=num_input + num_output,
    )


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None  # the next page begins after it
    has_more: bool


class FilePage(Page[FileObject], frozen=True, kw_only=True):
    """A page of files."""


class BatchPage(Page[BatchObject], frozen=True, kw_only=True):
    """A page of batches."""
