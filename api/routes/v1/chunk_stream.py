"""Stream the jobs of a request below `/v1` as the chunks of OpenAI's interface."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Generic

import msgspec
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.disconnect import ClientConnection
from api.http.errors import ClientDisconnected, ServerStopping, stopping_message
from api.openai.answers import Answer
from api.openai.schemas import OpenAIErrorBody, openai_error
from api.openai.view import AnswerView, MakeView, T
from api.routes.sse import KEEP_ALIVE, KEEP_ALIVE_S, event
from api.routes.v1.request_jobs import RequestJobs
from shared.errors import HTTP_STATUS, ServiceUnavailable
from shared.process.asyncio_tasks import cancel_all
from shared.protocol import Delta, Event, JobError, Succeeded, TokenDeltas
from shared.results import ChatResult

DONE = b"data: [DONE]\n\n"


class ChunkStreamResponse(Response):
    """Send chunks about the jobs of a request, and close their handles."""

    media_type = "text/event-stream"

    def __init__(self, request: Request, jobs: RequestJobs, chunks: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers | jobs.headers(request))
        del self.headers["content-length"]
        self._jobs = jobs
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._jobs:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                client = ClientConnection(receive, self._jobs.services.stopping)
                await client.run_until_disconnect(self._send_chunks(send))
            except ClientDisconnected:
                await self._jobs.cancel_unless_found()
            except ServerStopping:
                message = stopping_message(*self._jobs.job_ids)
                error = openai_error(HTTP_STATUS[ServiceUnavailable], message)
                await send({"type": "http.response.body", "body": encoded(error)})

    async def _send_chunks(self, send: Send) -> None:
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class ChunkStream(Generic[T]):
    """The server-sent events of one response: chunks, then `[DONE]`."""

    def __init__(self, jobs: RequestJobs, view: MakeView[T], body: T) -> None:
        self._jobs = jobs
        self._view = view
        self._body = body
        self._results: dict[int, ChatResult] = {}
        self._shown: set[tuple[int, int]] = set()  # sequences with a chunk: job, index
        self._finished: set[tuple[int, int]] = set()  # sequences with a finish reason

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the chunks of all jobs as they come, and comments while there is none."""
        sent_at = time.monotonic()
        view: AnswerView[T] | None = None
        async for job, news in merged_events(self._jobs):
            if news is None:
                if time.monotonic() - sent_at >= KEEP_ALIVE_S:
                    sent_at = time.monotonic()
                    yield KEEP_ALIVE
                continue
            is_first = view is None
            view = view or self._view(self._body, await self._jobs.head())
            if isinstance(news, TokenDeltas | Succeeded):
                view.observe(job, news)
            if is_first:
                for chunk in self._opening(view):
                    yield encoded(chunk)
            if not isinstance(news, TokenDeltas | Succeeded):
                await self._jobs.cancel()
                yield encoded(self._error(news.error))
                break
            for chunk in self._chunks_of(view, job, news):
                yield encoded(chunk)
            sent_at = time.monotonic()
        else:
            assert view is not None
            for chunk in view.closing([self._results[job] for job in sorted(self._results)]):
                yield encoded(chunk)
        yield DONE

    def _error(self, error: JobError) -> OpenAIErrorBody:
        code = "model_not_found" if error.status_code == 404 else None
        param = self._body.field_name(error.field)
        return openai_error(error.status_code, error.message, param=param, code=code)

    def _opening(self, view: AnswerView[T]) -> Iterator[Answer]:
        for job, handle in enumerate(self._jobs.handles):
            yield from view.opening(job, handle.prompt_token_ids)

    def _chunks_of(
        self, view: AnswerView[T], job: int, news: TokenDeltas | Succeeded
    ) -> Iterator[Answer]:
        if isinstance(news, Succeeded):
            self._results[job] = news.result
            yield from self._rest(view, job, news.result)
            return
        for delta in news.deltas:
            self._shown.add((job, delta.sequence))
            if delta.finish_reason is not None:
                self._finished.add((job, delta.sequence))
            chunk = view.chunk(job, delta)
            if chunk is not None:
                yield chunk

    def _rest(self, view: AnswerView[T], job: int, result: ChatResult) -> Iterator[Answer]:
        """Yield the sequences without a finish reason: of beams, and of jobs without a log."""
        for index, sequence in enumerate(result.sequences):
            if (job, index) in self._finished:
                continue
            if (job, index) not in self._shown:
                yield view.whole(job, result, index)
                continue
            reason = sequence.finish_reason
            chunk = view.chunk(job, Delta(sequence=index, token_ids=[], finish_reason=reason))
            if chunk is not None:
                yield chunk


async def merged_events(jobs: RequestJobs) -> AsyncIterator[tuple[int, Event | None]]:
    """Yield the events of all jobs with the job's index, each job's in order, to the last end.

    Raises what the events of a job raise.
    """
    if len(jobs.handles) == 1:
        async for news in jobs.handles[0].events():
            yield 0, news
        return
    events: asyncio.Queue[tuple[int, Event | None] | Exception] = asyncio.Queue(
        maxsize=len(jobs.handles)
    )

    async def follow(job: int) -> None:
        try:
            async for news in jobs.handles[job].events():
                await events.put((job, news))
        except Exception as error:
            await events.put(error)  # else the response would wait for this job for ever

    tasks = [asyncio.create_task(follow(job)) for job in range(len(jobs.handles))]
    num_running = len(tasks)
    try:
        while num_running:
            item = await events.get()
            if isinstance(item, Exception):
                raise item
            job, news = item
            num_running -= news is not None and not isinstance(news, TokenDeltas)
            yield job, news
    finally:
        await cancel_all(tasks)


def encoded(body: Answer | OpenAIErrorBody) -> bytes:
    return event(msgspec.to_builtins(body))
