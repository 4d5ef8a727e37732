"""The client and its jobs, for asyncio. `sync_client.py` mirrors it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from httpx_sse import EventSource

from falconer.client.batches import AsyncBatches, AsyncFiles
from falconer.client.calls import (
    Calls,
    checked_url,
    default_url,
    headers_with,
    job_body,
    new_key,
    result_of,
)
from falconer.client.connections import LIMITS, AsyncConnection
from falconer.client.event_log import EventLog
from falconer.client.models import JobHandle, JobInfo, Prompt, RequestFields, TextDelta
from falconer.client.retries import DEFAULT_RETRIES, Retries
from shared.results import ChatResult


class AsyncJob(JobHandle):
    """A submitted job."""

    def __init__(self, connection: AsyncConnection, info: JobInfo) -> None:
        super().__init__(info)
        self._connection = connection

    async def refresh(self) -> JobInfo:
        """Ask for the present state."""
        self.info = await self._connection.run(self._connection.calls.get(self.id))
        return self.info

    async def wait(self, timeout: float | None = None) -> ChatResult:
        """Wait for the result, at most `timeout` seconds. Raises JobFailed and WaitTimeout."""
        if not self.status.is_terminal or self.info.result is None:
            self.info = await self._connection.run(self._connection.calls.wait(self.id, timeout))
        return result_of(self.info)

    async def stream(self, after: int | None = None) -> AsyncIterator[TextDelta]:
        """Yield each delta once, from the first or from the first `after` an index.

        A broken connection is resumed. Raises JobFailed at the end of a job without a result.
        """
        log = EventLog(self.id, after, self._connection.calls.retries)
        async for delta in self._connection.follow(
            log, lambda answer: EventSource(answer).aiter_sse()
        ):
            yield delta
        await self.wait()

    async def cancel(self) -> JobInfo:
        """Cancel the job. A job that has ended stays as it is."""
        self.info = await self._connection.run(self._connection.calls.cancel(self.id))
        return self.info

    async def retry(self) -> "AsyncJob":
        """Run a job that failed, expired or was cancelled again, and return the new job."""
        info = await self._connection.run(self._connection.calls.retry(self.id))
        return AsyncJob(self._connection, info)

    async def continue_(self, max_new_tokens: int) -> "AsyncJob":
        """Generate more tokens at the end of this job, and return the new job."""
        call = self._connection.calls.continue_(self.id, max_new_tokens)
        return AsyncJob(self._connection, await self._connection.run(call))

    async def fork(self, at: int, generate_kwargs: Mapping[str, Any] | None = None) -> "AsyncJob":
        """Generate another ending behind the first `at` tokens, and return the new job."""
        call = self._connection.calls.fork(self.id, at, generate_kwargs or {})
        return AsyncJob(self._connection, await self._connection.run(call))

    async def replay(self) -> "AsyncJob":
        """Run this job again, and return the new job; `info.replay` is the verdict at its end."""
        call = self._connection.calls.replay(self.id)
        return AsyncJob(self._connection, await self._connection.run(call))

    async def abandon(self) -> None:
        """Cancel the job unless its end is known. Failures are ignored."""
        if not self.status.is_terminal:
            await self._connection.run(self._connection.calls.abandon(self.id))


class AsyncClient:
    """An asynchronous client of one service, for any number of tasks.

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
        self._http = httpx.AsyncClient(
            base_url=checked_url(url or default_url()),
            headers=headers_with(api_key, headers),
            limits=LIMITS,
        )
        self._connection = AsyncConnection(self._http, Calls(retries))
        self.files = AsyncFiles(self._connection)
        self.batches = AsyncBatches(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def chat(
        self,
        prompt: Prompt | None = None,
        *,
        timeout: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> ChatResult:
        """Return the result of a text or of a conversation.

        CancelledError, WaitTimeout and other exceptions of the wait cancel the job. CancelledError
        cancels it also during the submission.
        """
        job = await self.submit(prompt, **fields)
        try:
            return await job.wait(timeout)
        finally:
            await job.abandon()

    async def submit(
        self,
        prompt: Prompt | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[RequestFields],
    ) -> AsyncJob:
        """Submit a job and return at once.

        Without an `idempotency_key` the client makes one, so that its own retries make one job
        and an interrupted submission cancels it.
        """
        calls, body = self._connection.calls, job_body(prompt, fields)
        key = new_key() if idempotency_key is None else idempotency_key
        try:
            return AsyncJob(self._connection, await self._connection.run(calls.submit(body, key)))
        except asyncio.CancelledError:
            if idempotency_key is None:
                await self._connection.run(calls.withdraw(body, key))
            raise

    async def job(self, job_id: str) -> AsyncJob:
        """Return a job by its id. Raises NotFound."""
        info = await self._connection.run(self._connection.calls.get(job_id))
        return AsyncJob(self._connection, info)

    async def jobs(self, status: str | None = None, *, limit: int = 50) -> AsyncIterator[JobInfo]:
        """Yield at most `limit` jobs, the newest first, without their results."""
        cursor = None
        while limit > 0:
            page = await self._connection.run(self._connection.calls.page(status, cursor, limit))
            for info in page.jobs[:limit]:
                yield info
            limit, cursor = limit - len(page.jobs), page.cursor
            if cursor is None:
                return
