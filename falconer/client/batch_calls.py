"""The calls of files and batches, and the parts of a download, without I/O."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from falconer.client.batch_models import (
    BatchInfo,
    BatchPage,
    BatchResult,
    BatchSource,
    FileInfo,
    FilePage,
    endpoint_of,
    jsonl_file,
)
from falconer.client.calls import (
    ANSWER_S,
    CONNECT_S,
    MARGIN_S,
    Answer,
    ApiRequest,
    Call,
    Calls,
)
from falconer.client.errors import ApiError, InvalidRequest, WaitTimeout, decoded, error_of
from falconer.client.retries import Attempts, Retries

FIRST_PAUSE_S = 0.5  # between two looks at a batch; doubles
MAX_PAUSE_S = 5.0
MAX_PAGE = 100
REQUESTS_NAME = "requests.jsonl"  # of a file made from requests
DOWNLOAD_S = 60.0  # until the next part of a file


def file_path(file_id: str, suffix: str = "") -> str:
    return f"/v1/files/{quote(file_id, safe='')}{suffix}"


def batch_path(batch_id: str, suffix: str = "") -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}{suffix}"


class BatchCalls:
    """The calls of files and batches of one client."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def upload(self, path: Path) -> Call[FileInfo]:
        """Upload a file. A repeated upload may leave a second file, until it expires."""
        with jsonl_file(path, None) as file:
            return (yield from self._upload(path.name, file))

    def _upload(self, name: str, file: BinaryIO) -> Call[FileInfo]:
        response = yield from self._calls.answer(
            ApiRequest(
                method="POST",
                path="/v1/files",
                files={"file": (name, file, "application/jsonl")},
                data={"purpose": "batch"},
            )
        )
        return decoded(response.content, FileInfo)

    def body(
        self,
        source: BatchSource,
        endpoint: str | None,
        window: str,
        metadata: Mapping[str, str] | None,
        key: str | None,
    ) -> Call[dict[str, Any]]:
        """Return the body of a creation, once its file is uploaded. Raises InvalidRequest.

        A second upload gives the file another id, so a key finds a batch of a stored file only.
        """
        if isinstance(source, FileInfo):
            stored = source
        elif key is not None:
            message = "idempotency_key: the source must be a stored file, see client.files.upload"
            raise InvalidRequest(message, field="idempotency_key")
        else:
            name = source.name if isinstance(source, Path) else REQUESTS_NAME
            with jsonl_file(source, endpoint) as file:
                endpoint = endpoint or endpoint_of(file)
                stored = yield from self._upload(name, file)
        if endpoint is None:
            raise InvalidRequest("endpoint: must be given for a stored file", field="endpoint")
        return {
            "input_file_id": stored.id,
            "endpoint": endpoint,
            "completion_window": window,
            "metadata": metadata,
        }

    def file(self, file_id: str) -> Call[FileInfo]:
        response = yield from self._calls.answer(ApiRequest(method="GET", path=file_path(file_id)))
        return decoded(response.content, FileInfo)

    def delete_file(self, file_id: str) -> Call[None]:
        """Delete a file. A repeated deletion finds none, which is no error."""
        request = ApiRequest(method="DELETE", path=file_path(file_id))
        yield from self._calls.answer(request, accepted=(httpx.codes.NOT_FOUND,))

    def file_page(self, after: str | None, limit: int) -> Call[FilePage]:
        response = yield from self._calls.answer(page_request("/v1/files", after, limit))
        return decoded(response.content, FilePage)

    def create(self, body: Mapping[str, Any], key: str) -> Call[BatchInfo]:
        """Create one batch, however often the request must be repeated."""
        headers = {"Idempotency-Key": key}
        return self._batch(
            ApiRequest(method="POST", path="/v1/batches", body=body, headers=headers)
        )

    def withdraw(self, body: Mapping[str, Any], key: str) -> Call[None]:
        """Cancel the batch of an interrupted creation; try once, and raise nothing."""
        once = BatchCalls(Calls(Retries(attempts=1)))
        try:
            batch = yield from once.create(body, key)
            yield from once.cancel(batch.id)
        except ApiError:
            return

    def get(self, batch_id: str) -> Call[BatchInfo]:
        return self._batch(ApiRequest(method="GET", path=batch_path(batch_id)))

    def cancel(self, batch_id: str) -> Call[BatchInfo]:
        return self._batch(ApiRequest(method="POST", path=batch_path(batch_id, "/cancel")))

    def page(self, after: str | None, limit: int) -> Call[BatchPage]:
        response = yield from self._calls.answer(page_request("/v1/batches", after, limit))
        return decoded(response.content, BatchPage)

    def wait(self, batch_id: str, timeout_s: float | None) -> Call[BatchInfo]:
        """Poll until the batch has ended. Raises WaitTimeout, or the error of failed polls."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        attempts = Attempts(self._calls.retries)
        pause_s, next_pause_s = 0.0, FIRST_PAUSE_S
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            pause_s = min(pause_s, left_s)
            late_s = left_s - pause_s + MARGIN_S
            answer = yield ApiRequest(
                method="GET",
                path=batch_path(batch_id),
                read_timeout_s=min(ANSWER_S, late_s),
                connect_timeout_s=min(CONNECT_S, late_s),
                pause_s=pause_s,
            )
            if isinstance(answer, httpx.Response) and answer.is_success:
                batch = decoded(answer.content, BatchInfo)
                if batch.status.is_final:
                    return batch
                attempts.restart()
                pause_s, next_pause_s = next_pause_s, min(2 * next_pause_s, MAX_PAUSE_S)
            else:
                pause_s = attempts.pause_s(error_of(answer))
            if time.monotonic() >= deadline:
                raise WaitTimeout(f"batch {batch_id} did not end within {timeout_s:g} s")

    def _batch(self, request: ApiRequest) -> Call[BatchInfo]:
        response = yield from self._calls.answer(request)
        return decoded(response.content, BatchInfo)


def page_request(path: str, after: str | None, limit: int) -> ApiRequest:
    params = {"limit": min(limit, MAX_PAGE), **({} if after is None else {"after": after})}
    return ApiRequest(method="GET", path=path, params=params)


class Download:
    """The contents of a file over any number of connections; each byte is taken once."""

    def __init__(self, file_id: str, retries: Retries) -> None:
        self._file_id = file_id
        self._attempts = Attempts(retries)
        self._pause_s = 0.0
        self._num_taken = 0
        self._num_skipped = 0  # of the present connection
        self._is_complete = False

    def next_request(self) -> ApiRequest | None:
        """Return the request for the file, from its start; None once all of it is taken."""
        if self._is_complete:
            return None
        self._num_skipped = 0
        return ApiRequest(
            method="GET",
            path=file_path(self._file_id, "/content"),
            read_timeout_s=DOWNLOAD_S,
            pause_s=self._pause_s,
        )

    def connection_opened(self) -> None:
        pass

    def take(self, part: bytes) -> bytes | None:
        """Return the bytes that no earlier connection delivered, if there are any."""
        known = min(len(part), self._num_taken - self._num_skipped)
        self._num_skipped += known
        if known == len(part):
            return None
        self._num_taken += len(part) - known
        self._num_skipped = self._num_taken
        self._attempts.restart()
        return part[known:]

    def connection_ended(self, answer: Answer) -> None:
        """Plan the next connection, unless the file is complete. Raises ApiError."""
        if isinstance(answer, httpx.Response) and answer.is_success:
            self._is_complete = True
        else:
            self._pause_s = self._attempts.pause_s(error_of(answer))


class ResultLines:
    """The results in a file that arrives in parts."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, part: bytes) -> Iterator[BatchResult]:
        """Yield the results whose lines end in this part. Raises ApiError."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            yield decoded(line, BatchResult)
