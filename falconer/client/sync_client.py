"""The client and its jobs, for synchronous code. `async_client.py` mirrors it."""

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from httpx_sse import EventSource

from falconer.client.batches import Batches, Files
from falconer.client.calls import (
    Calls,
    checked_url,
    default_url,
    headers_with,
    job_body,
    new_key,
    result_of,
)
from falconer.client.connections import LIMITS, Connection
from falconer.client.event_log import EventLog
from falconer.client.models import JobHandle, JobInfo, Prompt, RequestFields, TextDelta
from falconer.client.retries import DEFAULT_RETRIES, Retries
from shared.results import ChatResult


class Job(JobHandle):
    """A submitted job."""

    def __init__(self, connection: Connection, info: JobInfo) -> None:
        super().__init__(info)
        self._connection = connection

    def refresh(self) -> JobInfo:
        """Ask for the present state."""
        self.info = self._connection.run(self._connection.calls.get(self.id))
        return self.info

    def wait(self, timeout: float | None = None) -> ChatResult:
        """Wait for the result, at most `timeout` seconds. Raises JobFailed and WaitTimeout."""
        if not self.status.is_terminal or self.info.result is None:
            self.info = self._connection.run(self._connection.calls.wait(self.id, timeout))
        return result_of(self.info)

    def stream(self, after: int | None = None) -> Iterator[TextDelta]:
        """Yield each delta once, from the first or from the first `after` an index.

        A broken connection is resumed. Raises JobFailed at the end of a job without a result.
        """
        log = EventLog(self.id, after, self._connection.calls.retries)
        yield from self._connection.follow(log, lambda answer: EventSource(answer).iter_sse())
        self.wait()

    def cancel(self) -> JobInfo:
        """Cancel the job. A job that has ended stays as it is."""
        self.info = self._connection.run(self._connection.calls.cancel(self.id))
        return self.info

    def retry(self) -> "Job":
        """Run a job that failed, expired or was cancelled again, and return the new job."""
        info = self._connection.run(self._connection.calls.retry(self.id))
        return Job(self._connection, info)

    def continue_(self, max_new_tokens: int) -> "Job":
        """Generate more tokens at the end of this job, and return the new job."""
        call = self._connection.calls.continue_(self.id, max_new_tokens)
        return Job(self._connection, self._connection.run(call))

    def fork(self, at: int, generate_kwargs: Mapping[str, Any] | None = None) -> "Job":
        """Generate another ending behind the first `at` tokens, and return the new job."""
        call = self._connection.calls.fork(self.id, at, generate_kwargs or {})
        return Job(self._connection, self._connection.run(call))

    def replay(self) -> "Job":
        """Run this job again, and return the new job; `info.replay` is the verdict at its end."""
        call = self._connection.calls.replay(self.id)
        return Job(self._connection, self._connection.run(call))

    def abandon(self) -> None:
        """Cancel the job unless its end is known. Failures are ignored."""
        if not self.status.is_terminal:
            self._connection.run(self._connection.calls.abandon(self.id))


class Client:
    """A client of one service, for any number of threads.

    `url` defaults to the variable FALCONER_URL, else http://127.0.0.1:8000, and `api_key` to
    FALCONER_API_KEY. `files` and `batches` have the calls of their names. Raises InvalidRequest for
    a `url` without http:// or https://, and for a key that no header can have.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        retries: Retries = DEFAULT_RETRIES,
    ) -> None:
        self._http = httpx.Client(
            base_url=checked_url(url or default_url()),
            headers=headers_with(api_key, headers),
            limits=LIMITS,
        )
        self._connection = Connection(self._http, Calls(retries))
        self.files = Files(self._connection)
        self.batches = Batches(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def chat(
        self,
        prompt: Prompt | None = None,
        *,
        timeout: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> ChatResult:
        """Return the result of a text or of a conversation.

        KeyboardInterrupt, WaitTimeout and other exceptions of the wait cancel the job.
        KeyboardInterrupt and SystemExit cancel it also during the submission.
        """
        job = self.submit(prompt, **fields)
        try:
            return job.wait(timeout)
        finally:
            job.abandon()

    def submit(
        self,
        prompt: Prompt | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[RequestFields],
    ) -> Job:
        """Submit a job and return at once.

        Without an `idempotency_key` the client makes one, so that its own retries make one job
        and an interrupted submission cancels it.
        """
        calls, body = self._connection.calls, job_body(prompt, fields)
        key = new_key() if idempotency_key is None else idempotency_key
        try:
            return Job(self._connection, self._connection.run(calls.submit(body, key)))
        except (KeyboardInterrupt, SystemExit):
            if idempotency_key is None:
                self._connection.run(calls.withdraw(body, key))
            raise

    def job(self, job_id: str) -> Job:
        """Return a job by its id. Raises NotFound."""
        info = self._connection.run(self._connection.calls.get(job_id))
        return Job(self._connection, info)

    def jobs(self, status: str | None = None, *, limit: int = 50) -> Iterator[JobInfo]:
        """Yield at most `limit` jobs, the newest first, without their results."""
        cursor = None
        while limit > 0:
            page = self._connection.run(self._connection.calls.page(status, cursor, limit))
            yield from page.jobs[:limit]
            limit, cursor = limit - len(page.jobs), page.cursor
            if cursor is None:
                return
